"""Owns the entry to the rules of money: one function that decides any operation. Pure.

Rules that always hold (checked on every path by `ledger.book` and the tables, and by
the start check): the entries of a transfer add up to zero; a namespace's available and
held balances are never negative; each hold ends exactly once; each ID makes one transfer; nothing
is rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ledger import account_keys, account_rules, rcp_rules, transfer_rules
from ledger.book import Book
from ledger.log.rules import append_log
from ledger.operations import (
    AppendLog,
    BindNode,
    CaptureHold,
    ChangeAccountKeys,
    CreateKey,
    ExpireHold,
    FoundAccount,
    FreezeEpoch,
    KeepUptime,
    MakeGrant,
    OpenNamespace,
    Operation,
    PlaceHold,
    ReleaseHold,
    RevokeKey,
    RotateKey,
)
from ledger.records import Change

_RULES: dict[type, Callable[[Book, Any, int], Change]] = {
    FoundAccount: account_rules.found_account,
    OpenNamespace: account_rules.open_namespace,
    CreateKey: account_rules.create_key,
    RevokeKey: account_rules.revoke_key,
    RotateKey: account_keys.rotate_key,
    ChangeAccountKeys: account_keys.change_account_keys,
    BindNode: account_rules.bind_node,
    AppendLog: append_log,
    KeepUptime: rcp_rules.keep_uptime,
    FreezeEpoch: rcp_rules.freeze_epoch,
    MakeGrant: transfer_rules.make_grant,
    PlaceHold: transfer_rules.place_hold,
    CaptureHold: transfer_rules.capture_hold,
    ReleaseHold: transfer_rules.release_hold,
    ExpireHold: transfer_rules.expire_hold,
}


def decide(book: Book, operation: Operation, now_ms: int) -> Change:
    """Decide one operation against a book, without touching it.

    Args:
        book: must hold every record that the operation names (what is not in it does not exist).
        now_ms: milliseconds since 1970.
    Raises: RequestError: the operation breaks a rule and does nothing.
    """
    return _RULES[type(operation)](book, operation, now_ms)
