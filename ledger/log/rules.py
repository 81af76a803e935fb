"""Owns the rule by which the log grows: each batch continues exactly what is there. Pure."""

from __future__ import annotations

from ledger.book import Book
from ledger.errors import ConflictError
from ledger.operations import AppendLog
from ledger.records import Change
from p2p.ledger_messages import TransferResult


def append_log(book: Book, operation: AppendLog, now_ms: int) -> Change:
    """Append a batch of leaves.

    Raises: ConflictError if another sequencer was faster: the batch is made again.
    """
    batch = operation.batch
    if batch.base_size != book.log_size:
        raise ConflictError(f"the log has {book.log_size} leaves by now, not {batch.base_size}")
    if not book.log_pending.issuperset(batch.sources):
        raise ConflictError("another sequencer has logged some of these sources")
    return Change(TransferResult(bytes(16), 0, 0, False), log_batch=batch)
