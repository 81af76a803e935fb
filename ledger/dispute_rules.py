"""Owns the rules of disputes: who may contest a charge, answer, and decide. Pure.

Theory of operation. A charge is disputed at most once, by the account that paid it, within a window
from the capture that is never longer than earnings need to mature. While the dispute is open the
capture's pay does not mature, however long the decision takes; so a decision always finds what it
takes back. It is made once, by one correction transfer whose ID follows from the hold's:
earnings, fees and treasury -> available, in the proportion in which they were paid, nothing if the
refund is 0. The key that was charged gets the refund back under its total cap, not under the cap of
the day.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.account_rules import operated, record_of, result_of, signing_account
from ledger.accounts import (
    available_account,
    operator_accounts,
)
from ledger.book import Book
from ledger.disputes import (
    Answer,
    Charge,
    Decision,
    Dispute,
    DisputeChange,
    corrected_usage,
    corrected_work,
    correction_entries,
)
from ledger.errors import (
    ChargeUnknownError,
    DisputeEndedError,
    DisputeExistsError,
    DisputeLateError,
    DisputeUnknownError,
    LimitError,
    ValueRefusedError,
)
from ledger.limits import DISPUTES_OPEN_PER_ACCOUNT_MAX
from ledger.operations import AnswerDispute, OpenDispute, ResolveDispute, content_of
from ledger.records import Change, Transfer, TransferKind
from ledger.usage import day_of
from p2p.codec import encode_message
from p2p.dispute_messages import correction_id
from p2p.ledger_messages import TransferResult
from p2p.types import AccountId


def open_dispute(book: Book, operation: OpenDispute, now_ms: int) -> Change:
    """Contest the charge of a hold.

    Raises: AccountUnknownError, NotAuthorizedError, ChargeUnknownError (none, or not this
    account's), DisputeExistsError, DisputeLateError, ValueRefusedError, LimitError.
    """
    document, signed = operation.document, operation.signed
    account = signing_account(book, document.account_id, signed)
    charge = book.disputes.charges.get(document.hold_id)
    if charge is None or charge.account_id != account.account_id:
        raise ChargeUnknownError(
            f"this account has no charge for hold {document.hold_id.hex()} (one that is not yet "
            "settled cannot be disputed)"
        )
    existing = book.disputes.disputes.get(document.hold_id)
    if existing is not None:
        if existing.record == signed.digest():
            return Change(result_of(signed, exists=True))
        raise DisputeExistsError("this charge is disputed already: there is one dispute per charge")
    if now_ms > charge.at_ms + operation.window_ms:
        raise DisputeLateError(charge.at_ms, operation.window_ms)
    if not 1 <= document.claimed <= charge.charged:
        raise ValueRefusedError(
            f"{charge.charged} microcredits were charged, {document.claimed} cannot be claimed"
        )
    _check_text(document.reason, "a dispute's reason")
    if book.disputes.open_counts.get(account.account_id, 0) >= DISPUTES_OPEN_PER_ACCOUNT_MAX:
        raise LimitError(
            f"{DISPUTES_OPEN_PER_ACCOUNT_MAX} disputes of this account are open: wait for decisions"
        )
    after = operated(account)
    dispute = Dispute(
        document.hold_id,
        charge.number,
        account.account_id,
        charge.key_id,
        charge.charged,
        charge.at_ms,
        document.claimed,
        document.evidence,
        signed.digest(),
        now_ms,
    )
    return Change(
        result_of(signed),
        account=after,
        record=record_of(signed, document, _subject(document.hold_id), after, now_ms),
        dispute=DisputeChange(opened=dispute, evidence=operation.evidence),
    )


def answer_dispute(book: Book, operation: AnswerDispute, now_ms: int) -> Change:
    """Say what an operator has to say about a dispute of its pay: once, before the decision.

    Raises: AccountUnknownError, NotAuthorizedError, DisputeUnknownError (none, or it is not about
    this account's pay), DisputeEndedError, DisputeExistsError, ValueRefusedError.
    """
    document, signed = operation.document, operation.signed
    account = signing_account(book, document.account_id, signed)
    charge = book.disputes.charges.get(document.hold_id)
    if (
        charge is None
        or document.hold_id not in book.disputes.disputes
        or not is_paid(charge, account.account_id)
    ):
        raise DisputeUnknownError("there is no dispute about this account's pay for this hold")
    existing = book.disputes.answers.get((document.hold_id, account.account_id))
    if existing is not None and existing.record == signed.digest():
        return Change(result_of(signed, exists=True))
    if document.hold_id in book.disputes.decided:
        raise DisputeEndedError("this dispute is decided")
    if existing is not None:
        raise DisputeExistsError("this account has answered already")
    _check_text(document.text, "an answer")
    after = operated(account)
    answer = Answer(document.hold_id, account.account_id, signed.digest(), now_ms)
    return Change(
        result_of(signed),
        account=after,
        record=record_of(signed, document, _subject(document.hold_id), after, now_ms),
        dispute=DisputeChange(answered=answer),
    )


def resolve_dispute(book: Book, operation: ResolveDispute, now_ms: int) -> Change:
    """End a dispute: earnings, fees, treasury -> available, as much as the decider says.

    Raises: DisputeUnknownError, DisputeEndedError (decided otherwise before), ValueRefusedError.
    """
    document, signed = operation.document, operation.signed
    transfer_id = correction_id(document.hold_id)
    content = content_of(signed.signer, document)
    past = book.past.get(transfer_id)
    if past is not None:
        if past.content != content:
            raise DisputeEndedError("this dispute is decided already, and decisions are final")
        return Change(replace(past.result, exists=True))
    charge = book.disputes.charges.get(document.hold_id)
    if charge is None or document.hold_id not in book.disputes.disputes:
        raise DisputeUnknownError(f"there is no dispute about hold {document.hold_id.hex()}")
    refund = document.refund
    if refund > charge.charged:
        raise ValueRefusedError(
            f"{charge.charged} microcredits were charged, {refund} cannot be given back"
        )
    _check_text(document.note, "a decision's note", needed=False)
    namespace, usage = book.namespaces[charge.namespace], book.usage[charge.key_id]
    after = namespace.moved(namespace.available + refund, namespace.held)
    result = TransferResult(transfer_id, refund, after.available, False)
    transfer = Transfer(
        transfer_id,
        TransferKind.CORRECTION,
        charge.namespace,
        None,
        content,
        encode_message(signed),
        correction_entries(charge, refund, available_account(charge.namespace)),
        result,
        now_ms,
    )
    day = day_of(now_ms)
    return Change(
        result,
        transfer,
        namespace=after,
        usage=replace(usage, spent=usage.spent - refund),
        consumed=corrected_usage(charge, refund, day) if refund else None,
        worked=corrected_work(charge, refund, day),
        dispute=DisputeChange(decided=Decision(document.hold_id, transfer_id, refund, now_ms)),
    )


def is_paid(charge: Charge, account_id: AccountId) -> bool:
    """Tell whether an account's nodes, gateways or subclouds were paid by a charge."""
    own = operator_accounts(account_id)
    return any(part.account in own for part in charge.paid)


def _subject(hold_id: bytes) -> str:
    return f"dispute:{hold_id.hex()}"


def _check_text(text: str, what: str, *, needed: bool = True) -> None:
    if needed and not text.strip():
        raise ValueRefusedError(f"{what} is missing")
    if not all(character.isprintable() or character == "\n" for character in text):
        raise ValueRefusedError(f"{what} is printable text")
