"""Owns verifying what a log serves, with public things only. Pure.

What is proved: the network's authority certified a bootstrap, the bootstrap named the log's key,
that key signed the checkpoint, and the leaf with this opening is under the checkpoint's root.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ledger.log.errors import ProofError
from ledger.log.leaves import Opening, commitment
from ledger.log.merkle import leaf_hash, verify_inclusion
from ledger.log.notes import TreeHead, log_origin, open_checkpoint
from p2p.certificates import verify_chain
from p2p.codec import decode_any_message, decode_message
from p2p.errors import P2PError
from p2p.log_messages import (
    AccountLeaf,
    BindingLeaf,
    Checkpoint,
    ConsumerLeg,
    Inclusion,
    InclusionReply,
    LogKey,
    OperatorLeg,
)
from p2p.signing import Signed, open_signed
from p2p.types import NetworkId, PeerId, Role


@dataclass(frozen=True, slots=True)
class VerifiedHead:
    """A tree head that counts, and the bootstrap that answers for its key."""

    head: TreeHead
    bootstrap_id: PeerId
    public_key: bytes


def verify_checkpoint(
    checkpoint: Checkpoint, network: NetworkId, log_keys: Collection[bytes] = ()
) -> VerifiedHead:
    """Check a checkpoint down from the network's ID.

    Args:
        log_keys: the log keys that the authority named in the configuration; empty: it named none,
            and any that a certified bootstrap names counts.
    Raises: ProofError.
    """
    key = verify_log_key(checkpoint.log_key, checkpoint.chain, network)
    if log_keys and key.public_key not in log_keys:
        raise ProofError("the network's configuration does not name this log key")
    head = open_checkpoint(checkpoint.note, log_origin(network), key.public_key)
    return VerifiedHead(head, checkpoint.log_key.peer_id, key.public_key)


def verify_log_key(signed: Signed, chain: tuple[Signed, ...], network: NetworkId) -> LogKey:
    """Check that a certified bootstrap named a log key while its certificate was valid.

    Raises: ProofError.
    """
    try:
        key = open_signed(signed, LogKey, network)
        certificate = verify_chain(chain, network, signed.peer_id, key.issued_ms)
    except P2PError as error:
        raise ProofError(f"the log's key is not vouched for: {error}") from error
    if certificate.role is not Role.BOOTSTRAP:
        raise ProofError(f"the log's key is named by a {certificate.role}, not by a bootstrap")
    if key.origin != log_origin(network):
        raise ProofError("this key is of another log")
    return key


def verify_opened_leaf(inclusion: Inclusion, head: TreeHead) -> Opening:
    """Check that an opened leaf is in the tree of a verified head, and give what it says.

    Raises: ProofError.
    """
    leaf = leaf_hash(commitment(inclusion.salt, inclusion.opening))
    verify_inclusion(leaf, inclusion.position, head.size, inclusion.proof, head.root)
    try:
        opening = decode_any_message(inclusion.opening)
    except P2PError as error:
        raise ProofError(f"this leaf cannot be read: {error}") from error
    if not isinstance(opening, ConsumerLeg | OperatorLeg | AccountLeaf | BindingLeaf):
        raise ProofError(f"a {type(opening).__name__} is no leaf of the log")
    return opening


def verify_reply(
    data: bytes, network: NetworkId, log_keys: Collection[bytes] = ()
) -> tuple[VerifiedHead, list[Opening]]:
    """Check a whole proof as `log.inclusion` gives it.

    Raises: ProofError.
    """
    try:
        reply = decode_message(data, InclusionReply)
    except P2PError as error:
        raise ProofError(f"this is not a proof of the log: {error}") from error
    verified = verify_checkpoint(reply.checkpoint, network, log_keys)
    return verified, [verify_opened_leaf(item, verified.head) for item in reply.inclusions]
