"""Owns reading and writing gateways' exposure for a group of operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from ledger.book import Book
from ledger.exposure import GatewayExposure
from ledger.operations import OpenLease, Operation, PlaceHold
from ledger.store.exposure_tables import EXPOSURES
from ledger.store.statements import select_rows
from p2p.types import PeerId

_PLACES = {"sqlite": "?", "postgresql": "%s"}

_HOLDING = (PlaceHold, OpenLease)


def load_exposures(connection: Connection, operations: Iterable[Operation], book: Book) -> None:
    """Read and lock the rows of the gateways that hold something, or want to (after the holds).

    A gateway that has no row yet gets one first, so that there is something to lock.
    """
    gateways = {
        operation.gateway_id
        for operation in operations
        if isinstance(operation, PlaceHold | OpenLease)
    }
    gateways.update([hold.gateway_id for hold in book.holds.values()])
    _load(connection, gateways, book)
    if missing := gateways - book.exposures.keys():
        rows = [(gateway_id, 0, 0, 0) for gateway_id in sorted(missing)]
        _insert(connection, rows, "DO NOTHING")
        _load(connection, missing, book)


def _load(connection: Connection, gateways: Iterable[PeerId], book: Book) -> None:
    for gateway_id, *counts in select_rows(
        connection, EXPOSURES, "gateway_id", sorted(gateways), lock=True
    ):
        book.exposures[gateway_id] = GatewayExposure(PeerId(gateway_id), *counts)


def write_exposures(connection: Connection, book: Book) -> None:
    """Write what changed of rows that were locked (or of a copy that nobody else writes to)."""
    changed = [book.exposures[gateway_id] for gateway_id in sorted(book.changed_exposures)]
    rows = [(e.gateway_id, e.held, e.day, e.charged) for e in changed]
    _insert(
        connection,
        rows,
        "DO UPDATE SET held = excluded.held, day = excluded.day, charged = excluded.charged",
    )
    book.changed_exposures.clear()


def _insert(
    connection: Connection, rows: Sequence[tuple[str, int, int, int]], conflict: str
) -> None:
    place = _PLACES[connection.dialect.name]
    statement = (
        f"INSERT INTO {EXPOSURES.name} (gateway_id, held, day, charged) "  # noqa: S608 - ours
        f"VALUES ({place}, {place}, {place}, {place}) ON CONFLICT (gateway_id) {conflict}"
    )
    connection.exec_driver_sql(statement, list(rows))
