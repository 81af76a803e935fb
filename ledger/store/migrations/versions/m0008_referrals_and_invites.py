"""Referrals and invites."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ledger.store.triggers import make_immutable

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Change them."""
    op.create_table(
        "ledger_invite_uses",
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("invite_id", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["ledger_accounts.account_id"],
        ),
        sa.PrimaryKeyConstraint("account_id"),
    )
    op.create_index(
        "ix_ledger_invite_uses_invite_id", "ledger_invite_uses", ["invite_id"], unique=False
    )
    op.create_table(
        "ledger_referrals",
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("referrer", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("account_id <> referrer", name="nobody_refers_itself"),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["ledger_accounts.account_id"],
        ),
        sa.ForeignKeyConstraint(
            ["referrer"],
            ["ledger_accounts.account_id"],
        ),
        sa.PrimaryKeyConstraint("account_id"),
    )
    op.create_index("ix_ledger_referrals_referrer", "ledger_referrals", ["referrer"], unique=False)
    op.add_column(
        "ledger_rcp_scores",
        sa.Column("referral_fees", sa.BigInteger(), server_default="0", nullable=False),
    )
    make_immutable(op.get_bind(), "ledger_invite_uses", "ledger_referrals")
