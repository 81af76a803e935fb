"""Owns the rules of leases: granted, captured from, given back, expired. Pure.

Theory of operation. A lease is a hold without a job: what it sets aside counts as held, under all
of its key's limits, until it is charged or comes back. Its amount never changes; beside it a
LeaseUse adds up what was charged and what was given back, and the rest is what is still held. Each
capture moves its charge from held to those who earned it, and nothing back to available: that is
done by returns and by the lease's end (a final return, or expiry). So the sum of all captures of a
lease can never be above its amount, whatever the gateway promised to nodes.

Fees and model are those of the lease's start. A key that is revoked, rotated or over its time
later does not stop what its lease granted before: the jobs were run in good faith.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ledger.accounts import available_account, held_account
from ledger.book import Book
from ledger.consumption import captured_usage, captured_work, lease_usage
from ledger.errors import (
    HoldEndedError,
    HoldExpiredError,
    HoldForeignError,
    HoldUnknownError,
    InsufficientFundsError,
    LeaseExhaustedError,
    ReceiptError,
    ValueRefusedError,
)
from ledger.key_limits import usage_after_hold
from ledger.key_proof import MakeMac, proved_key
from ledger.operations import (
    CaptureLeased,
    ExpireHold,
    OpenLease,
    ReturnLease,
    content_of,
    expiry_id,
    leased_capture_content,
)
from ledger.receipts import settle
from ledger.records import (
    ApiKeyEntry,
    Change,
    Entry,
    Hold,
    HoldEnd,
    HoldState,
    KeyUsage,
    LeaseUse,
    Transfer,
    TransferKind,
)
from ledger.subcloud_rules import fees_of, judge_caller
from ledger.transfer_rules import capture_entries, expire_hold, repeated
from ledger.usage import UsageEntry
from p2p.api_keys import lease_mac
from p2p.codec import encode_message
from p2p.lease_messages import LeasedHold, leased_hold_id
from p2p.ledger_messages import TransferResult
from p2p.limits import CLOCK_SKEW_MS_MAX
from p2p.types import PeerId

NO_JOB = bytes(16)
"""The job ID of a lease."""


def rest_of(lease: Hold, use: LeaseUse) -> int:
    """Give what a lease that has not ended still holds (microcredits)."""
    return lease.maximum - use.charged - use.returned


# --- granting --------------------------------------------------------------------------------
def open_lease(book: Book, operation: OpenLease, now_ms: int) -> Change:
    """Set a part of a key's credit aside for a gateway: available -> held.

    Raises: ConflictError, ApiKeyError (unknown, proof, revoked, expired, not allowed, cap),
    CallerNotAllowedError, ForeignNamespaceError, ValueRefusedError (no leases here, or too much),
    HoldExpiredError, InsufficientFundsError.
    """
    document, signed = operation.document, operation.signed
    content = content_of(signed.signer, document)
    if found := repeated(book, document.lease_id, content):
        return found
    key = proved_key(
        book, operation.gateway_id, operation.document, _mac_of_lease(operation), now_ms
    )
    network, account = document.caller_network, operation.gateway_account
    judge_caller(book, operation.context, key, account, network)
    amount = document.amount
    if not 0 < amount <= operation.amount_max:
        raise ValueRefusedError(
            f"a lease of this network is 1 to {operation.amount_max} microcredits, not {amount}"
            if operation.amount_max
            else "this network has no leases"
        )
    if not now_ms < document.expires_ms <= now_ms + operation.lifetime_ms_max:
        raise HoldExpiredError(
            f"a lease ends within {operation.lifetime_ms_max} ms from now, "
            f"not in {document.expires_ms - now_ms} ms"
        )
    usage = usage_after_hold(key, book.usage[key.key_id], amount, now_ms)
    namespace = book.namespaces[key.namespace]
    if namespace.available < amount:
        raise InsufficientFundsError(namespace.available, amount)
    after = namespace.moved(namespace.available - amount, namespace.held + amount)
    path = namespace.path
    transfer = Transfer(
        document.lease_id,
        TransferKind.LEASE,
        path,
        document.lease_id,
        content,
        encode_message(signed),
        (Entry(available_account(path), -amount), Entry(held_account(path), amount)),
        TransferResult(document.lease_id, amount, after.available, False),
        now_ms,
    )
    return Change(
        transfer.result,
        transfer,
        namespace=after,
        usage=usage,
        hold=_new_lease(operation, key, usage.day),
        lease=LeaseUse(document.lease_id),
    )


def _new_lease(operation: OpenLease, key: ApiKeyEntry, usage_day: int) -> Hold:
    document = operation.document
    return Hold(
        document.lease_id,
        NO_JOB,
        key.key_id,
        key.namespace,
        operation.gateway_id,
        operation.gateway_account,
        operation.model_digest,
        document.amount,
        document.terms,
        fees_of(operation.fees, document.terms, operation.context),
        document.issued_ms,
        document.expires_ms,
        usage_day=usage_day,
        is_lease=True,
        owner_account=operation.context.owner_account,
    )


def _mac_of_lease(operation: OpenLease) -> MakeMac:
    document = operation.document
    return lambda hold_key: lease_mac(
        hold_key,
        operation.network_id,
        operation.gateway_id,
        document.lease_id,
        document.amount,
        document.expires_ms,
    )


# --- captures --------------------------------------------------------------------------------
def leased_part(lease: Hold, part: LeasedHold) -> Hold:
    """Give the hold that one job has in a lease: what its legs are settled against."""
    return replace(
        lease,
        hold_id=part.hold_id,
        job_id=part.job_id,
        maximum=part.maximum,
        issued_ms=part.issued_ms,
        expires_ms=part.expires_ms,
        is_lease=False,
    )


def capture_leased(book: Book, operation: CaptureLeased, now_ms: int) -> Change:
    """Settle a job out of a lease: held -> earnings, fees, treasury.

    Raises: ConflictError, HoldError (the lease: unknown, foreign, ended, expired), ReceiptError,
    ChargeError, LeaseExhaustedError.
    """
    document, signed, part = operation.document, operation.signed, operation.hold
    content = leased_capture_content(signed.signer, document)
    if found := repeated(book, part.hold_id, content):
        return found
    lease = _own_lease(book, part.lease_id, operation.gateway_id)
    if lease.expires_ms <= now_ms:
        raise HoldExpiredError(f"this lease expired {now_ms - lease.expires_ms} ms ago")
    check_part(lease, part)
    hold = leased_part(lease, part)
    settlement = settle(hold, operation.legs, now_ms)
    charge, use = settlement.charge, book.leases[lease.hold_id]
    # What its gateway gave back as not needed is the same to a node as what never was there.
    left = 0 if lease.hold_id in book.ends else rest_of(lease, use)
    if charge > left or lease.hold_id in book.ends:
        raise LeaseExhaustedError(charge, left)
    namespace, usage = book.namespaces[lease.namespace], book.usage[lease.key_id]
    after = namespace.moved(namespace.available, namespace.held - charge)
    transfer = Transfer(
        part.hold_id,
        TransferKind.LEASED_CAPTURE,
        lease.namespace,
        lease.hold_id,
        content,
        encode_message(signed),
        capture_entries(book, replace(hold, maximum=charge), operation, settlement),
        TransferResult(part.hold_id, charge, after.available, False),
        now_ms,
    )
    return Change(
        transfer.result,
        transfer,
        namespace=after,
        usage=replace(usage, spent=usage.spent + charge, held=usage.held - charge),
        lease=replace(use, charged=use.charged + charge),
        consumed=captured_usage(hold, operation, settlement, now_ms),
        worked=captured_work(hold, operation, settlement, book.bindings, now_ms),
    )


def _own_lease(book: Book, lease_id: bytes, gateway_id: PeerId) -> Hold:
    """Give a gateway's lease, unless it expired. Raises: HoldError."""
    lease = book.holds.get(lease_id)
    if lease is None or not lease.is_lease:
        raise HoldUnknownError(f"there is no lease {lease_id.hex()}")
    if lease.gateway_id != gateway_id:
        raise HoldForeignError("this lease belongs to another gateway")
    end = book.ends.get(lease_id)
    if end is not None and end.state is not HoldState.RELEASED:
        raise HoldEndedError(end.state.value)
    return lease


def check_part(lease: Hold, part: LeasedHold) -> None:
    """Refuse a leased hold that is not its lease's, or not within it. Raises: ReceiptError."""
    if part.hold_id != leased_hold_id(part.lease_id, part.job_id):
        raise ReceiptError("the ID of a leased hold does not follow from its lease and job")
    if part.maximum > lease.maximum:
        raise ReceiptError("a leased hold is larger than its lease")
    if part.expires_ms > lease.expires_ms:
        raise ReceiptError("a leased hold outlives its lease")
    if part.issued_ms < lease.issued_ms - CLOCK_SKEW_MS_MAX:
        raise ReceiptError("a leased hold is older than its lease")


# --- the way back ----------------------------------------------------------------------------
def return_lease(book: Book, operation: ReturnLease, now_ms: int) -> Change:
    """Give a part of a lease back, or all that is left and end it: held -> available.

    Raises: ConflictError, HoldError (the lease: unknown, foreign, ended), LeaseExhaustedError,
    ValueRefusedError.
    """
    document, signed = operation.document, operation.signed
    content = content_of(signed.signer, document)
    if found := repeated(book, document.return_id, content):
        return found
    lease = _own_lease(book, document.lease_id, operation.gateway_id)
    end = book.ends.get(lease.hold_id)
    if end is not None:
        raise HoldEndedError(end.state.value)
    left = rest_of(lease, book.leases[lease.hold_id])
    if document.final and document.amount:
        raise ValueRefusedError("a final return gives all that is left: its amount is 0")
    if document.amount > left:
        raise LeaseExhaustedError(document.amount, left)
    return _give_back(
        book,
        lease,
        _Return(
            document.return_id,
            TransferKind.LEASE_RETURN,
            left if document.final else document.amount,
            HoldState.RELEASED if document.final else None,
            content,
            encode_message(signed),
            lease_usage(lease, document.failed, document.client_left, now_ms),
        ),
        now_ms,
    )


def expire_hold_or_lease(book: Book, operation: ExpireHold, now_ms: int) -> Change:
    """End a hold or a lease whose time is over: what is left of it goes back to available.

    Does nothing if it has ended already.
    Raises: HoldUnknownError, HoldExpiredError (its time is not over yet).
    """
    lease = book.holds.get(operation.hold_id)
    done = operation.hold_id in book.ends
    if lease is None or not lease.is_lease or done or lease.expires_ms > operation.now_ms:
        return expire_hold(book, operation, now_ms)
    transfer_id = expiry_id(lease.hold_id)
    left = rest_of(lease, book.leases[lease.hold_id])
    return _give_back(
        book,
        lease,
        _Return(transfer_id, TransferKind.EXPIRE, left, HoldState.EXPIRED, transfer_id, b"", None),
        now_ms,
    )


@dataclass(frozen=True, slots=True)
class _Return:
    """Something that goes back; `ends` is None if the lease goes on."""

    transfer_id: bytes
    kind: TransferKind
    amount: int
    ends: HoldState | None
    content: bytes
    request: bytes
    consumed: UsageEntry | None


def _give_back(book: Book, lease: Hold, back: _Return, now_ms: int) -> Change:
    namespace, usage = book.namespaces[lease.namespace], book.usage[lease.key_id]
    path, amount, use = lease.namespace, back.amount, book.leases[lease.hold_id]
    after = namespace.moved(namespace.available + amount, namespace.held - amount)
    entries = (Entry(held_account(path), -amount), Entry(available_account(path), amount))
    transfer = Transfer(
        back.transfer_id,
        back.kind,
        path,
        lease.hold_id,
        back.content,
        back.request,
        entries if amount else (),
        TransferResult(back.transfer_id, amount, after.available, False),
        now_ms,
    )
    end = None
    if back.ends is not None:
        end = HoldEnd(lease.hold_id, back.ends, use.charged, back.transfer_id)
    return Change(
        transfer.result,
        transfer,
        namespace=after,
        usage=_usage_after_return(usage, lease, amount),
        end=end,
        lease=replace(use, returned=use.returned + amount),
        consumed=back.consumed,
    )


def _usage_after_return(usage: KeyUsage, lease: Hold, amount: int) -> KeyUsage:
    """Give a key's use after a part of a lease came back: it counts for the day of the lease."""
    of_today = amount if lease.usage_day == usage.day else 0
    return replace(usage, held=usage.held - amount, day_used=usage.day_used - of_today)
