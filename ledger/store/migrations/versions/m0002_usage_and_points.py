"""Usage and work by day, uptime records, frozen epochs of contribution points."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ledger.store.triggers import make_immutable
from ledger.store.usage_check import fill_counters

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make them."""
    _counters()
    op.create_table(
        "ledger_rcp_epochs",
        sa.Column("first_day", sa.BigInteger(), nullable=False),
        sa.Column("last_day", sa.BigInteger(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("first_day"),
        sa.UniqueConstraint("last_day"),
    )
    op.create_table(
        "ledger_uptime",
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("bootstrap_id", sa.String(), nullable=False),
        sa.Column("part", sa.BigInteger(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("day", "bootstrap_id", "part"),
    )
    op.create_table(
        "ledger_rcp_scores",
        sa.Column("first_day", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("work", sa.BigInteger(), nullable=False),
        sa.Column("uptime_minutes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["first_day"],
            ["ledger_rcp_epochs.first_day"],
        ),
        sa.PrimaryKeyConstraint("first_day", "place"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_ledger_rcp_scores_account_id", "ledger_rcp_scores", ["account_id"], unique=False
    )
    fill_counters(op.get_bind())
    make_immutable(op.get_bind(), "ledger_rcp_epochs", "ledger_rcp_scores")


def _counters() -> None:
    op.create_table(
        "ledger_usage",
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("captured", sa.BigInteger(), nullable=False),
        sa.Column("client_left", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace"],
            ["ledger_namespaces.path"],
        ),
        sa.PrimaryKeyConstraint("namespace", "day", "key_id", "model"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_work",
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("legs", sa.BigInteger(), nullable=False),
        sa.Column("earned", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace"],
            ["ledger_namespaces.path"],
        ),
        sa.PrimaryKeyConstraint("day", "namespace", "node_id", "account_id"),
        sqlite_with_rowid=False,
    )
