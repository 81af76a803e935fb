"""Leases: holds that pay for many jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the columns, and the index of open leases (no other hold is in it)."""
    for name in ("is_lease", "returned"):
        op.add_column(
            "ledger_holds", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
        )
    op.create_index(
        "ledger_holds_leased",
        "ledger_holds",
        ["namespace"],
        unique=False,
        sqlite_where=sa.text("is_lease = 1 AND state = 'open'"),
        postgresql_where=sa.text("is_lease = 1 AND state = 'open'"),
    )
