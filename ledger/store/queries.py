"""Owns reading for answers: keys, statements, balances, earnings, and what has expired.

Each function takes a connection in a transaction of its own (`ledger.ledger.Ledger.read`).
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from ledger.accounts import earnings_account, fees_account, owner_account
from ledger.records import Account, ApiKeyEntry, HoldEnd, HoldState
from ledger.store.dispute_queries import credited, unmatured
from ledger.store.lease_queries import leased_of
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
    """A namespace's money (microcredits) and its grants as they were signed (encoded `Signed`).

    `credited`: what corrections gave back; it is in `available` or was spent again. `leased`: the
    part of `held` that is leased to gateways.
    """

    available: int
    held: int
    granted: int
    grants: tuple[bytes, ...]
    credited: int = 0
    leased: int = 0


@dataclass(frozen=True, slots=True)
class EarningsView:
    """What an account earned with nodes, gateways, subclouds (microcredits), and by how many legs.

    The unmatured parts are contained in the sums, the disputed ones in the unmatured.
    """

    earned: int
    fees: int
    legs: int
    unmatured_earned: int
    unmatured_fees: int
    disputed_earned: int = 0
    disputed_fees: int = 0
    owner_fees: int = 0
    unmatured_owner_fees: int = 0
    disputed_owner_fees: int = 0


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
    requests = tuple(grant.request for grant in grants)
    given_back, leased = credited(connection, path), leased_of(connection, path)
    return NamespaceView(row.available, row.held, granted, requests, given_back, leased)


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
    """Read what an account earned; what came after `unmatured_since_ms` has not matured, nor has
    what is disputed."""
    earned = earnings_account(account_id)
    legs = connection.execute(
        select(func.count())
        .select_from(ENTRIES)
        .where(ENTRIES.c.account == earned, ENTRIES.c.amount > 0)
    ).scalar_one()
    fees, owner = fees_account(account_id), owner_account(account_id)
    unmatured_earned = unmatured(connection, earned, unmatured_since_ms)
    unmatured_fees = unmatured(connection, fees, unmatured_since_ms)
    unmatured_owner = unmatured(connection, owner, unmatured_since_ms)
    return EarningsView(
        balance(connection, earned),
        balance(connection, fees),
        int(legs),
        unmatured_earned.amount,
        unmatured_fees.amount,
        unmatured_earned.disputed,
        unmatured_fees.disputed,
        balance(connection, owner),
        unmatured_owner.amount,
        unmatured_owner.disputed,
    )


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
