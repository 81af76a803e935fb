"""Owns reading for answers: keys, statements, balances, earnings, and what has expired.

Each function takes a connection in a transaction of its own (`ledger.ledger.Ledger.read`).
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from ledger.accounts import earnings_account, fees_account
from ledger.records import Account, ApiKeyEntry, HoldEnd, HoldState
from ledger.store.loading import account_of, key_from_row
from ledger.store.tables import (
    API_KEYS,
    ENTRIES,
    GRANTS,
    HOLDS,
    NAMESPACES,
    NODE_BINDINGS,
    TRANSFERS,
)
from p2p.types import AccountId, PeerId


@dataclass(frozen=True, slots=True)
class KeyView:
    """An API key and what its namespace can spend (microcredits)."""

    key: ApiKeyEntry
    account_id: AccountId
    namespace_name: str
    available: int


@dataclass(frozen=True, slots=True)
class NamespaceView:
    """A namespace's money (microcredits) and its grants as they were signed (encoded `Signed`)."""

    available: int
    held: int
    granted: int
    grants: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EarningsView:
    """What an account earned with its nodes and gateways (microcredits), and by how many legs.

    The unmatured parts are contained in the sums.
    """

    earned: int
    fees: int
    legs: int
    unmatured_earned: int
    unmatured_fees: int


def key_view(connection: Connection, key_id: str) -> KeyView | None:
    """Read an API key; None if there is none."""
    row = connection.execute(select(API_KEYS).where(API_KEYS.c.key_id == key_id)).first()
    if row is None:
        return None
    key, _ = key_from_row(row)
    namespace = connection.execute(
        select(NAMESPACES.c.account_id, NAMESPACES.c.name, NAMESPACES.c.available).where(
            NAMESPACES.c.path == key.namespace
        )
    ).one()
    return KeyView(key, AccountId(namespace.account_id), namespace.name, namespace.available)


def namespace_view(connection: Connection, path: str) -> NamespaceView | None:
    """Read a namespace's money and grants; None if there is none."""
    row = connection.execute(
        select(NAMESPACES.c.available, NAMESPACES.c.held).where(NAMESPACES.c.path == path)
    ).first()
    if row is None:
        return None
    grants = connection.execute(
        select(GRANTS.c.amount, TRANSFERS.c.request)
        .join(TRANSFERS, TRANSFERS.c.number == GRANTS.c.number)
        .where(GRANTS.c.namespace == path)
        .order_by(GRANTS.c.number)
    ).all()
    granted = sum(int(grant.amount) for grant in grants)
    return NamespaceView(row.available, row.held, granted, tuple(g.request for g in grants))


def account_view(connection: Connection, account_id: str) -> Account | None:
    """Read an account; None if there is none."""
    return account_of(connection, account_id)


def balance(connection: Connection, account: str) -> int:
    """Sum a ledger account (`ledger.accounts`) from its entries, in microcredits."""
    statement = select(func.coalesce(func.sum(ENTRIES.c.amount), 0)).where(
        ENTRIES.c.account == account
    )
    return int(connection.execute(statement).scalar_one())


def earnings_view(
    connection: Connection, account_id: AccountId, unmatured_since_ms: int
) -> EarningsView:
    """Read what an account earned; what came after `unmatured_since_ms` has not matured."""
    earned = earnings_account(account_id)
    legs = connection.execute(
        select(func.count()).select_from(ENTRIES).where(ENTRIES.c.account == earned)
    ).scalar_one()
    fees = fees_account(account_id)
    return EarningsView(
        balance(connection, earned),
        balance(connection, fees),
        int(legs),
        _earned_since(connection, earned, unmatured_since_ms),
        _earned_since(connection, fees, unmatured_since_ms),
    )


def _earned_since(connection: Connection, account: str, since_ms: int) -> int:
    statement = (
        select(func.coalesce(func.sum(ENTRIES.c.amount), 0))
        .join(TRANSFERS, TRANSFERS.c.number == ENTRIES.c.transfer)
        .where(ENTRIES.c.account == account, TRANSFERS.c.at_ms > since_ms)
    )
    return max(0, int(connection.execute(statement).scalar_one()))


def hold_end(connection: Connection, hold_id: bytes) -> HoldEnd | None:
    """Read how a hold ended; a hold that is open has the state OPEN. None if there is none."""
    row = connection.execute(
        select(HOLDS.c.state, HOLDS.c.charged)
        .join(TRANSFERS, TRANSFERS.c.number == HOLDS.c.number)
        .where(TRANSFERS.c.transfer_id == hold_id)
    ).first()
    return None if row is None else HoldEnd(hold_id, HoldState(row.state), row.charged, None)


def node_account(connection: Connection, peer_id: PeerId) -> AccountId | None:
    """Read which account a node is bound to; None if it is not."""
    statement = select(NODE_BINDINGS.c.account_id).where(NODE_BINDINGS.c.peer_id == peer_id)
    found = connection.execute(statement).scalar_one_or_none()
    return None if found is None else AccountId(found)


def expired_holds(connection: Connection, now_ms: int, count_max: int) -> list[bytes]:
    """Read the IDs of open holds whose time is over, the oldest first."""
    statement = (
        select(TRANSFERS.c.transfer_id)
        .join(HOLDS, TRANSFERS.c.number == HOLDS.c.number)
        .where(HOLDS.c.state == "open", HOLDS.c.expires_ms <= now_ms)
        .order_by(HOLDS.c.expires_ms)
        .limit(count_max)
    )
    return list(connection.execute(statement).scalars())
