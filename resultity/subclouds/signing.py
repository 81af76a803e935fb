"""Owns how an owner makes a version of a policy: signed, with the proofs that let strangers verify
it. Works without a network: the version before is given.

`X.policy` holds a `PolicyRecord`; `X.handover` holds the record of the version in force and a
signed `Handover`, which whoever takes the subcloud over gives where the version before is asked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pydantic

from p2p.account_file import AccountKeys
from p2p.account_proof import AccountProof, prove_account
from p2p.codec import decode_any_message, decode_messages, encode_message, encode_messages
from p2p.errors import MalformedError, P2PError
from p2p.files import write_atomically
from p2p.signing import Signed, open_signed
from p2p.subclouds.policy import (
    HANDOVERS_MAX,
    Handover,
    SubcloudPolicy,
    policy_digest,
    sign_policy,
)
from p2p.subclouds.records import KnownPolicy, PolicyRecord, verify_record
from p2p.types import AccountId, NetworkId
from resultity.errors import DataFolderError, SettingsError
from resultity.subclouds.policy_file import Origin, PolicyFile

RECORD_BYTES_MAX = 4 * 1024 * 1024
LAST_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Before:
    """The version in force, and who it was handed to since (with the signed handover)."""

    known: KnownPolicy
    handover: Signed | None = None
    taker: AccountId | None = None

    @property
    def owner(self) -> AccountId:
        """Whose turn it is."""
        return self.taker or AccountId(self.known.policy.owner)


@dataclass(frozen=True, slots=True)
class Owner:
    """An account that signs, and the proof of its keys."""

    keys: AccountKeys
    proof: AccountProof

    @classmethod
    def offline(cls, keys: AccountKeys, before: Before | None, network: NetworkId) -> Owner:
        """The proof from the version before, else the founding alone."""
        if before is not None:
            for proof in before.known.record.accounts:
                proven = prove_account(proof.founding, proof.changes, network)
                if proven.account_id == keys.account_id:
                    return cls(keys, proof)
        return cls(keys, AccountProof(keys.founding))

    def is_proven(self, network: NetworkId) -> bool:
        """Whether the proof says that the key is the account's (the ledger may know more)."""
        proven = prove_account(self.proof.founding, self.proof.changes, network)
        return self.keys.signing.public_key in proven.signing_keys


def origin_of(owner: Owner, before: Before | None, network: NetworkId, now_ms: int) -> Origin:
    """What the next version says of itself. Raises: SettingsError (not this account's turn)."""
    account = owner.keys.account_id
    if before is None:
        return Origin(network, account, now_ms)
    _check_turn(owner, before)
    if before.known.policy.ended:
        raise SettingsError(f"{before.known.identity} has ended: nothing follows its last version")
    return Origin.after(before.known, now_ms, account)


def sign_file(
    file: PolicyFile, owner: Owner, before: Before | None, network: NetworkId, now_ms: int
) -> PolicyRecord:
    """Sign a policy file as the version that follows. Raises: SettingsError, PolicyFileError."""
    return _signed(file.policy(origin_of(owner, before, network, now_ms)), owner, before)


def sign_last(owner: Owner, before: Before, now_ms: int) -> PolicyRecord:
    """Sign the version in force once more as the last one: from then on nothing runs there.

    Raises: SettingsError.
    """
    _check_turn(owner, before)
    policy = before.known.policy
    if policy.ended:
        raise SettingsError(f"{policy.subcloud_id} has ended with version {policy.version}")
    issued_ms = max(now_ms, policy.issued_ms)
    content = policy.model_dump() | {
        "version": policy.version + 1,
        "predecessor_digest": before.known.digest,
        "issued_ms": issued_ms,
        # One that is over could not be published; the last version itself admits nothing.
        "expires_ms": max(policy.expires_ms, issued_ms + LAST_DAY_MS),
        "owner": owner.keys.account_id,
        "ended": True,
    }
    return _signed(SubcloudPolicy.model_validate(content), owner, before)


def sign_again(owner: Owner, before: Before) -> PolicyRecord:
    """Sign the same version with another key of the account: after the first was removed.

    Raises: SettingsError.
    """
    if before.handover is not None or owner.keys.account_id != before.known.policy.owner:
        raise SettingsError("only the owner of the version in force signs it again")
    record = before.known.record
    signed = sign_policy(owner.keys.signing, before.known.policy)
    return replace(record, policy=signed, accounts=(owner.proof, *record.accounts[1:]))


def hand_over(owner: Owner, before: Before, taker: AccountId, now_ms: int) -> Signed:
    """Sign that a subcloud is another account's from the next version on. Raises: SettingsError."""
    _check_turn(owner, before)
    number = len(before.known.record.handovers) + 1
    if before.handover is not None:
        raise SettingsError("publish a version of your own before you hand it over again")
    if taker == owner.keys.account_id:
        raise SettingsError(f"{taker} owns it already: name another account")
    if number > HANDOVERS_MAX:
        raise SettingsError(f"a subcloud is handed over {HANDOVERS_MAX} times at most: found anew")
    giver = owner.keys.account_id
    document = Handover(before.known.identity, number, giver, taker, now_ms)
    return owner.keys.signing.sign(NetworkId(before.known.policy.network_id), document)


def _check_turn(owner: Owner, before: Before) -> None:
    if owner.keys.account_id == before.owner:
        return
    if before.taker is None:
        hint = "the owner hands it over with `subcloud handover`; give that file with --after"
    else:
        hint = "the handover names that account"
    raise SettingsError(
        f"{before.known.identity} belongs to {before.owner}, not {owner.keys.account_id}: {hint}"
    )


def _signed(policy: SubcloudPolicy, owner: Owner, before: Before | None) -> PolicyRecord:
    signed = sign_policy(owner.keys.signing, policy)
    if before is None:
        return PolicyRecord(signed, (), (owner.proof,))
    record = before.known.record
    if before.handover is None:
        return PolicyRecord(signed, record.handovers, (owner.proof, *record.accounts[1:]))
    handovers = (*record.handovers, before.handover)
    return PolicyRecord(signed, handovers, (owner.proof, *record.accounts))


# --- files ----------------------------------------------------------------------------------------
def write_record(path: Path, record: PolicyRecord) -> None:
    """Write a record to a file."""
    write_atomically(path, encode_message(record))


def write_handover(path: Path, record: PolicyRecord, handover: Signed) -> None:
    """Write a handover with the version that it is about."""
    write_atomically(path, encode_messages([record, handover]))


def read_record(path: Path) -> PolicyRecord:
    """Read a record that may still want a longer proof. Raises: DataFolderError."""
    found = _read(path)
    if len(found) != 1 or not isinstance(found[0], PolicyRecord):
        raise DataFolderError(f"{path} is not a signed policy (`subcloud sign` makes one)")
    return found[0]


def is_record(path: Path) -> bool:
    """Whether a file is a signed policy or a handover (and not a text)."""
    try:
        _read(path)
    except DataFolderError:
        return False
    return True


def read_before(path: Path, network: NetworkId) -> Before:
    """Read the version before from a signed policy or a handover, verified.

    Raises: DataFolderError, P2PError.
    """
    found = _read(path)
    if not isinstance(found[0], PolicyRecord) or len(found) > 2:
        raise DataFolderError(f"{path} is neither a signed policy nor a handover")
    known = verify_record(found[0], network)
    if len(found) == 1:
        return Before(known)
    signed = found[1]
    if not isinstance(signed, Signed):
        raise DataFolderError(f"{path} is neither a signed policy nor a handover")
    handover = open_signed(signed, Handover, network)
    right = handover.subcloud_id == known.identity and handover.giver == known.policy.owner
    if not right or signed.signer not in known.owner.signing_keys:
        raise DataFolderError(f"{path} holds a handover by somebody who does not own the subcloud")
    return Before(known, signed, handover.taker)


def _read(path: Path) -> list[object]:
    try:
        with path.open("rb") as file:
            data = file.read(RECORD_BYTES_MAX + 1)
    except OSError as error:
        raise DataFolderError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error
    if len(data) > RECORD_BYTES_MAX:
        raise DataFolderError(f"{path} is too large to be a signed policy")
    try:
        return list(decode_messages(data))
    except P2PError:
        pass
    try:
        return [decode_any_message(data)]
    except P2PError as error:
        raise DataFolderError(f"{path} is not a signed policy or damaged: {error}") from error


def digest_of(record: PolicyRecord) -> str:
    """The digest of the policy in a record, in hex."""
    return policy_digest(record.policy)


def policy_in(record: PolicyRecord) -> SubcloudPolicy:
    """Read the policy in a record that is not verified yet. Raises: MalformedError."""
    try:
        return SubcloudPolicy.model_validate_json(record.policy.body)
    except pydantic.ValidationError as error:
        raise MalformedError("the signed policy cannot be read") from error
