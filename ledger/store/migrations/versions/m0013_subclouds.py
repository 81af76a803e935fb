"""The subclouds' directory: policies, names, requests, certificates, members, evidence."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Make its tables."""
    _make_directory()
    _make_papers()
    _make_members()


def _make_directory() -> None:
    op.create_table(
        "ledger_subcloud_evidence",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("subcloud_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index(
        "ix_ledger_subcloud_evidence_seen_ms", "ledger_subcloud_evidence", ["seen_ms"], unique=False
    )
    op.create_index(
        "ix_ledger_subcloud_evidence_subcloud_id",
        "ledger_subcloud_evidence",
        ["subcloud_id"],
        unique=False,
    )
    op.create_table(
        "ledger_subcloud_names",
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("subcloud_id", sa.String(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("label"),
    )
    op.create_index(
        "ix_ledger_subcloud_names_subcloud_id",
        "ledger_subcloud_names",
        ["subcloud_id"],
        unique=False,
    )
    op.create_table(
        "ledger_subcloud_policies",
        sa.Column("subcloud_id", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subcloud_id", "version"),
    )
    op.create_table(
        "ledger_subclouds",
        sa.Column("subcloud_id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("revocations", sa.LargeBinary(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subcloud_id"),
    )
    op.create_index("ix_ledger_subclouds_changed", "ledger_subclouds", ["changed"], unique=False)
    op.create_index("ix_ledger_subclouds_owner", "ledger_subclouds", ["owner"], unique=False)


def _make_papers() -> None:
    op.create_table(
        "ledger_subcloud_answers",
        sa.Column("subcloud_id", sa.String(), nullable=False),
        sa.Column("peer_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("issued_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subcloud_id", "peer_id", "kind"),
    )
    op.create_index(
        "ix_ledger_subcloud_answers_expires_ms",
        "ledger_subcloud_answers",
        ["expires_ms"],
        unique=False,
    )
    op.create_index(
        "ix_ledger_subcloud_answers_peer_id", "ledger_subcloud_answers", ["peer_id"], unique=False
    )
    op.create_table(
        "ledger_subcloud_invite_uses",
        sa.Column("invite_id", sa.LargeBinary(), nullable=False),
        sa.Column("peer_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("used_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("invite_id", "peer_id"),
        sa.UniqueConstraint("invite_id", "number", name="one_use_one_number"),
    )
    op.create_table(
        "ledger_subcloud_requests",
        sa.Column("subcloud_id", sa.String(), nullable=False),
        sa.Column("peer_id", sa.String(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("issued_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subcloud_id", "peer_id"),
    )
    op.create_index(
        "ix_ledger_subcloud_requests_expires_ms",
        "ledger_subcloud_requests",
        ["expires_ms"],
        unique=False,
    )
    op.create_index(
        "ix_ledger_subcloud_requests_peer_id", "ledger_subcloud_requests", ["peer_id"], unique=False
    )


def _make_members() -> None:
    op.create_table(
        "ledger_subcloud_joins",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("subcloud_id", sa.String(), nullable=False),
        sa.Column("peer_id", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index(
        "ix_ledger_subcloud_joins_order",
        "ledger_subcloud_joins",
        ["subcloud_id", "number"],
        unique=False,
    )
    op.create_table(
        "ledger_subcloud_members",
        sa.Column("subcloud_id", sa.String(), nullable=False),
        sa.Column("peer_id", sa.String(), nullable=False),
        sa.Column("joined_ms", sa.BigInteger(), nullable=False),
        sa.Column("left_ms", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subcloud_id", "peer_id"),
    )
    op.create_index(
        "ix_ledger_subcloud_members_peer_id", "ledger_subcloud_members", ["peer_id"], unique=False
    )
