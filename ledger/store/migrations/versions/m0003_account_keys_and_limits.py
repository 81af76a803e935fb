"""Account keys that change, numbered operations, and the limits and secrets of API keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns."""
    # In SQLite an empty text is not an empty byte string.
    sqlite = op.get_bind().dialect.name == "sqlite"
    no_bytes = sa.text("X''" if sqlite else "''")
    op.add_column(
        "ledger_account_keys",
        sa.Column("removed_ms", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column(
        "ledger_accounts",
        sa.Column("operations", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column(
        "ledger_accounts",
        sa.Column("key_changes", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column(
        "ledger_accounts",
        sa.Column("last_key_change", sa.LargeBinary(), server_default=no_bytes, nullable=False),
    )
    op.add_column(
        "ledger_api_keys",
        sa.Column("limits", sa.LargeBinary(), server_default=no_bytes, nullable=False),
    )
    op.add_column(
        "ledger_api_keys",
        sa.Column("generation", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column(
        "ledger_api_keys",
        sa.Column("previous_hold_key", sa.LargeBinary(), server_default=no_bytes, nullable=False),
    )
    op.add_column(
        "ledger_api_keys",
        sa.Column("previous_until_ms", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column(
        "ledger_api_keys",
        sa.Column("created_ms", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column(
        "ledger_api_keys",
        sa.Column("usage_day", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column(
        "ledger_api_keys",
        sa.Column("day_used", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column(
        "ledger_holds", sa.Column("usage_day", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column(
        "ledger_records", sa.Column("account_id", sa.String(), server_default="", nullable=False)
    )
    op.add_column(
        "ledger_records",
        sa.Column("operation", sa.BigInteger(), server_default="0", nullable=False),
    )
