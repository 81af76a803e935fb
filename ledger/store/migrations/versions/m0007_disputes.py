"""Disputes, their answers, decisions and evidence; what they gave back in the usage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ledger.store.triggers import make_immutable

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the tables and the column."""
    op.create_table(
        "ledger_disputes",
        sa.Column(
            "capture",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("hold_id", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=False),
        sa.Column("charged_ms", sa.BigInteger(), nullable=False),
        sa.Column("claimed", sa.BigInteger(), nullable=False),
        sa.Column("evidence_digest", sa.LargeBinary(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("opened_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["ledger_accounts.account_id"],
        ),
        sa.ForeignKeyConstraint(
            ["capture"],
            ["ledger_transfers.number"],
        ),
        sa.ForeignKeyConstraint(
            ["key_id"],
            ["ledger_api_keys.key_id"],
        ),
        sa.ForeignKeyConstraint(
            ["record"],
            ["ledger_records.digest"],
        ),
        sa.PrimaryKeyConstraint("capture"),
        sa.UniqueConstraint("hold_id"),
    )
    op.create_index(
        "ledger_disputes_account", "ledger_disputes", ["account_id", "opened_ms"], unique=False
    )
    _parts()
    op.add_column(
        "ledger_usage", sa.Column("credited", sa.BigInteger(), server_default="0", nullable=False)
    )
    make_immutable(
        op.get_bind(), "ledger_disputes", "ledger_dispute_answers", "ledger_dispute_decisions"
    )


def _parts() -> None:
    op.create_table(
        "ledger_dispute_answers",
        sa.Column("capture", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["ledger_accounts.account_id"],
        ),
        sa.ForeignKeyConstraint(
            ["capture"],
            ["ledger_disputes.capture"],
        ),
        sa.ForeignKeyConstraint(
            ["record"],
            ["ledger_records.digest"],
        ),
        sa.PrimaryKeyConstraint("capture", "account_id"),
    )
    op.create_table(
        "ledger_dispute_decisions",
        sa.Column(
            "capture",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("transfer", sa.BigInteger(), nullable=False),
        sa.Column("refunded", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["capture"],
            ["ledger_disputes.capture"],
        ),
        sa.ForeignKeyConstraint(
            ["transfer"],
            ["ledger_transfers.number"],
        ),
        sa.PrimaryKeyConstraint("capture"),
        sa.UniqueConstraint("transfer"),
    )
    op.create_table(
        "ledger_dispute_evidence",
        sa.Column(
            "capture",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("evidence", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["capture"],
            ["ledger_disputes.capture"],
        ),
        sa.PrimaryKeyConstraint("capture"),
    )
