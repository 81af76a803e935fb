"""What happened in each subcloud: usage, work and conduct."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "ledger_conduct",
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("subcloud_id", sa.String(), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("span", sa.BigInteger(), nullable=False),
        sa.Column("gateway_id", sa.String(), nullable=False),
        sa.Column("gateway_account", sa.String(), nullable=False),
        sa.Column("related", sa.BigInteger(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("unproven", sa.BigInteger(), nullable=False),
        sa.Column("first_tokens", sa.BigInteger(), nullable=False),
        sa.Column("first_token_ms", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "node_id", "subcloud_id", "minute", "span", "gateway_id", "gateway_account", "related"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_ledger_conduct_age", "ledger_conduct", ["span", "minute"], unique=False)
    op.create_table(
        "ledger_subcloud_usage",
        sa.Column("subcloud_id", sa.String(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("captured", sa.BigInteger(), nullable=False),
        sa.Column("client_left", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("credited", sa.BigInteger(), nullable=False),
        sa.Column("income", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace"],
            ["ledger_namespaces.path"],
        ),
        sa.PrimaryKeyConstraint("subcloud_id", "day", "model", "namespace"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_subcloud_work",
        sa.Column("subcloud_id", sa.String(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("legs", sa.BigInteger(), nullable=False),
        sa.Column("earned", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace"],
            ["ledger_namespaces.path"],
        ),
        sa.PrimaryKeyConstraint("subcloud_id", "day", "node_id", "account_id", "namespace"),
        sqlite_with_rowid=False,
    )
