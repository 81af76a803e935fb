"""Owns the entry to the rules of money: one function that decides any operation. Pure.

Rules that always hold (checked on every path by `ledger.book` and the tables, and by
the start check): the entries of a transfer add up to zero; a namespace's available and
held balances are never negative; each hold ends exactly once; each ID makes one transfer; nothing
is rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ledger import (
    account_keys,
    account_rules,
    claim_rules,
    dispute_rules,
    lease_rules,
    rcp_rules,
    referral_rules,
    stake_rules,
    transfer_rules,
)
from ledger.book import Book
from ledger.claim_operations import RecordClaim, SettleClaims
from ledger.errors import ConflictError, ValueRefusedError
from ledger.exposure import check_exposure
from ledger.log.rules import append_log
from ledger.operations import (
    AdmitNode,
    AnswerDispute,
    AppendLog,
    BindNode,
    CaptureHold,
    CaptureLeased,
    ChangeAccountKeys,
    ChangeKeyLimits,
    CreateKey,
    ExpireHold,
    FoundAccount,
    FreezeEpoch,
    KeepUptime,
    MakeGrant,
    OpenDispute,
    OpenLease,
    OpenNamespace,
    Operation,
    PlaceHold,
    ReferAccount,
    ReleaseHold,
    ResolveDispute,
    ReturnLease,
    RevokeKey,
    RotateKey,
    transfer_id_of,
)
from ledger.records import Change
from ledger.stakes import ReturnStake, StakeSubcloud
from p2p.transfer_ids import is_derived

_RULES: dict[type, Callable[[Book, Any, int], Change]] = {
    FoundAccount: account_rules.found_account,
    ReferAccount: referral_rules.refer_account,
    OpenNamespace: account_rules.open_namespace,
    CreateKey: account_rules.create_key,
    RevokeKey: account_rules.revoke_key,
    RotateKey: account_keys.rotate_key,
    ChangeKeyLimits: account_keys.change_key_limits,
    ChangeAccountKeys: account_keys.change_account_keys,
    BindNode: account_rules.bind_node,
    AdmitNode: account_rules.admit_node,
    AppendLog: append_log,
    KeepUptime: rcp_rules.keep_uptime,
    FreezeEpoch: rcp_rules.freeze_epoch,
    MakeGrant: transfer_rules.make_grant,
    PlaceHold: transfer_rules.place_hold,
    CaptureHold: transfer_rules.capture_hold,
    ReleaseHold: claim_rules.release_hold,
    ExpireHold: claim_rules.expire_hold,
    OpenLease: lease_rules.open_lease,
    CaptureLeased: lease_rules.capture_leased,
    ReturnLease: claim_rules.return_lease,
    RecordClaim: claim_rules.record_claim,
    SettleClaims: claim_rules.settle_claims,
    OpenDispute: dispute_rules.open_dispute,
    AnswerDispute: dispute_rules.answer_dispute,
    ResolveDispute: dispute_rules.resolve_dispute,
    StakeSubcloud: stake_rules.stake_subcloud,
    ReturnStake: stake_rules.return_stake,
}

_HOLDING = (PlaceHold, OpenLease)
_CHOSEN = (
    PlaceHold,
    CaptureHold,
    ReleaseHold,
    OpenLease,
    ReturnLease,
    MakeGrant,
    StakeSubcloud,
    ReturnStake,
)
"""Operations whose transfer's ID was made by whoever asks."""


def decide(book: Book, operation: Operation, now_ms: int) -> Change:
    """Decide one operation against a book, without touching it.

    Args:
        book: must hold every record that the operation names (what is not in it does not exist).
        now_ms: milliseconds since 1970.
    Raises: RequestError: the operation breaks a rule and does nothing.
    """
    _check_chosen(operation)
    change = _RULES[type(operation)](book, operation, now_ms)
    if change.transfer is not None and change.transfer.transfer_id in book.past:
        raise ConflictError("another transfer has the ID that this one would get")
    if isinstance(operation, _HOLDING) and change.transfer is not None:
        exposure = book.exposure_of(operation.gateway_id)
        check_exposure(exposure, change.result.amount, operation.exposure_max, now_ms)
    return change


def _check_chosen(operation: Operation) -> None:
    """Refuse an ID that only a transfer without an asker may have. Raises: ValueRefusedError."""
    chosen = transfer_id_of(operation) if isinstance(operation, _CHOSEN) else None
    if chosen is not None and is_derived(chosen):
        raise ValueRefusedError("an ID may not begin like those that follow from others: make anew")
