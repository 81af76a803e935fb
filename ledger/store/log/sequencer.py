"""Owns reading and making the next batch of the log, in one transaction of a reader.

Theory of operation. Any process may sequence: the batch is made beside the writer, from one
snapshot, and appended through the writer as an operation, which is refused if the log has grown
meanwhile. So there is no leader to fail over; on PostgreSQL an advisory lock only keeps two
processes from doing the same work. A checkpoint is signed before its batch is committed, but
nobody sees it before, and a batch that is not committed is thrown away with its checkpoint.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from ledger.log.appending import LogSigner, make_batch
from ledger.log.batch import LogBatch
from ledger.store.log.queries import openings_of, pending_sources, salt_secret, tile_nodes
from ledger.store.log.writing import log_size

_SEQUENCER_LOCK = 0x6C6F_6720_7365_7100
"""PostgreSQL advisory lock: who has it makes a batch."""


def next_batch(connection: Connection, signer: LogSigner, sources_max: int) -> LogBatch | None:
    """Make the batch that logs what waits; None if nothing does, or another process is at it."""
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_try_advisory_xact_lock(:k)")
        if not connection.execute(lock, {"k": _SEQUENCER_LOCK}).scalar_one():
            return None
    sources = pending_sources(connection, sources_max)
    if not sources:
        return None
    return make_batch(
        log_size(connection),
        openings_of(connection, sources),
        salt_secret(connection),
        tile_nodes(connection),
        signer,
    )
