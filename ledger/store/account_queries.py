"""Owns reading for an account's owner: its namespaces, and the API keys of one of them."""

from __future__ import annotations

from sqlalchemy import Connection, select

from ledger.records import ApiKeyEntry, KeyUsage, Namespace
from ledger.store.loading import key_from_row
from ledger.store.tables import API_KEYS, NAMESPACES, RECORDS
from p2p.account_messages import AccountKeyChange
from p2p.codec import decode_message, encode_message
from p2p.ledger_messages import AccountFounding
from p2p.opening_messages import InvitedFounding
from p2p.signing import Signed


def namespaces_of(connection: Connection, account_id: str) -> list[Namespace]:
    """Read an account's namespaces in order of their names."""
    statement = (
        select(NAMESPACES).where(NAMESPACES.c.account_id == account_id).order_by(NAMESPACES.c.path)
    )
    return [Namespace(*row) for row in connection.execute(statement)]


def founding_of(connection: Connection, account_id: str) -> bytes:
    """Read an account's founding document as it was signed (encoded `Signed`)."""
    purposes = (AccountFounding.PURPOSE, InvitedFounding.PURPOSE)
    statement = select(RECORDS.c.purpose, RECORDS.c.signed).where(
        RECORDS.c.subject == account_id, RECORDS.c.purpose.in_(purposes)
    )
    purpose, signed = connection.execute(statement).one()
    if purpose == InvitedFounding.PURPOSE:
        outer = decode_message(decode_message(signed, Signed).body, InvitedFounding)
        return encode_message(outer.founding)
    return bytes(signed)


def key_changes_of(connection: Connection, account_id: str) -> list[bytes]:
    """Read an account's key changes as they were signed (encoded `Signed`), oldest first."""
    statement = (
        select(RECORDS.c.signed)
        .where(RECORDS.c.subject == account_id, RECORDS.c.purpose == AccountKeyChange.PURPOSE)
        .order_by(RECORDS.c.operation)
    )
    return [bytes(signed) for signed in connection.scalars(statement)]


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
