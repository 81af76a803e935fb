"""Whose subcloud a hold is for, and the uses of callers' tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the column and the table."""
    op.add_column(
        "ledger_holds", sa.Column("owner_account", sa.String(), server_default="", nullable=False)
    )
    op.create_table(
        "ledger_caller_tokens",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("uses", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
