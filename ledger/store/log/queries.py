"""Owns reading for the log: what waits to be logged, tiles, leaves, checkpoints, openings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, Select, func, select

from ledger.log.leaves import LoggedTransfer, Opening, record_opening, transfer_openings
from ledger.log.sources import BINDING, RECORD, TRANSFER, binding_of, kind_of, number_of
from ledger.log.tiles import Place, TileNodes
from ledger.records import Entry
from ledger.store.loading import hold_from_row
from ledger.store.log.tables import (
    LOG_CHECKPOINTS,
    LOG_KEYS,
    LOG_LEAVES,
    LOG_PENDING,
    LOG_TILES,
    SALT_SECRET,
)
from ledger.store.mirror.tables import COSIGNATURES
from ledger.store.tables import ENTRIES, HOLDS, META, RECORDS, TRANSFERS
from p2p.dispute_messages import correction_id

T = TypeVar("T")
_PART = 500
"""Keys in one IN list."""
WITNESS_LINES_MAX = 16
"""Lines of witnesses in one checkpoint: 4 kB at most, and the note stays within its bound."""


@dataclass(frozen=True, slots=True)
class KeptCheckpoint:
    """A checkpoint as it is kept, with its key's LogKey and chain (encoded)."""

    size: int
    note: bytes
    public_key: bytes
    statement: bytes
    chain: bytes


def salt_secret(connection: Connection) -> bytes:
    """Read the secret that leaves' salts are derived from."""
    found = connection.execute(select(META.c.value).where(META.c.name == SALT_SECRET)).scalar_one()
    return bytes.fromhex(found)


def pending_sources(connection: Connection, count_max: int) -> list[bytes]:
    """Read what waits to be logged, at most `count_max` sources."""
    statement = select(LOG_PENDING.c.source).order_by(LOG_PENDING.c.source).limit(count_max)
    return list(connection.execute(statement).scalars())


def latest_checkpoint(connection: Connection) -> KeptCheckpoint | None:
    """Read the newest checkpoint; None if nothing was logged yet."""
    return _checkpoint(connection, select(func.max(LOG_CHECKPOINTS.c.size)))


def checkpoint_of_size(connection: Connection, size: int) -> KeptCheckpoint | None:
    """Read the checkpoint of just this size, if there is one."""
    return _checkpoint(connection, select(LOG_CHECKPOINTS.c.size).filter_by(size=size))


def cosigned_checkpoint(connection: Connection, size_min: int) -> KeptCheckpoint | None:
    """Read the newest checkpoint that a witness cosigned, if it has at least so many leaves."""
    wanted = select(func.max(COSIGNATURES.c.size)).where(COSIGNATURES.c.size >= size_min)
    return _checkpoint(connection, wanted)


def _checkpoint(connection: Connection, wanted: Select[tuple[int]]) -> KeptCheckpoint | None:
    """Read a checkpoint, with the lines of its witnesses in the note."""
    row = connection.execute(
        select(LOG_CHECKPOINTS, LOG_KEYS.c.statement, LOG_KEYS.c.chain)
        .join(LOG_KEYS, LOG_KEYS.c.public_key == LOG_CHECKPOINTS.c.public_key)
        .where(LOG_CHECKPOINTS.c.size == wanted.scalar_subquery())
    ).first()
    if row is None:
        return None
    lines = connection.execute(
        select(COSIGNATURES.c.line)
        .where(COSIGNATURES.c.size == row.size)
        .order_by(COSIGNATURES.c.at_s.desc(), COSIGNATURES.c.name)
        .limit(WITNESS_LINES_MAX)
    ).scalars()
    note = row.note + b"".join(lines)
    return KeptCheckpoint(row.size, note, row.public_key, row.statement, row.chain)


def tile_nodes(connection: Connection) -> TileNodes:
    """Give the tree's hashes, read tile by tile as they are needed."""

    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    statement = (
        f"SELECT hashes FROM {LOG_TILES.name} "  # noqa: S608 - names of ours only
        f"WHERE level = {mark} AND number = {mark}"
    )

    def read(place: Place) -> bytes:
        return connection.exec_driver_sql(statement, place).scalar_one_or_none() or b""

    return TileNodes(read)


def leaves_between(connection: Connection, begin: int, end: int) -> list[bytes]:
    """Read the data of the leaves from `begin` up to `end`."""
    statement = (
        select(LOG_LEAVES.c.commitment)
        .where(LOG_LEAVES.c.position >= begin, LOG_LEAVES.c.position < end)
        .order_by(LOG_LEAVES.c.position)
    )
    return list(connection.execute(statement).scalars())


def positions_of(connection: Connection, source: bytes) -> dict[int, int]:
    """Read where the leaves of a source are: part -> position."""
    statement = select(LOG_LEAVES.c.part, LOG_LEAVES.c.position).where(
        LOG_LEAVES.c.source == source
    )
    return {row.part: row.position for row in connection.execute(statement)}


def openings_of(connection: Connection, sources: Sequence[bytes]) -> dict[bytes, list[Opening]]:
    """Give the openings of sources, as what the ledger holds now makes them.

    Raises: KeyError (a source that the ledger does not hold), MalformedError (a damaged row).
    """
    found: dict[bytes, list[Opening]] = {}
    numbers = {number_of(source): source for source in sources if kind_of(source) == TRANSFER}
    for transfer in logged_transfers(connection, list(numbers)):
        found[numbers[transfer.number]] = transfer_openings(transfer)
    digests = {source[1:]: source for source in sources if kind_of(source) == RECORD}
    for part in _parts(list(digests)):
        for row in connection.execute(select(RECORDS).where(RECORDS.c.digest.in_(part))):
            opening = record_opening(row.purpose, row.subject, row.signed, row.at_ms)
            found[digests[row.digest]] = [opening]
    for source in sources:
        if kind_of(source) == BINDING:
            found[source] = [binding_of(source)]
    return {source: found[source] for source in sources}


def logged_transfers(connection: Connection, numbers: Sequence[int]) -> list[LoggedTransfer]:
    """Read transfers with their entries and holds, by their rows' numbers."""
    result: list[LoggedTransfer] = []
    for part in _parts(numbers):
        rows = connection.execute(
            select(TRANSFERS).where(TRANSFERS.c.number.in_(part)).order_by(TRANSFERS.c.number)
        ).all()
        entries: dict[int, list[Entry]] = {}
        for row in connection.execute(
            select(ENTRIES.c.transfer, ENTRIES.c.account, ENTRIES.c.amount)
            .where(ENTRIES.c.transfer.in_(part))
            .order_by(ENTRIES.c.transfer, ENTRIES.c.position)
        ):
            entries.setdefault(row.transfer, []).append(Entry(row.account, row.amount))
        held = {row.hold_number for row in rows if row.hold_number is not None}
        holds = {
            hold.number: hold
            for hold, _ in map(
                hold_from_row,
                connection.execute(
                    select(HOLDS, TRANSFERS.c.transfer_id)
                    .join(TRANSFERS, TRANSFERS.c.number == HOLDS.c.number)
                    .where(HOLDS.c.number.in_(held))
                ),
            )
        }
        result += [
            LoggedTransfer(
                row.number,
                row.transfer_id,
                row.kind,
                row.namespace,
                row.content,
                row.request,
                row.result,
                row.at_ms,
                tuple(entries.get(row.number, ())),
                holds[row.hold_number] if row.hold_number is not None else None,
            )
            for row in rows
        ]
    return result


def subject_sources(connection: Connection, subject: bytes) -> list[bytes]:
    """Name the sources that a subject means: a transfer and what ended it, or a record."""
    if len(subject) == 32:
        return [RECORD + subject]
    numbers = connection.execute(
        select(TRANSFERS.c.number, HOLDS.c.ended_by)
        .join(HOLDS, HOLDS.c.number == TRANSFERS.c.number, isouter=True)
        .where(TRANSFERS.c.transfer_id == subject)
    ).first()
    if numbers is None:
        return []
    correction = connection.execute(
        select(TRANSFERS.c.number).where(TRANSFERS.c.transfer_id == correction_id(subject))
    ).scalar_one_or_none()
    found = [number for number in (*numbers, correction) if number is not None]
    return [TRANSFER + number.to_bytes(8, "big") for number in found]


def _parts(items: Sequence[T]) -> list[list[T]]:
    whole = list(items)
    return [whole[at : at + _PART] for at in range(0, len(whole), _PART)]
