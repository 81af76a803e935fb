"""Owns reading and writing referrals and the uses of invites, for a group of operations."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, Table, func, select, text

from ledger.book import Book
from ledger.limits import REFERRAL_CHAIN_MAX
from ledger.operations import AdmitNode, FoundAccount, Operation, ReferAccount
from ledger.store.opening_tables import INVITE_USES, NODE_INVITE_USES, REFERRALS
from ledger.store.statements import insert_rows, select_rows

_REFERRALS_LOCK = 0x7265_6665_7272
"""PostgreSQL advisory lock: a loop could be closed by two groups that do not see each other."""
_INVITES_LOCK = 0x696E_7669_7465
"""PostgreSQL advisory lock: the uses of an invite are rows that another group may be adding."""


def load_openings(connection: Connection, operations: Iterable[Operation], book: Book) -> None:
    """Read what referrals and invites among these operations are judged by, under their locks."""
    referred: set[str] = set()
    invites: set[bytes] = set()
    node_invites: set[bytes] = set()
    for operation in operations:
        if isinstance(operation, ReferAccount):
            referred |= {operation.document.account_id, operation.document.referrer}
        elif isinstance(operation, FoundAccount) and operation.invitation is not None:
            invites.add(operation.invitation.invite_id)
        elif isinstance(operation, AdmitNode):
            node_invites.add(operation.invitation.invite_id)
    # Always in this order, so that two groups never wait for each other.
    if invites or node_invites:
        _lock(connection, _INVITES_LOCK)
        book.invite_uses = _uses(connection, INVITE_USES, invites)
        book.node_invite_uses = _uses(connection, NODE_INVITE_USES, node_invites)
    if referred:
        _lock(connection, _REFERRALS_LOCK)
        _load_chains(connection, referred, book)


def _uses(connection: Connection, table: Table, invites: set[bytes]) -> dict[bytes, int]:
    if not invites:
        return {}
    statement = (
        select(table.c.invite_id, func.count())
        .where(table.c.invite_id.in_(list(invites)))
        .group_by(table.c.invite_id)
    )
    return {row[0]: int(row[1]) for row in connection.execute(statement)}


def _lock(connection: Connection, key: int) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": key})


def _load_chains(connection: Connection, wanted: set[str], book: Book) -> None:
    for _ in range(REFERRAL_CHAIN_MAX + 2):
        rows = select_rows(connection, REFERRALS, "account_id", wanted)
        book.referrals.update({row[0]: row[1] for row in rows})
        wanted = {row[1] for row in rows} - book.referrals.keys()
        if not wanted:
            return


def write_openings(connection: Connection, book: Book) -> None:
    """Write what a group has of referrals and uses of invites."""
    insert_rows(connection, REFERRALS, [tuple(entry) for entry in book.new_referrals])
    insert_rows(connection, INVITE_USES, [tuple(entry) for entry in book.new_invite_uses])
    insert_rows(connection, NODE_INVITE_USES, [tuple(use) for use in book.new_node_invite_uses])
