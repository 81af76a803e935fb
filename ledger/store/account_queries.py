"""Owns reading for an account's owner: its namespaces, and the API keys of one of them."""

from __future__ import annotations

from sqlalchemy import Connection, select

from ledger.records import ApiKeyEntry, KeyUsage, Namespace
from ledger.store.loading import key_from_row
from ledger.store.tables import API_KEYS, NAMESPACES, RECORDS
from p2p.ledger_messages import AccountFounding


def namespaces_of(connection: Connection, account_id: str) -> list[Namespace]:
    """Read an account's namespaces in order of their names."""
    statement = (
        select(NAMESPACES).where(NAMESPACES.c.account_id == account_id).order_by(NAMESPACES.c.path)
    )
    return [Namespace(*row) for row in connection.execute(statement)]


def founding_of(connection: Connection, account_id: str) -> bytes:
    """Read an account's founding document as it was signed (encoded `Signed`)."""
    statement = select(RECORDS.c.signed).where(
        RECORDS.c.subject == account_id, RECORDS.c.purpose == AccountFounding.PURPOSE
    )
    return bytes(connection.execute(statement).scalar_one())


def keys_of(
    connection: Connection, path: str, after: str, count_max: int
) -> list[tuple[ApiKeyEntry, KeyUsage]]:
    """Read a namespace's API keys and their use, in order of their IDs, beginning after one."""
    statement = (
        select(API_KEYS)
        .where(API_KEYS.c.namespace == path, API_KEYS.c.key_id > after)
        .order_by(API_KEYS.c.key_id)
        .limit(count_max)
    )
    return [key_from_row(row) for row in connection.execute(statement)]
