"""The transparency log: outbox, leaves, tiles, checkpoints, keys; what is there waits to be logged.

What a revision does must not change with the program, so this one writes down itself how sources
and bindings are encoded (`ledger.log.sources`).
"""

from __future__ import annotations

import secrets

import msgpack
import sqlalchemy as sa
from alembic import op

from ledger.store.triggers import make_immutable

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make them."""
    _make_tables()
    _fill_outbox()
    meta = sa.table("ledger_meta", sa.column("name"), sa.column("value"))
    row = {"name": "log_salt_secret", "value": secrets.token_hex(32)}
    op.get_bind().execute(sa.insert(meta), [row])


def _fill_outbox() -> None:
    connection = op.get_bind()
    sources = [
        b"t" + number.to_bytes(8, "big")
        for number in connection.execute(sa.text("SELECT number FROM ledger_transfers")).scalars()
    ]
    sources += [
        b"r" + digest
        for digest in connection.execute(sa.text("SELECT digest FROM ledger_records")).scalars()
    ]
    bindings = sa.text("SELECT peer_id, account_id, bound_ms FROM ledger_node_bindings")
    sources += [b"b" + msgpack.packb([123, *row]) for row in connection.execute(bindings)]
    if sources:
        pending = sa.table("ledger_log_pending", sa.column("source"))
        connection.execute(sa.insert(pending), [{"source": source} for source in sources])


def _make_tables() -> None:
    op.create_table(
        "ledger_log_checkpoints",
        sa.Column(
            "size",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("size"),
    )
    op.create_table(
        "ledger_log_keys",
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("public_key"),
    )
    op.create_table(
        "ledger_log_leaves",
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("source", sa.LargeBinary(), nullable=False),
        sa.Column("part", sa.BigInteger(), nullable=False),
        sa.Column("commitment", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_index(
        "ledger_log_leaves_source", "ledger_log_leaves", ["source", "part"], unique=False
    )
    op.create_table(
        "ledger_log_pending",
        sa.Column("source", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("source"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_log_tiles",
        sa.Column("level", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "number"),
    )
    make_immutable(op.get_bind(), "ledger_log_checkpoints", "ledger_log_keys", "ledger_log_leaves")
