"""Owns the proof of whose keys are an account's: its founding and every change of its keys. Pure.

Theory of operation. An account's ID is the hash of its founding document, which names its first
signing key and its recovery key. Each later change of its keys is a numbered document, signed by a
key that the account had then (or by the recovery key, which may skip numbers). Whoever is given
founding and changes can say which keys the account has, without asking a ledger. What the proof
cannot say is whether a later change exists: who verifies proofs of one account again and again
keeps the longest and refuses a shorter one (`length`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from p2p.account_messages import ACCOUNT_KEYS_MAX, KEY_CHANGES_MAX, AccountKeyChange
from p2p.codec import Limit, Message, decode_message, message
from p2p.errors import UntrustedError
from p2p.ledger_messages import AccountFounding
from p2p.signing import Signed, open_signed
from p2p.types import AccountId, NetworkId, account_id_from_founding


@message(191)
@dataclass(frozen=True, slots=True)
class AccountProof(Message):
    """An account's founding and its key changes, oldest first."""

    founding: Signed
    changes: Annotated[tuple[Signed, ...], Limit(KEY_CHANGES_MAX)] = ()


@dataclass(frozen=True, slots=True)
class ProvenAccount:
    """An account with the keys that it has after the last change of a proof.

    `length`: the number of the last change (0: none since the founding).
    """

    account_id: AccountId
    signing_keys: frozenset[bytes]
    recovery_key: bytes
    length: int


def prove_account(founding: Signed, changes: Sequence[Signed], network: NetworkId) -> ProvenAccount:
    """Verify a founding and the changes that follow it (oldest first).

    Raises: UntrustedError (a signature, an order, a key that the account did not have),
        MalformedError.
    """
    if len(changes) > KEY_CHANGES_MAX:
        raise UntrustedError(f"an account's proof has at most {KEY_CHANGES_MAX} key changes")
    first = decode_message(founding.body, AccountFounding)
    open_signed(founding, AccountFounding, network, first.signing_key)
    account = ProvenAccount(
        account_id_from_founding(founding.body),
        frozenset([first.signing_key]),
        first.recovery_key,
        0,
    )
    retired: set[bytes] = set()
    for change in changes:
        account = _follow(account, retired, change, network)
    return account


def _follow(
    account: ProvenAccount, retired: set[bytes], signed: Signed, network: NetworkId
) -> ProvenAccount:
    change = open_signed(signed, AccountKeyChange, network)
    recovers = signed.signer == account.recovery_key
    if change.account_id != account.account_id:
        raise UntrustedError("a key change of another account")
    if not recovers and signed.signer not in account.signing_keys:
        raise UntrustedError("a key change that is not signed by a key of the account")
    following = account.length + 1
    if change.number < following or (change.number > following and not recovers):
        raise UntrustedError("a key change that does not follow from the one before it")
    added, removed = set(change.added), set(change.removed)
    fresh = [*change.added, *([change.recovery_key] if change.recovery_key else [])]
    known = account.signing_keys | retired | {account.recovery_key}
    wrong = (
        (bool(change.recovery_key) and not recovers)
        or not (fresh or removed)
        or len(set(fresh)) + len(removed) != len(fresh) + len(change.removed)
        or not known.isdisjoint(fresh)
        or not removed <= account.signing_keys
        or len(change.recovery_key) not in (0, 32)
    )
    if wrong:
        raise UntrustedError("a key change that the ledger would not take")
    keys = (account.signing_keys - removed) | added
    if not 1 <= len(keys) <= ACCOUNT_KEYS_MAX:
        raise UntrustedError(f"an account has 1 to {ACCOUNT_KEYS_MAX} signing keys")
    retired |= removed
    recovery_key = account.recovery_key
    if change.recovery_key:
        retired.add(recovery_key)
        recovery_key = change.recovery_key
    return ProvenAccount(account.account_id, keys, recovery_key, change.number)
