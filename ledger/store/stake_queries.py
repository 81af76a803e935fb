"""Owns reading stakes for subclouds: they are what lies in their ledger accounts."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, func, select

from ledger.accounts import stake_account
from ledger.book import Book
from ledger.operations import Operation
from ledger.stakes import OpenStake, ReturnStake, StakeSubcloud
from ledger.store.directory_tables import SUBCLOUDS
from ledger.store.tables import ENTRIES, TRANSFERS


def stake_of(connection: Connection, subcloud_id: str) -> int:
    """Give what is set aside for a subcloud now (microcredits)."""
    statement = select(func.sum(ENTRIES.c.amount)).where(
        ENTRIES.c.account == stake_account(subcloud_id)
    )
    return int(connection.execute(statement).scalar_one() or 0)


def staked_by(connection: Connection, path: str) -> int:
    """Give what a namespace has set aside for subclouds now (microcredits)."""
    statement = (
        select(func.sum(ENTRIES.c.amount))
        .join(TRANSFERS, TRANSFERS.c.number == ENTRIES.c.transfer)
        .where(ENTRIES.c.account >= "stake:", ENTRIES.c.account < "stake;")
        .where(TRANSFERS.c.namespace == path)
    )
    return int(connection.execute(statement).scalar_one() or 0)


def load_stakes(connection: Connection, operations: Iterable[Operation], book: Book) -> None:
    """Read the stakes that these operations name, once their accounts are locked."""
    for operation in operations:
        if isinstance(operation, StakeSubcloud | ReturnStake):
            identity = operation.document.subcloud_id
            statement = (
                select(TRANSFERS.c.namespace, ENTRIES.c.amount, TRANSFERS.c.at_ms)
                .join(TRANSFERS, TRANSFERS.c.number == ENTRIES.c.transfer)
                .where(ENTRIES.c.account == stake_account(identity))
                .order_by(TRANSFERS.c.number)
            )
            rows = connection.execute(statement).all()
            if rows:
                last, total = rows[-1], sum(row.amount for row in rows)
                book.stakes[identity] = OpenStake(identity, last.namespace, total, last.at_ms)
            if isinstance(operation, ReturnStake) and operation.ended is None:
                # Another bootstrap on this database may know what we have not heard of yet.
                known = select(SUBCLOUDS.c.subcloud_id).where(SUBCLOUDS.c.subcloud_id == identity)
                book.published.update(connection.execute(known).scalars())
