"""Owns the rules of every movement of money: grant, hold, capture, release, expire. Pure.

Theory of operation. Two-phase transfers after TigerBeetle's vocabulary: a hold moves a job's
maximum from what a namespace can spend to what is held; exactly one of capture, release and expire
ends it. A capture is one atomic transfer of several legs: held -> earnings (each node), fees (the
gateway), treasury, and the remainder back. The ID of each transfer is made by whoever asks: a
repetition gets the first result with `exists`, the same ID with other content is refused. Each
function takes the book, an operation and the time, and gives the change.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.accounts import (
    MINT,
    TREASURY,
    available_account,
    earnings_account,
    fees_account,
    held_account,
    namespace_path,
    owner_account,
)
from ledger.book import Book
from ledger.consumption import Captured, captured_usage, captured_work, uncharged_usage
from ledger.errors import (
    ConflictError,
    GrantCapError,
    HoldEndedError,
    HoldExpiredError,
    HoldForeignError,
    HoldUnknownError,
    InsufficientFundsError,
    LimitError,
    NamespaceUnknownError,
    ReceiptError,
    ValueRefusedError,
)
from ledger.key_limits import usage_after_end, usage_after_hold
from ledger.key_proof import MakeMac, proved_key
from ledger.limits import (
    BALANCE_MICROCREDITS_MAX,
    GRANT_EPOCH_MS,
    GRANTS_PER_NAMESPACE_MAX,
    MEMO_BYTES_MAX,
)
from ledger.operations import (
    CaptureHold,
    ExpireHold,
    MakeGrant,
    PlaceHold,
    ReleaseHold,
    capture_content,
    content_of,
    expiry_id,
)
from ledger.receipts import Settlement, settle
from ledger.records import (
    ApiKeyEntry,
    Change,
    Entry,
    GrantEntry,
    Hold,
    HoldEnd,
    HoldState,
    Transfer,
    TransferKind,
)
from ledger.subcloud_rules import fees_of, judge_caller
from ledger.usage import UsageEntry, WorkEntry
from p2p.api_keys import hold_mac
from p2p.codec import encode_message
from p2p.ledger_messages import TransferResult
from p2p.types import PeerId


def repeated(book: Book, transfer_id: bytes, content: bytes) -> Change | None:
    """Give the first result of a transfer that was made before, or None.

    Raises: ConflictError if the ID was used with other content.
    """
    past = book.past.get(transfer_id)
    if past is None:
        return None
    if past.content != content:
        raise ConflictError(f"transfer ID {transfer_id.hex()} was used with other content")
    return Change(replace(past.result, exists=True))


def make_grant(book: Book, operation: MakeGrant, now_ms: int) -> Change:
    """Make credit for a namespace: mint -> available.

    Raises: ConflictError, NamespaceUnknownError, ValueRefusedError, GrantCapError, LimitError.
    """
    document, signed = operation.document, operation.signed
    content = content_of(signed.signer, document)
    if found := repeated(book, document.grant_id, content):
        return found
    path = namespace_path(document.account_id, document.namespace)
    namespace = book.namespaces.get(path)
    if namespace is None:
        raise NamespaceUnknownError(f"there is no namespace {path}")
    if document.amount <= 0:
        raise ValueRefusedError("a grant is at least 1 microcredit")
    if len(document.memo.encode()) > MEMO_BYTES_MAX:
        raise ValueRefusedError(f"a grant's memo has at most {MEMO_BYTES_MAX} bytes")
    if namespace.grants >= GRANTS_PER_NAMESPACE_MAX:
        raise LimitError(f"{path} has {GRANTS_PER_NAMESPACE_MAX} grants: open another namespace")
    if namespace.available + namespace.held + document.amount > BALANCE_MICROCREDITS_MAX:
        raise LimitError(f"the balance of {path} would be above {BALANCE_MICROCREDITS_MAX}")
    granted = book.minted.get(signed.signer, 0)
    if granted + document.amount > operation.epoch_cap:
        resets_ms = now_ms - now_ms % GRANT_EPOCH_MS + GRANT_EPOCH_MS
        raise GrantCapError(granted, document.amount, operation.epoch_cap, resets_ms, now_ms)
    after = replace(
        namespace,
        available=namespace.available + document.amount,
        grants=namespace.grants + 1,
    )
    transfer = Transfer(
        document.grant_id,
        TransferKind.GRANT,
        path,
        None,
        content,
        encode_message(signed),
        (Entry(MINT, -document.amount), Entry(available_account(path), document.amount)),
        TransferResult(document.grant_id, document.amount, after.available, False),
        now_ms,
    )
    grant = GrantEntry(document.grant_id, path, signed.signer, document.amount, now_ms)
    return Change(transfer.result, transfer, namespace=after, grant=grant)


def place_hold(book: Book, operation: PlaceHold, now_ms: int) -> Change:
    """Hold a job's maximum: available -> held.

    Raises: ConflictError, ApiKeyError (unknown, proof, revoked, expired, not allowed, cap),
    CallerNotAllowedError, CallerTokenError, ForeignNamespaceError, HoldExpiredError,
    InsufficientFundsError.
    """
    document, signed = operation.document, operation.signed
    content = content_of(signed.signer, document)
    if found := repeated(book, document.hold_id, content):
        return found
    key = proved_key(
        book, operation.gateway_id, operation.document, _mac_of_hold(operation), now_ms
    )
    network, account = document.caller_network, operation.gateway_account
    token_use = judge_caller(book, operation.context, key, account, network)
    if not now_ms < document.expires_ms <= now_ms + operation.lifetime_ms_max:
        raise HoldExpiredError(
            f"a hold ends within {operation.lifetime_ms_max} ms from now, "
            f"not in {document.expires_ms - now_ms} ms"
        )
    maximum = document.maximum
    usage = usage_after_hold(key, book.usage[key.key_id], maximum, now_ms)
    namespace = book.namespaces[key.namespace]
    if namespace.available < maximum:
        raise InsufficientFundsError(namespace.available, maximum)
    after = namespace.moved(namespace.available - maximum, namespace.held + maximum)
    hold = _new_hold(operation, key, usage.day)
    path = namespace.path
    entries = (Entry(available_account(path), -maximum), Entry(held_account(path), maximum))
    transfer = Transfer(
        document.hold_id,
        TransferKind.HOLD,
        path,
        document.hold_id,
        content,
        encode_message(signed),
        entries if maximum else (),
        TransferResult(document.hold_id, maximum, after.available, False),
        now_ms,
    )
    return Change(
        transfer.result,
        transfer,
        namespace=after,
        usage=usage,
        hold=hold,
        token_use=token_use,
    )


def _new_hold(operation: PlaceHold, key: ApiKeyEntry, usage_day: int) -> Hold:
    document = operation.document
    return Hold(
        document.hold_id,
        document.job_id,
        key.key_id,
        key.namespace,
        operation.gateway_id,
        operation.gateway_account,
        operation.model_digest,
        document.maximum,
        document.terms,
        fees_of(operation.fees, document.terms, operation.context),
        document.issued_ms,
        document.expires_ms,
        usage_day=usage_day,
        owner_account=operation.context.owner_account,
    )


def _mac_of_hold(operation: PlaceHold) -> MakeMac:
    document = operation.document
    return lambda hold_key: hold_mac(
        hold_key,
        operation.network_id,
        operation.gateway_id,
        document.hold_id,
        document.maximum,
        document.expires_ms,
    )


def capture_hold(book: Book, operation: CaptureHold, now_ms: int) -> Change:
    """Settle a hold: held -> earnings, fees, treasury; the remainder back to available.

    Raises: ConflictError, HoldError (unknown, foreign, ended, expired), ReceiptError, ChargeError.
    """
    document, signed = operation.document, operation.signed
    content = capture_content(signed.signer, document)
    if found := repeated(book, document.capture_id, content):
        return found
    hold = _open_hold(book, document.hold_id, operation.gateway_id)
    if hold.expires_ms <= now_ms:
        raise HoldExpiredError(f"this hold expired {now_ms - hold.expires_ms} ms ago")
    settlement = settle(hold, operation.legs, now_ms)
    return _end_hold(
        book,
        hold,
        HoldEnd(hold.hold_id, HoldState.CAPTURED, settlement.charge, document.capture_id),
        TransferKind.CAPTURE,
        content,
        encode_message(signed),
        capture_entries(book, hold, operation, settlement),
        now_ms,
        captured_usage(hold, operation, settlement, now_ms),
        captured_work(hold, operation, settlement, book.bindings, now_ms),
    )


def capture_entries(
    book: Book, hold: Hold, operation: Captured, settlement: Settlement
) -> tuple[Entry, ...]:
    """Give the entries of a capture. Raises: ReceiptError (a node that is bound to nobody)."""
    split = settlement.split
    entries = [Entry(held_account(hold.namespace), -hold.maximum)]
    for leg, amount in zip(operation.legs, split.nodes, strict=True):
        binding = book.bindings.get(leg.node_id)
        if binding is None:
            raise ReceiptError(f"node {leg.node_id} is not bound to an account")
        entries.append(Entry(earnings_account(binding.account_id), amount))
    entries += [
        Entry(fees_account(hold.gateway_account), split.gateway),
        Entry(owner_account(hold.owner_account), split.owner),
        Entry(TREASURY, split.network),
        Entry(available_account(hold.namespace), hold.maximum - settlement.charge),
    ]
    return tuple(entry for entry in entries if entry.amount)


def release_hold(book: Book, operation: ReleaseHold, now_ms: int) -> Change:
    """Give a whole hold back: held -> available.

    Raises: ConflictError, HoldError (unknown, foreign, ended).
    """
    document, signed = operation.document, operation.signed
    content = content_of(signed.signer, document)
    if found := repeated(book, document.release_id, content):
        return found
    hold = _open_hold(book, document.hold_id, operation.gateway_id)
    return _end_hold(
        book,
        hold,
        HoldEnd(hold.hold_id, HoldState.RELEASED, 0, document.release_id),
        TransferKind.RELEASE,
        content,
        encode_message(signed),
        _return_entries(hold),
        now_ms,
        uncharged_usage(hold, document.outcome, now_ms),
    )


def expire_hold(book: Book, operation: ExpireHold, now_ms: int) -> Change:
    """End a hold whose time is over: held -> available. Does nothing if it has ended already.

    Raises: HoldUnknownError, HoldExpiredError (its time is not over yet).
    """
    transfer_id = expiry_id(operation.hold_id)
    hold = book.holds.get(operation.hold_id)
    if hold is None:
        raise HoldUnknownError(f"there is no hold {operation.hold_id.hex()}")
    if hold.hold_id in book.ends:
        # Several processes sweep: whoever comes second finds it done.
        available = book.namespaces[hold.namespace].available
        return Change(TransferResult(transfer_id, 0, available, True))
    if hold.expires_ms > operation.now_ms:
        raise HoldExpiredError(f"this hold has {hold.expires_ms - operation.now_ms} ms left")
    return _end_hold(
        book,
        hold,
        HoldEnd(hold.hold_id, HoldState.EXPIRED, 0, transfer_id),
        TransferKind.EXPIRE,
        transfer_id,
        b"",
        _return_entries(hold),
        now_ms,
        uncharged_usage(hold, "", now_ms),
    )


def _open_hold(book: Book, hold_id: bytes, gateway_id: PeerId) -> Hold:
    hold = book.holds.get(hold_id)
    if hold is None or hold.is_lease:
        raise HoldUnknownError(f"there is no hold {hold_id.hex()}")
    if hold.gateway_id != gateway_id:
        raise HoldForeignError("this hold belongs to another gateway")
    end = book.ends.get(hold_id)
    if end is not None:
        raise HoldEndedError(end.state.value)
    return hold


def _return_entries(hold: Hold) -> tuple[Entry, ...]:
    path, amount = hold.namespace, hold.maximum
    if not amount:
        return ()
    return (Entry(held_account(path), -amount), Entry(available_account(path), amount))


def _end_hold(
    book: Book,
    hold: Hold,
    end: HoldEnd,
    kind: TransferKind,
    content: bytes,
    request: bytes,
    entries: tuple[Entry, ...],
    now_ms: int,
    consumed: UsageEntry,
    worked: tuple[WorkEntry, ...] = (),
) -> Change:
    """Make the one transfer that ends a hold, with the balances and counters after it."""
    namespace, usage = book.namespaces[hold.namespace], book.usage[hold.key_id]
    maximum, charged = hold.maximum, end.charged
    after = namespace.moved(namespace.available + maximum - charged, namespace.held - maximum)
    transfer_id = end.ended_by
    assert transfer_id is not None
    amount = charged if end.state is HoldState.CAPTURED else maximum
    result = TransferResult(transfer_id, amount, after.available, False)
    transfer = Transfer(
        transfer_id, kind, hold.namespace, hold.hold_id, content, request, entries, result, now_ms
    )
    return Change(
        result,
        transfer,
        namespace=after,
        usage=usage_after_end(usage, hold, charged),
        end=end,
        consumed=consumed,
        worked=worked,
    )
