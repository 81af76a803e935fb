"""Owns writing uptime records and frozen epochs."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, text

from ledger.book import Book
from ledger.store.statements import insert_rows
from ledger.store.usage_tables import RCP_EPOCHS, RCP_SCORES, UPTIME
from p2p.codec import encode_message

SCORE_COLUMNS = ("account_id", "points", "work", "uptime_minutes", "referral_fees")
"""Of a score's row, as RcpScore has them."""
_EPOCH_LOCK = 0x7263_7065_706F
"""PostgreSQL advisory lock: epochs follow each other, whoever freezes them."""


def load_frozen_day(connection: Connection, *, lock: bool = True) -> int | None:
    """Read the last day of the last frozen epoch; until the commit nobody else freezes one."""
    if lock and connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _EPOCH_LOCK})
    found: int | None = connection.execute(select(func.max(RCP_EPOCHS.c.last_day))).scalar_one()
    return found


def write_rcp(connection: Connection, book: Book) -> None:
    """Write what a group has of uptime records and epochs."""
    for kept in book.new_uptime:
        mark = "?" if connection.dialect.name == "sqlite" else "%s"
        connection.exec_driver_sql(
            f"INSERT INTO {UPTIME.name} (day, bootstrap_id, part, signed) "  # noqa: S608
            f"VALUES ({mark}, {mark}, {mark}, {mark}) "
            "ON CONFLICT (day, bootstrap_id, part) DO UPDATE SET signed = excluded.signed",
            (
                kept.document.day,
                kept.bootstrap_id,
                kept.document.part,
                encode_message(kept.signed),
            ),
        )
    for epoch in book.new_epochs:
        first_day = epoch.document.first_day
        row = (first_day, epoch.last_day, encode_message(epoch.signed))
        insert_rows(connection, RCP_EPOCHS, [row])
        rows = [
            (first_day, place, *(getattr(score, name) for name in SCORE_COLUMNS))
            for place, score in enumerate(epoch.scores)
        ]
        insert_rows(connection, RCP_SCORES, rows)
