"""Owns the rules by which an account's signing keys change, and an API key its secret and
limits. Pure.

Theory of operation. Every operation of an account is taken under the keys that it has at that
moment, and numbered by the ledger in that order: what a removed key signed is refused from the
operation of its removal on, whenever it was signed. Key changes carry a number that the owner
signed, so that none is ever taken twice or out of order. The recovery key may skip numbers: who has
stolen a signing key can make one change after the other, but not get ahead of the owner. A removed
key never comes back, and only the recovery key puts another in its own place: with a stolen signing
key the account cannot be taken from its owner.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.account_rules import (
    check_key_values,
    operated,
    record_of,
    result_of,
    signing_account,
)
from ledger.book import Book
from ledger.errors import (
    AccountUnknownError,
    KeyRevokedError,
    KeyUnknownError,
    LimitError,
    NotAuthorizedError,
    OperationOrderError,
    ValueRefusedError,
)
from ledger.key_proof import check_key_usable
from ledger.limits import ACCOUNT_KEYS_EVER_MAX
from ledger.operations import ChangeAccountKeys, ChangeKeyLimits, RotateKey, content_of
from ledger.records import Account, Change
from p2p.account_messages import ACCOUNT_KEYS_MAX, AccountKeyChange


def change_account_keys(book: Book, operation: ChangeAccountKeys, now_ms: int) -> Change:
    """Add and remove signing keys; put another recovery key in place (by the recovery key only).

    Raises: AccountUnknownError, NotAuthorizedError, OperationOrderError, ValueRefusedError,
    LimitError.
    """
    document, signed = operation.document, operation.signed
    account = book.accounts.get(document.account_id)
    if account is None:
        raise AccountUnknownError(f"there is no account {document.account_id[:60]}")
    content = content_of(signed.signer, document)
    if (document.number, content) == (account.key_changes, account.last_key_change):
        return Change(result_of(signed, exists=True))
    recovers = signed.signer in account.recovery_keys
    if not recovers and signed.signer not in account.signing_keys:
        raise NotAuthorizedError(f"this is not signed by a key of {account.account_id}")
    following = account.key_changes + 1
    if document.number < following or (document.number > following and not recovers):
        raise OperationOrderError("key change of this account", document.number, following)
    _check_change(account, document, recovers=recovers)
    after = operated(
        replace(
            account,
            signing_keys=(account.signing_keys - set(document.removed)) | set(document.added),
            retired_keys=account.retired_keys | set(document.removed),
            key_changes=document.number,
            last_key_change=content,
        )
    )
    if document.recovery_key:
        after = replace(
            after,
            recovery_keys=frozenset([document.recovery_key]),
            retired_keys=after.retired_keys | account.recovery_keys,
        )
    record = record_of(signed, document, account.account_id, after, now_ms)
    return Change(result_of(signed), account=after, record=record)


def _check_change(account: Account, document: AccountKeyChange, *, recovers: bool) -> None:
    added, removed = set(document.added), set(document.removed)
    if document.recovery_key and not recovers:
        raise NotAuthorizedError("only the recovery key puts another recovery key in its place")
    if len(document.recovery_key) not in (0, 32):
        raise ValueRefusedError("a recovery key has 32 bytes")
    new = [*document.added, *([document.recovery_key] if document.recovery_key else [])]
    if not new and not removed:
        raise ValueRefusedError("this changes no key")
    if len(set(new)) != len(new) or len(removed) != len(document.removed):
        raise ValueRefusedError("a key is named twice")
    known = account.signing_keys | account.recovery_keys | account.retired_keys
    if not known.isdisjoint(new):
        raise ValueRefusedError("a key that the account has or had before cannot be added")
    if not removed <= account.signing_keys:
        raise ValueRefusedError("a key that the account does not have cannot be removed")
    count = len(account.signing_keys) - len(removed) + len(added)
    if not count:
        raise ValueRefusedError("an account keeps at least one signing key")
    if count > ACCOUNT_KEYS_MAX:
        raise LimitError(f"an account has at most {ACCOUNT_KEYS_MAX} signing keys")
    # Never the recovery key's limit: a thief could use it up and lock the owner out.
    if not recovers and len(known) + len(added) > ACCOUNT_KEYS_EVER_MAX:
        raise LimitError(
            f"this account had {ACCOUNT_KEYS_EVER_MAX} keys: further ones need the recovery key"
        )


def rotate_key(book: Book, operation: RotateKey, now_ms: int) -> Change:
    """Give an API key a new secret; the one before it stays good for the grace.

    Raises: AccountUnknownError, NotAuthorizedError, KeyUnknownError, KeyRevokedError,
    KeyExpiredError, OperationOrderError, ValueRefusedError.
    """
    document, signed = operation.document, operation.signed
    account = signing_account(book, document.account_id, signed)
    key = book.keys.get(document.key_id)
    if key is None or not key.namespace.startswith(f"{account.account_id}/"):
        raise KeyUnknownError(f"this account has no API key {document.key_id}")
    if (document.generation, document.hold_key) == (key.generation, key.hold_key):
        return Change(result_of(signed, exists=True))
    check_key_usable(key, now_ms)
    if document.generation != key.generation + 1:
        raise OperationOrderError(
            f"rotation of API key {key.key_id}", document.generation, key.generation + 1
        )
    if document.hold_key == key.hold_key:
        raise ValueRefusedError("a rotation needs a new secret")
    after = replace(
        key,
        hold_key=document.hold_key,
        generation=document.generation,
        previous_hold_key=key.hold_key if document.grace_ms else b"",
        previous_until_ms=now_ms + document.grace_ms if document.grace_ms else 0,
    )
    changed = operated(account)
    record = record_of(signed, document, key.key_id, changed, now_ms)
    return Change(result_of(signed), account=changed, key=after, record=record)


def change_key_limits(book: Book, operation: ChangeKeyLimits, now_ms: int) -> Change:
    """Replace the limits of an API key; what it has used counts under the new ones.

    Raises: AccountUnknownError, NotAuthorizedError, KeyUnknownError, KeyRevokedError,
    OperationOrderError, ValueRefusedError.
    """
    document, signed = operation.document, operation.signed
    account = signing_account(book, document.account_id, signed)
    key = book.keys.get(document.key_id)
    if key is None or not key.namespace.startswith(f"{account.account_id}/"):
        raise KeyUnknownError(f"this account has no API key {document.key_id}")
    after = replace(
        key,
        expires_ms=document.expires_ms,
        credit_cap_total=document.credit_cap_total,
        models=document.models,
        gateways=document.gateways,
        limits=document.limits,
        limit_changes=document.number,
    )
    if after == key:
        return Change(result_of(signed, exists=True))
    if key.revoked_ms:
        raise KeyRevokedError(f"API key {key.key_id} was revoked")
    if document.number != key.limit_changes + 1:
        raise OperationOrderError(
            f"change of the limits of API key {key.key_id}", document.number, key.limit_changes + 1
        )
    check_key_values(document.models, document.gateways, document.limits)
    if document.expires_ms and document.expires_ms <= now_ms:
        raise ValueRefusedError("this API key would have expired already: revoke it instead")
    changed = operated(account)
    record = record_of(signed, document, key.key_id, changed, now_ms)
    return Change(result_of(signed), account=changed, key=after, record=record)
