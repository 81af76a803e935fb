"""Owns reading the ledger's records in the order of its log, page by page, for mirrors and exports.

Theory of operation. A checkpoint closes a batch of leaves, and each leaf names its source. The
records of a source are rows: of a transfer those in `TRANSFER_TABLES`, of an account operation its
record, of a frozen epoch its scores and uptime too; a binding is in the source's name. A transfer
that moves a hold carries the hold's row as well, and (as `TRANSFER_IDS`) the ID of the transfer
that made it. What waits for the log is in no page, nor is what nobody but a decider may see (the
evidence of disputes).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgpack
from sqlalchemy import Column, Connection, Table, func, select

from ledger.errors import ValueRefusedError
from ledger.log.sources import RECORD, TRANSFER, kind_of, number_of
from ledger.store.log.queries import KeptCheckpoint, salt_secret
from ledger.store.log.tables import LOG_CHECKPOINTS, LOG_KEYS, LOG_LEAVES
from ledger.store.schema import newest_revision
from ledger.store.tables import ENTRIES, GRANTS, HOLDS, RECORDS, TRANSFERS
from ledger.store.usage_tables import RCP_EPOCHS, RCP_SCORES, UPTIME
from p2p.codec import decode_message, decode_messages
from p2p.log_messages import Checkpoint
from p2p.mirror_messages import MirrorWelcome, RecordsPage, RecordsRequest, TableRows
from p2p.signing import Signed
from p2p.types import NetworkId
from p2p.usage_messages import RcpEpoch

PAGE_BYTES = 256 * 1024
"""Rows of one page, about; a page with the leaves of the largest batch stays within a frame."""
SOURCES_AT_ONCE = 64
TRANSFER_IDS = "ids:ledger_transfers"
"""Rows (number, ID) of transfers that are only named here."""

Item = tuple[str, tuple[Any, ...]]
"""A row with the name of its table."""


def welcome(connection: Connection, network: NetworkId) -> MirrorWelcome:
    """Give what a mirror must know before its first page."""
    size = connection.execute(select(func.max(LOG_CHECKPOINTS.c.size))).scalar_one_or_none()
    return MirrorWelcome(network, newest_revision(), salt_secret(connection), int(size or 0))


def records_page(connection: Connection, request: RecordsRequest) -> RecordsPage | None:
    """Read one page; None if the log has no more than `request.size` leaves.

    Raises: ValueRefusedError if no batch of this log begins there, or it has no such source.
    """
    kept = _checkpoint_after(connection, request.size)
    if kept is None:
        return None
    leaves = connection.execute(
        select(LOG_LEAVES.c.source, LOG_LEAVES.c.commitment)
        .where(LOG_LEAVES.c.position >= request.size, LOG_LEAVES.c.position < kept.size)
        .order_by(LOG_LEAVES.c.position)
    ).all()
    sources = sorted({row.source for row in leaves})
    if request.source and request.source >= len(sources):
        raise ValueRefusedError(f"this batch has {len(sources)} sources")
    items, next_source, next_row = _fill(connection, sources, request.source, request.row)
    first = request.source == 0 and request.row == 0
    return RecordsPage(
        request.size,
        kept.size,
        _as_checkpoint(kept),
        request.source,
        request.row,
        next_source,
        next_row,
        b"".join(row.commitment for row in leaves) if first else b"",
        tuple(sources) if first else (),
        pack_items(items),
    )


def batch_pages(connection: Connection, size: int) -> Iterator[RecordsPage]:
    """Read all pages of the batch after the first `size` leaves; nothing if there is none."""
    request = RecordsRequest(size)
    while (page := records_page(connection, request)) is not None:
        yield page
        if not (page.next_source or page.next_row):
            return
        request = RecordsRequest(size, page.next_source, page.next_row)


def source_items(connection: Connection, sources: Sequence[bytes]) -> dict[bytes, list[Item]]:
    """Read the rows behind sources."""
    found: dict[bytes, list[Item]] = {source: [] for source in sources}
    numbers = {number_of(source): source for source in sources if kind_of(source) == TRANSFER}
    held: dict[int, list[bytes]] = {}
    for table, column in TRANSFER_TABLES:
        for row in connection.execute(select(table).where(column.in_(list(numbers)))):
            source = numbers[row._mapping[column.name]]
            found[source].append((table.name, tuple(row)))
            hold_number = row._mapping["hold_number"] if table is TRANSFERS else None
            if hold_number is not None and hold_number not in numbers:
                held.setdefault(hold_number, []).append(source)
    _add_holds(connection, held, found)
    _add_records(connection, [s for s in sources if kind_of(s) == RECORD], found)
    return found


TRANSFER_TABLES: tuple[tuple[Table, Column[Any]], ...] = (
    (TRANSFERS, TRANSFERS.c.number),
    (ENTRIES, ENTRIES.c.transfer),
    (HOLDS, HOLDS.c.number),
    (GRANTS, GRANTS.c.number),
)
"""What the audit reads of a transfer, and the column with its number. The rest the rules make."""


def pack_items(items: Sequence[Item]) -> tuple[TableRows, ...]:
    """Group rows by table, as they travel."""
    grouped: dict[str, list[tuple[Any, ...]]] = {}
    for name, row in items:
        grouped.setdefault(name, []).append(row)
    return tuple(
        TableRows(name, msgpack.packb(rows, use_bin_type=True)) for name, rows in grouped.items()
    )


def _fill(
    connection: Connection, sources: Sequence[bytes], source: int, row: int
) -> tuple[list[Item], int, int]:
    """Give rows from a place on, and the place to go on from ((0, 0): this is the end)."""
    items: list[Item] = []
    size_bytes = 0
    for begin in range(source, len(sources), SOURCES_AT_ONCE):
        part = sources[begin : begin + SOURCES_AT_ONCE]
        found = source_items(connection, part)
        for offset, name in enumerate(part):
            rows = found[name]
            for number in range(row, len(rows)):
                if size_bytes > PAGE_BYTES:
                    return items, begin + offset, number
                items.append(rows[number])
                size_bytes += _weight(rows[number])
            row = 0
    return items, 0, 0


def _weight(item: Item) -> int:
    return sum(len(value) if isinstance(value, bytes | str) else 8 for value in item[1])


def _add_holds(
    connection: Connection, held: dict[int, list[bytes]], found: dict[bytes, list[Item]]
) -> None:
    rows = connection.execute(
        select(HOLDS, TRANSFERS.c.transfer_id)
        .join(TRANSFERS, TRANSFERS.c.number == HOLDS.c.number)
        .where(HOLDS.c.number.in_(list(held)))
    )
    for *hold, transfer_id in rows:
        for source in held[hold[0]]:
            found[source].append((HOLDS.name, tuple(hold)))
            found[source].append((TRANSFER_IDS, (hold[0], transfer_id)))


def _add_records(
    connection: Connection, sources: Sequence[bytes], found: dict[bytes, list[Item]]
) -> None:
    digests = [source[1:] for source in sources]
    for row in connection.execute(select(RECORDS).where(RECORDS.c.digest.in_(digests))):
        items = found[RECORD + row.digest]
        items.append((RECORDS.name, tuple(row)))
        if row.purpose == RcpEpoch.PURPOSE:
            items += _epoch_items(connection, row.signed)


def _epoch_items(connection: Connection, signed: bytes) -> Iterator[Item]:
    epoch = decode_message(decode_message(signed, Signed).body, RcpEpoch)
    first, last = epoch.first_day, epoch.first_day + epoch.days - 1
    for table, where in (
        (RCP_EPOCHS, RCP_EPOCHS.c.first_day == first),
        (RCP_SCORES, RCP_SCORES.c.first_day == first),
        (UPTIME, UPTIME.c.day.between(first, last)),
    ):
        for row in connection.execute(select(table).where(where).order_by(*table.primary_key)):
            yield table.name, tuple(row)


def _checkpoint_after(connection: Connection, size: int) -> KeptCheckpoint | None:
    known = select(LOG_CHECKPOINTS.c.size).where(LOG_CHECKPOINTS.c.size == size)
    newest = connection.execute(select(func.max(LOG_CHECKPOINTS.c.size))).scalar_one_or_none()
    if (newest or 0) <= size:
        return None
    if size and connection.execute(known).first() is None:
        raise ValueRefusedError(f"no batch of this log begins at leaf {size}")
    row = connection.execute(
        select(LOG_CHECKPOINTS, LOG_KEYS.c.statement, LOG_KEYS.c.chain)
        .join(LOG_KEYS, LOG_KEYS.c.public_key == LOG_CHECKPOINTS.c.public_key)
        .where(LOG_CHECKPOINTS.c.size > size)
        .order_by(LOG_CHECKPOINTS.c.size)
        .limit(1)
    ).one()
    return KeptCheckpoint(row.size, row.note, row.public_key, row.statement, row.chain)


def _as_checkpoint(kept: KeptCheckpoint) -> Checkpoint:
    chain = tuple(item for item in decode_messages(kept.chain) if isinstance(item, Signed))
    return Checkpoint(kept.note, decode_message(kept.statement, Signed), chain)
