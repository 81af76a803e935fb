"""Owns the rules of claims: what may be claimed, and how a hold with claims on it ends. Pure.

Theory of operation. A claim is checked as a leg of a capture would be (`ledger.receipts.settle`),
so that nothing is kept that could not be paid. While the hold is open nothing moves. A capture by
the gateway settles the job, with or without the claims: the gateway sees all attempts. What it
cannot do is give claimed money back: a release, or the return of a lease that would leave less than
its claims can cost, is refused. When the hold's time is over the sweep settles the claims first,
then expires what is left: the same charging table as for a capture (input once, with the first
attempt; one rounding), in the order of the attempts.

A claim that comes when the hold was captured or released already changes nothing any more, but it
is kept until the hold's time is over: it is the proof that the gateway paid less than it had
countersigned (`ledger.claim_sweep`).
"""

from __future__ import annotations

from dataclasses import replace

from ledger import lease_rules, transfer_rules
from ledger.book import Book
from ledger.claim_operations import RecordClaim, SettleClaims
from ledger.claims import (
    ClaimedLegs,
    ClaimEntry,
    ClaimState,
    claimed_amount,
    payable,
)
from ledger.consumption import captured_usage, captured_work
from ledger.errors import (
    ConflictError,
    HoldClaimedError,
    HoldEndedError,
    HoldExpiredError,
    HoldForeignError,
    HoldUnknownError,
    LimitError,
    ReceiptError,
)
from ledger.key_limits import usage_after_end
from ledger.limits import CLAIMS_PER_LEASE_MAX
from ledger.operations import (
    ExpireHold,
    ReleaseHold,
    ReturnLease,
    transfer_id_of,
)
from ledger.receipts import Settlement, settle
from ledger.records import Change, Hold, HoldEnd, HoldState, Transfer, TransferKind
from p2p.claim_messages import PaidClaims
from p2p.codec import encode_message
from p2p.ledger_messages import TransferResult
from p2p.limits import LEGS_PER_CAPTURE_MAX


# --- claiming --------------------------------------------------------------------------------
def record_claim(book: Book, operation: RecordClaim, now_ms: int) -> Change:
    """Keep a claim on its hold. The result's amount is what the claim is worth by itself.

    Raises: HoldError (unknown, foreign, ended, expired), ReceiptError, ChargeError, ConflictError
    (another claim for this attempt), LimitError.
    """
    payer = book.holds.get(operation.payer_id)
    if payer is None or payer.is_lease != (operation.part is not None):
        raise HoldUnknownError(f"there is no such hold {operation.payer_id.hex()}")
    if payer.gateway_id != operation.gateway_id:
        raise HoldForeignError("the delivery count is another gateway's than the hold")
    hold = _job_hold(payer, operation)
    settlement = settle(hold, [operation.leg], now_ms)
    delivery = operation.leg.delivery
    if not delivery.output_tokens and not delivery.input_tokens:
        raise ReceiptError("nothing was delivered: there is nothing to claim")
    if operation.leg.node_id not in book.bindings:
        raise ReceiptError(f"node {operation.leg.node_id} is not bound to an account")
    claim = ClaimEntry(
        hold.hold_id,
        operation.leg.receipt.attempt,
        payer.hold_id,
        operation.leg.node_id,
        operation.signed,
        operation.leg,
        operation.part,
    )
    available = book.namespaces[payer.namespace].available
    result = TransferResult(hold.hold_id, settlement.charge, available, False)
    kept = book.claims.get(payer.hold_id, {})
    before = kept.get((claim.hold_id, claim.attempt))
    if before is not None:
        if before.node_id == claim.node_id and before.evidence == claim.evidence:
            return Change(replace(result, exists=True))
        raise ConflictError(f"attempt {claim.attempt} of this hold was claimed otherwise")
    if sum(1 for hold_id, _ in kept if hold_id == claim.hold_id) >= LEGS_PER_CAPTURE_MAX:
        raise LimitError(f"a hold takes {LEGS_PER_CAPTURE_MAX} claims")
    if len(kept) >= CLAIMS_PER_LEASE_MAX:
        raise LimitError(f"a lease takes {CLAIMS_PER_LEASE_MAX} claims")
    _check_time(book, payer, claim, now_ms)
    return Change(result, claims=(claim,))


def _job_hold(payer: Hold, operation: RecordClaim) -> Hold:
    if operation.part is None:
        return payer
    lease_rules.check_part(payer, operation.part)
    return lease_rules.leased_part(payer, operation.part)


def _check_time(book: Book, payer: Hold, claim: ClaimEntry, now_ms: int) -> None:
    """Refuse a claim that comes too late to be paid or to prove anything. Raises: HoldError."""
    end = book.ends.get(payer.hold_id)
    captured = claim.part is not None and claim.hold_id in book.past
    if end is None and not captured:
        return
    if end is not None and end.state in (HoldState.EXPIRED, HoldState.CLAIMED):
        raise HoldEndedError(end.state.value)
    if payer.expires_ms <= now_ms:
        raise HoldExpiredError(f"this hold's time ended {now_ms - payer.expires_ms} ms ago")


# --- the end of a hold with claims -------------------------------------------------------------
def settle_claims(book: Book, operation: SettleClaims, now_ms: int) -> Change:
    """Pay the claims on one job whose hold's time is over; the rest goes back to available.

    Out of a lease only the claims' charge moves: the lease ends by itself afterwards. Does nothing
    if the job was settled meanwhile.
    Raises: HoldUnknownError, HoldExpiredError (its time is not over yet).
    """
    payer = book.holds.get(operation.payer_id)
    if payer is None:
        raise HoldUnknownError(f"there is no hold {operation.payer_id.hex()}")
    if payer.expires_ms > operation.now_ms:
        raise HoldExpiredError(f"this hold has {payer.expires_ms - operation.now_ms} ms left")
    transfer_id = transfer_id_of(operation)
    assert transfer_id is not None
    available = book.namespaces[payer.namespace].available
    done = Change(TransferResult(transfer_id, 0, available, True))
    every = [c for c in _open_claims(book, payer.hold_id) if c.hold_id == operation.hold_id]
    claims = sorted(every, key=lambda claim: claim.attempt)
    if payer.hold_id in book.ends or transfer_id in book.past or not claims:
        return done
    hold, left = payer, payer.maximum
    if payer.is_lease:
        part = claims[0].part
        assert part is not None
        hold = lease_rules.leased_part(payer, part)
        # Its gateway may have signed two parts with one ID: the first attempt's counts.
        claims = [claim for claim in claims if claim.part == part]
        left = lease_rules.rest_of(payer, book.leases[payer.hold_id])
    chosen, settlement = payable(hold, claims, left, now_ms)
    judged = tuple(
        replace(claim, state=ClaimState.PAID if claim in chosen else ClaimState.DROPPED)
        for claim in every
    )
    if settlement is None:
        return replace(done, claims=judged)
    request = encode_message(PaidClaims(tuple(claim.signed for claim in chosen)))
    legs = ClaimedLegs(tuple(claim.leg for claim in chosen))
    pay = _pay_lease if payer.is_lease else _pay_hold
    change = pay(book, payer, hold, legs, settlement, request, transfer_id, now_ms)
    return replace(change, claims=judged)


def _pay_hold(
    book: Book,
    payer: Hold,
    hold: Hold,
    legs: ClaimedLegs,
    settlement: Settlement,
    request: bytes,
    transfer_id: bytes,
    now_ms: int,
) -> Change:
    namespace, charge = book.namespaces[hold.namespace], settlement.charge
    after = namespace.moved(
        namespace.available + hold.maximum - charge, namespace.held - hold.maximum
    )
    transfer = Transfer(
        transfer_id,
        TransferKind.CLAIM,
        hold.namespace,
        hold.hold_id,
        transfer_id,
        request,
        transfer_rules.capture_entries(book, hold, legs, settlement),
        TransferResult(transfer_id, charge, after.available, False),
        now_ms,
    )
    return Change(
        transfer.result,
        transfer,
        namespace=after,
        usage=usage_after_end(book.usage[hold.key_id], hold, charge),
        end=HoldEnd(hold.hold_id, HoldState.CLAIMED, charge, transfer_id),
        consumed=captured_usage(hold, legs, settlement, now_ms),
        worked=captured_work(hold, legs, settlement, book.bindings, now_ms),
    )


def _pay_lease(
    book: Book,
    payer: Hold,
    hold: Hold,
    legs: ClaimedLegs,
    settlement: Settlement,
    request: bytes,
    transfer_id: bytes,
    now_ms: int,
) -> Change:
    namespace, charge = book.namespaces[payer.namespace], settlement.charge
    usage, use = book.usage[payer.key_id], book.leases[payer.hold_id]
    after = namespace.moved(namespace.available, namespace.held - charge)
    transfer = Transfer(
        transfer_id,
        TransferKind.CLAIM,
        payer.namespace,
        payer.hold_id,
        transfer_id,
        request,
        transfer_rules.capture_entries(book, replace(hold, maximum=charge), legs, settlement),
        TransferResult(transfer_id, charge, after.available, False),
        now_ms,
    )
    return Change(
        transfer.result,
        transfer,
        namespace=after,
        usage=replace(usage, spent=usage.spent + charge, held=usage.held - charge),
        lease=replace(use, charged=use.charged + charge),
        consumed=captured_usage(hold, legs, settlement, now_ms),
        worked=captured_work(hold, legs, settlement, book.bindings, now_ms),
    )


# --- what claims stand in the way of ------------------------------------------------------------
def release_hold(book: Book, operation: ReleaseHold, now_ms: int) -> Change:
    """Give a whole hold back, unless nodes have claimed their pay from it.

    Raises: HoldClaimedError, and as `transfer_rules.release_hold`.
    """
    change = transfer_rules.release_hold(book, operation, now_ms)
    if change.end is not None:
        _refuse_claimed(len(_open_claims(book, operation.document.hold_id)))
    return change


def return_lease(book: Book, operation: ReturnLease, now_ms: int) -> Change:
    """Give a part of a lease back, but not what nodes have claimed.

    Raises: HoldClaimedError, and as `lease_rules.return_lease`.
    """
    change = lease_rules.return_lease(book, operation, now_ms)
    claims = _unsettled(book, operation.document.lease_id)
    if change.transfer is not None and claims:
        assert change.lease is not None
        lease = book.holds[operation.document.lease_id]
        rest = 0 if change.end is not None else lease_rules.rest_of(lease, change.lease)
        if rest < claimed_amount(claims, lease):
            _refuse_claimed(len(claims))
    return change


def expire_hold(book: Book, operation: ExpireHold, now_ms: int) -> Change:
    """End a hold or a lease whose time is over, once the claims on it are settled.

    Raises: HoldClaimedError, and as `lease_rules.expire_hold_or_lease`.
    """
    change = lease_rules.expire_hold_or_lease(book, operation, now_ms)
    if change.end is not None:
        _refuse_claimed(len(_unsettled(book, operation.hold_id)))
    return change


def _refuse_claimed(count: int) -> None:
    if count:
        raise HoldClaimedError(count)


def _open_claims(book: Book, payer_id: bytes) -> list[ClaimEntry]:
    kept = book.claims.get(payer_id, {})
    return [claim for claim in kept.values() if claim.state is ClaimState.OPEN]


def _unsettled(book: Book, payer_id: bytes) -> list[ClaimEntry]:
    """Give the open claims on jobs that no transfer has settled yet."""
    return [
        claim
        for claim in _open_claims(book, payer_id)
        if claim.part is None or claim.hold_id not in book.past
    ]
