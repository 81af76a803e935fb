"""Owns the rules by which uptime records and frozen epochs enter the ledger. Pure.

They move no money. An epoch is frozen once: whoever comes second finds it done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import ConflictError, ValueRefusedError
from ledger.operations import FreezeEpoch, KeepUptime
from ledger.rcp import scores_digest
from ledger.records import Change, SignedRecord
from p2p.codec import encode_message
from p2p.ledger_messages import TransferResult
from p2p.signing import Signed

if TYPE_CHECKING:
    from ledger.book import Book

SUBJECT = "rcp"


def keep_uptime(book: Book, operation: KeepUptime, now_ms: int) -> Change:
    """Take an uptime record; after its day was frozen it comes too late and changes nothing."""
    if book.frozen_day is not None and operation.document.day <= book.frozen_day:
        return Change(_result(operation.signed, exists=True))
    return Change(_result(operation.signed), uptime=operation)


def freeze_epoch(book: Book, operation: FreezeEpoch, now_ms: int) -> Change:
    """Freeze the epoch after the last frozen one.

    Raises: ConflictError (it would overlap or leave a gap), ValueRefusedError (not what was
    signed).
    """
    document, signed = operation.document, operation.signed
    frozen = book.frozen_day
    if frozen is not None and operation.last_day <= frozen:
        return Change(_result(signed, exists=True))
    if frozen is not None and document.first_day != frozen + 1:
        raise ConflictError(f"the next epoch starts on day {frozen + 1}, not {document.first_day}")
    if (document.accounts, document.scores_digest) != (
        len(operation.scores),
        scores_digest(operation.scores),
    ):
        raise ValueRefusedError("these are not the scores that the epoch was signed over")
    record = SignedRecord(
        signed.digest(), document.PURPOSE, SUBJECT, encode_message(signed), now_ms
    )
    return Change(_result(signed), record=record, epoch=operation)


def _result(signed: Signed, *, exists: bool = False) -> TransferResult:
    return TransferResult(signed.digest()[:16], 0, 0, exists)
