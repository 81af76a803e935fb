"""Writes the next revision of the ledger's tables: `python tools/make_migration.py <name>`.

It makes a database with the revisions that are there, compares it with the tables in
`ledger/store/**/*tables.py`, and writes the difference to ledger/store/migrations/versions/. Read
what it wrote: Alembic sees neither renames nor changed CHECK constraints, and a new column of a
table that has rows needs a `server_default`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from alembic.autogenerate import produce_migrations, render_python_code  # noqa: E402
from alembic.migration import MigrationContext  # noqa: E402
from alembic.operations.ops import CreateTableOp  # noqa: E402
from sqlalchemy import create_engine  # noqa: E402

from ledger.store.schema import VERSION_TABLE, newest_revision, tables, upgrade  # noqa: E402
from ledger.store.tables import IMMUTABLE  # noqa: E402

VERSIONS = ROOT / "ledger" / "store" / "migrations" / "versions"
TEMPLATE = '''"""{title}."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
{imports}
revision = "{revision}"
down_revision = "{previous}"


def upgrade() -> None:
    """Change them."""
{body}
'''


def main(name: str) -> int:
    """Write the revision; 1 if there is nothing to write."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        upgrade(connection)
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        operations = produce_migrations(context, tables()).upgrade_ops
    engine.dispose()
    assert operations is not None
    if operations.is_empty():
        print("the tables and the revisions agree", file=sys.stderr)
        return 1
    text = render_python_code(operations)
    body = "\n".join("    " + line.strip() for line in text.splitlines() if "###" not in line)
    body = re.sub(r"op\.f\(('\w+')\)", r"\1", body)
    immutable = {table.name for table in IMMUTABLE}
    made = [op.table_name for op in operations.ops if isinstance(op, CreateTableOp)]
    imports = ""
    if fixed := [name for name in made if name in immutable]:
        imports = "\nfrom ledger.store.triggers import make_immutable\n"
        names = ", ".join(f'"{name}"' for name in fixed)
        body += f"\n    make_immutable(op.get_bind(), {names})"
    previous = newest_revision()
    revision = f"{int(previous) + 1:04d}"
    path = VERSIONS / f"m{revision}_{name}.py"
    path.write_text(
        TEMPLATE.format(
            title=name.replace("_", " ").capitalize(),
            revision=revision,
            previous=previous,
            imports=imports,
            body=body,
        )
    )
    print(f"{path.relative_to(ROOT)}: read it, say what it is for, run `ruff format` on it")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or not re.fullmatch(r"[a-z][a-z0-9_]*", sys.argv[1]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
