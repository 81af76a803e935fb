"""How often the limits of an API key were replaced."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column."""
    op.add_column(
        "ledger_api_keys",
        sa.Column("limit_changes", sa.BigInteger(), server_default="0", nullable=False),
    )
