"""Owns the ledger's tables (SQLModel), for SQLite and PostgreSQL alike.

There is no hot row: earnings, fees, treasury and mint are sums over `ledger_entries`; only a
namespace has a balance row, which its holds need to be checked against. Transfers, entries and
grants are immutable: the database itself refuses to change or delete them.

A transfer's ID is random; its `number` only counts rows, and the wide tables are keyed by it.
Random keys of wide rows would touch a page for each: 213 against 56 microseconds a transfer on
SQLite (measured). Numbers are not the order of the log: on PostgreSQL they have gaps.

A change of any table is followed by `python tools/make_migration.py <name>`, which writes the
revision that databases of before need (ledger/store/migrations/); new columns need a default there.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    text,
)
from sqlmodel import Field, SQLModel

_OPEN = text("state = 'open'")
_OPEN_LEASE = text("is_lease = 1 AND state = 'open'")


def _big(*arguments: Any, **options: Any) -> Any:
    return Field(
        sa_column=Column(*arguments, **{"type_": BigInteger, "nullable": False, **options})
    )


def _number(*arguments: Any, **options: Any) -> Any:
    """A number that we give: on SQLite the row's own, so that rows are appended in order."""
    kind = BigInteger().with_variant(Integer, "sqlite")
    return Field(sa_column=Column(*arguments, type_=kind, autoincrement=False, **options))


def _bytes(*arguments: Any, **options: Any) -> Any:
    column = Column(*arguments, **{"type_": LargeBinary, "nullable": False, **options})
    return Field(sa_column=column)


def _text(*arguments: Any, **options: Any) -> Any:
    return Field(sa_column=Column(*arguments, **{"type_": String, "nullable": False, **options}))


class MetaRow(SQLModel, table=True):
    """What this database is: the network's ID and the version of these tables."""

    __tablename__ = "ledger_meta"
    name: str = _text(primary_key=True)
    value: str = _text()


class AccountRow(SQLModel, table=True):
    """An account; its founding document is a record."""

    __tablename__ = "ledger_accounts"
    account_id: str = _text(primary_key=True)
    namespaces: int = _big()
    created_ms: int = _big()
    operations: int = _big(server_default="0")
    key_changes: int = _big(server_default="0")
    last_key_change: bytes = _bytes()


class AccountKeyRow(SQLModel, table=True):
    """A key of an account, for ever. `purpose` is `signing` or `recovery`.

    It may sign while `removed_ms` is 0.
    """

    __tablename__ = "ledger_account_keys"
    account_id: str = _text(ForeignKey("ledger_accounts.account_id"), primary_key=True)
    public_key: bytes = _bytes(primary_key=True)
    purpose: str = _text(primary_key=True)
    added_ms: int = _big()
    removed_ms: int = _big(server_default="0")


class RecordRow(SQLModel, table=True):
    """A signed account operation as it came, for ever. `subject`: account, namespace or key ID.

    `operation` is its number within its account (0: taken before operations were numbered).
    """

    __tablename__ = "ledger_records"
    digest: bytes = _bytes(primary_key=True)
    purpose: str = _text()
    subject: str = _text(index=True)
    signed: bytes = _bytes()
    at_ms: int = _big()
    account_id: str = _text(server_default="")
    operation: int = _big(server_default="0")


class NamespaceRow(SQLModel, table=True):
    """A namespace and its balances (microcredits)."""

    __tablename__ = "ledger_namespaces"
    __table_args__ = (
        CheckConstraint("available >= 0", name="available_is_not_negative"),
        CheckConstraint("held >= 0", name="held_is_not_negative"),
    )
    path: str = _text(primary_key=True)
    account_id: str = _text(ForeignKey("ledger_accounts.account_id"))
    name: str = _text()
    available: int = _big()
    held: int = _big()
    grants: int = _big()
    keys: int = _big()


class ApiKeyRow(SQLModel, table=True):
    """An API key. `models` and `gateways` are JSON lists; amounts are microcredits.

    `limits` is an encoded KeyLimits (empty: none). `day_used` is the use of `usage_day`, the newest
    UTC day that the key was used on (`ledger.key_limits`).
    """

    __tablename__ = "ledger_api_keys"
    key_id: str = _text(primary_key=True)
    namespace: str = _text(ForeignKey("ledger_namespaces.path"), index=True)
    hold_key: bytes = _bytes()
    name: str = _text()
    expires_ms: int = _big()
    revoked_ms: int = _big()
    credit_cap_total: int = _big()
    models: str = _text()
    gateways: str = _text()
    content: bytes = _bytes()
    spent: int = _big()
    held: int = _big()
    limits: bytes = _bytes()
    generation: int = _big(server_default="0")
    previous_hold_key: bytes = _bytes()
    previous_until_ms: int = _big(server_default="0")
    created_ms: int = _big(server_default="0")
    usage_day: int = _big(server_default="0")
    day_used: int = _big(server_default="0")
    limit_changes: int = _big(server_default="0")


class TransferRow(SQLModel, table=True):
    """A transfer. `request` is the signed document as it came, `result` the encoded answer."""

    __tablename__ = "ledger_transfers"
    number: int = _number(primary_key=True)
    transfer_id: bytes = _bytes(unique=True)
    kind: str = _text()
    namespace: str = _text()
    hold_number: int | None = _big(nullable=True)
    content: bytes = _bytes()
    request: bytes = _bytes()
    result: bytes = _bytes()
    at_ms: int = _big()


class HoldRow(SQLModel, table=True):
    """A hold, named by its transfer. `terms` is encoded; `ended_by` is a transfer's number.

    A lease (`is_lease` 1) is charged by many captures; `returned` is what of it came back so far.
    `owner_account`: whose share of the charge the terms name, if the job is one of a subcloud.
    """

    __tablename__ = "ledger_holds"
    __table_args__ = (
        Index("ledger_holds_open", "expires_ms", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index(
            "ledger_holds_leased",
            "namespace",
            sqlite_where=_OPEN_LEASE,
            postgresql_where=_OPEN_LEASE,
        ),
    )
    number: int = _number(ForeignKey("ledger_transfers.number"), primary_key=True)
    job_id: bytes = _bytes()
    key_id: str = _text(ForeignKey("ledger_api_keys.key_id"))
    namespace: str = _text(ForeignKey("ledger_namespaces.path"))
    gateway_id: str = _text()
    gateway_account: str = _text()
    model_digest: bytes = _bytes()
    maximum: int = _big()
    terms: bytes = _bytes()
    gateway_basis_points: int = _big()
    network_basis_points: int = _big()
    issued_ms: int = _big()
    expires_ms: int = _big()
    state: str = _text()
    charged: int = _big()
    ended_by: int | None = _big(nullable=True)
    usage_day: int = _big(server_default="0")
    is_lease: int = _big(server_default="0")
    returned: int = _big(server_default="0")
    owner_account: str = _text(server_default="")


class EntryRow(SQLModel, table=True):
    """One line of a transfer: `amount` (microcredits) is what `account` gains or loses."""

    __tablename__ = "ledger_entries"
    __table_args__ = (
        Index("ledger_entries_account", "account", "amount"),
        {"sqlite_with_rowid": False},
    )
    transfer: int = _big(ForeignKey("ledger_transfers.number"), primary_key=True)
    position: int = _big(primary_key=True)
    account: str = _text()
    amount: int = _big()


class GrantRow(SQLModel, table=True):
    """A grant (its ID is that of its transfer), for statements and for the caps of mint keys."""

    __tablename__ = "ledger_grants"
    __table_args__ = (Index("ledger_grants_mint_key", "mint_key", "at_ms"),)
    number: int = _number(ForeignKey("ledger_transfers.number"), primary_key=True)
    namespace: str = _text(ForeignKey("ledger_namespaces.path"), index=True)
    mint_key: bytes = _bytes()
    amount: int = _big()
    at_ms: int = _big()


class NodeBindingRow(SQLModel, table=True):
    """Whose earnings a node's work pays."""

    __tablename__ = "ledger_node_bindings"
    peer_id: str = _text(primary_key=True)
    account_id: str = _text()
    bound_ms: int = _big()


def _table(model: type[SQLModel]) -> Table:
    return SQLModel.metadata.tables[str(model.__tablename__)]


META = _table(MetaRow)
ACCOUNTS = _table(AccountRow)
ACCOUNT_KEYS = _table(AccountKeyRow)
RECORDS = _table(RecordRow)
NAMESPACES = _table(NamespaceRow)
API_KEYS = _table(ApiKeyRow)
HOLDS = _table(HoldRow)
TRANSFERS = _table(TransferRow)
ENTRIES = _table(EntryRow)
GRANTS = _table(GrantRow)
NODE_BINDINGS = _table(NodeBindingRow)

IMMUTABLE = [TRANSFERS, ENTRIES, GRANTS, RECORDS]
"""What is never changed or deleted; the files of other tables add theirs."""
NUMBERS = "ledger_transfer_numbers"
"""The sequence (PostgreSQL only) that numbers transfers; SQLite's writer counts on by itself."""
