"""Which invite a node was admitted with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ledger.store.triggers import make_immutable

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "ledger_node_invite_uses",
        sa.Column("peer_id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("invite_id", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["ledger_accounts.account_id"],
        ),
        sa.PrimaryKeyConstraint("peer_id"),
    )
    op.create_index(
        "ix_ledger_node_invite_uses_invite_id",
        "ledger_node_invite_uses",
        ["invite_id"],
        unique=False,
    )
    make_immutable(op.get_bind(), "ledger_node_invite_uses")
