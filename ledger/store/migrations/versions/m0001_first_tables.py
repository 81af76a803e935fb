"""The first tables: accounts, keys, namespaces, transfers with entries, holds, grants, bindings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateSequence

from ledger.store.triggers import make_immutable

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them."""
    _tables_without_parents()
    _tables_of_accounts_and_transfers()
    _tables_of_keys_and_grants()
    _table_of_holds()
    make_immutable(
        op.get_bind(), "ledger_transfers", "ledger_entries", "ledger_grants", "ledger_records"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(CreateSequence(sa.Sequence("ledger_transfer_numbers", cache=1)))


def _tables_without_parents() -> None:
    op.create_table(
        "ledger_accounts",
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("namespaces", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id"),
    )
    op.create_table(
        "ledger_meta",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "ledger_node_bindings",
        sa.Column("peer_id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("bound_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("peer_id"),
    )
    op.create_table(
        "ledger_records",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index("ix_ledger_records_subject", "ledger_records", ["subject"], unique=False)
    op.create_table(
        "ledger_transfers",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("transfer_id", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("hold_number", sa.BigInteger(), nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("transfer_id"),
    )


def _tables_of_accounts_and_transfers() -> None:
    op.create_table(
        "ledger_account_keys",
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("added_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["ledger_accounts.account_id"],
        ),
        sa.PrimaryKeyConstraint("account_id", "public_key", "purpose"),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("transfer", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["transfer"],
            ["ledger_transfers.number"],
        ),
        sa.PrimaryKeyConstraint("transfer", "position"),
        sqlite_with_rowid=False,
    )
    op.create_index("ledger_entries_account", "ledger_entries", ["account", "amount"], unique=False)
    op.create_table(
        "ledger_namespaces",
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("available", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("grants", sa.BigInteger(), nullable=False),
        sa.Column("keys", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("available >= 0", name="available_is_not_negative"),
        sa.CheckConstraint("held >= 0", name="held_is_not_negative"),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["ledger_accounts.account_id"],
        ),
        sa.PrimaryKeyConstraint("path"),
    )


def _tables_of_keys_and_grants() -> None:
    op.create_table(
        "ledger_api_keys",
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("hold_key", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=False),
        sa.Column("credit_cap_total", sa.BigInteger(), nullable=False),
        sa.Column("models", sa.String(), nullable=False),
        sa.Column("gateways", sa.String(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace"],
            ["ledger_namespaces.path"],
        ),
        sa.PrimaryKeyConstraint("key_id"),
    )
    op.create_index("ix_ledger_api_keys_namespace", "ledger_api_keys", ["namespace"], unique=False)
    op.create_table(
        "ledger_grants",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("mint_key", sa.LargeBinary(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace"],
            ["ledger_namespaces.path"],
        ),
        sa.ForeignKeyConstraint(
            ["number"],
            ["ledger_transfers.number"],
        ),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("ix_ledger_grants_namespace", "ledger_grants", ["namespace"], unique=False)
    op.create_index("ledger_grants_mint_key", "ledger_grants", ["mint_key", "at_ms"], unique=False)


def _table_of_holds() -> None:
    op.create_table(
        "ledger_holds",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("job_id", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("gateway_id", sa.String(), nullable=False),
        sa.Column("gateway_account", sa.String(), nullable=False),
        sa.Column("model_digest", sa.LargeBinary(), nullable=False),
        sa.Column("maximum", sa.BigInteger(), nullable=False),
        sa.Column("terms", sa.LargeBinary(), nullable=False),
        sa.Column("gateway_basis_points", sa.BigInteger(), nullable=False),
        sa.Column("network_basis_points", sa.BigInteger(), nullable=False),
        sa.Column("issued_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=False),
        sa.Column("ended_by", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["key_id"],
            ["ledger_api_keys.key_id"],
        ),
        sa.ForeignKeyConstraint(
            ["namespace"],
            ["ledger_namespaces.path"],
        ),
        sa.ForeignKeyConstraint(
            ["number"],
            ["ledger_transfers.number"],
        ),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index(
        "ledger_holds_open",
        "ledger_holds",
        ["expires_ms"],
        unique=False,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
