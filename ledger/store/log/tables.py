"""Owns the tables of the transparency log.

`ledger_log_pending` is an outbox: what is to be logged is named there in the transaction that
writes it, and taken out in the one that appends it. So nothing is lost or logged twice, whatever
dies and however commits are ordered. A source is one byte of kind and what it names (`LogSource`).
"""

from __future__ import annotations

from sqlalchemy import Index
from sqlmodel import SQLModel

from ledger.store.tables import IMMUTABLE, _big, _bytes, _number, _table


class LogPendingRow(SQLModel, table=True):
    """Something that has no leaf yet."""

    __tablename__ = "ledger_log_pending"
    __table_args__ = {"sqlite_with_rowid": False}
    source: bytes = _bytes(primary_key=True)


class LogLeafRow(SQLModel, table=True):
    """A leaf: its source, which of the source's openings it is, and its data."""

    __tablename__ = "ledger_log_leaves"
    __table_args__ = (Index("ledger_log_leaves_source", "source", "part"),)
    position: int = _number(primary_key=True)
    source: bytes = _bytes()
    part: int = _big()
    commitment: bytes = _bytes()


class LogTileRow(SQLModel, table=True):
    """A tile of the tree (`ledger.log.tiles`); the last of each level still grows."""

    __tablename__ = "ledger_log_tiles"
    level: int = _big(primary_key=True)
    number: int = _big(primary_key=True)
    hashes: bytes = _bytes()


class LogCheckpointRow(SQLModel, table=True):
    """A signed checkpoint, one for each batch of leaves."""

    __tablename__ = "ledger_log_checkpoints"
    size: int = _number(primary_key=True)
    note: bytes = _bytes()
    public_key: bytes = _bytes()


class LogKeyRow(SQLModel, table=True):
    """A log key: the bootstrap's signed LogKey, and its certificate chain (encoded)."""

    __tablename__ = "ledger_log_keys"
    public_key: bytes = _bytes(primary_key=True)
    statement: bytes = _bytes()
    chain: bytes = _bytes()


LOG_PENDING = _table(LogPendingRow)
LOG_LEAVES = _table(LogLeafRow)
LOG_TILES = _table(LogTileRow)
LOG_CHECKPOINTS = _table(LogCheckpointRow)
LOG_KEYS = _table(LogKeyRow)
IMMUTABLE += [LOG_LEAVES, LOG_CHECKPOINTS, LOG_KEYS]
SALT_SECRET = "log_salt_secret"  # noqa: S105 - the name of a row of ledger_meta
