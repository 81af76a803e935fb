"""Owns the messages of the transparency log: what its leaves commit to, its key, its proofs.

A leaf of the log is 32 bytes: SHA-256(b"resultity/leaf/1\\0" || salt || opening), where the opening
is one of the first four messages below, encoded. Who may know an opening gets it with its salt and
a proof; nobody else learns anything from the leaf. Amounts are microcredits, times milliseconds
since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.job_messages import Amount, Digest, Id, Peer
from p2p.ledger_messages import Account
from p2p.limits import (
    AMOUNT_MICROCREDITS_MAX,
    CERTIFICATES_MAX,
    NAME_CHARACTERS_MAX,
    TEXT_CHARACTERS_MAX,
)
from p2p.signing import Document, Signed

Position = Annotated[int, Range(0, 2**62)]
LedgerAccount = Annotated[str, Limit(2 * NAME_CHARACTERS_MAX)]
NOTE_BYTES_MAX = 8192
"""A checkpoint is about 300 bytes, and a cosignature 150."""
LEAF_SALT_BYTES = 32
INCLUSIONS_MAX = 64


# --- openings of leaves --------------------------------------------------------------------------
@message(120)
@dataclass(frozen=True, slots=True)
class ConsumerLeg(Message):
    """A transfer as the owner of the namespace sees it; it names no node.

    `amount`: what was granted, held, charged (capture) or given back (release, expiry). `request`
    is the SHA-256 of the signed request as the ledger keeps it, `record` that of what the ledger
    added to it (`ledger.log.leaves`).
    """

    kind: Annotated[str, Limit(32)]
    transfer_id: Id
    namespace: LedgerAccount
    hold_id: Annotated[bytes, Limit(16)]
    job_id: Annotated[bytes, Limit(16)]
    amount: Amount
    request: Digest
    record: Digest
    at_ms: int


@message(121)
@dataclass(frozen=True, slots=True)
class OperatorLeg(Message):
    """What one capture paid to one account, or a correction took back (less than 0); it names no
    consumer.

    `account` is a ledger account (`earnings:`, `fees:` or `treasury`). `evidence` is the SHA-256 of
    the node receipt's body for earnings, of the capture request's body for fees, of the
    DisputeResolution's body for a correction.
    """

    account: LedgerAccount
    amount: Annotated[int, Range(-AMOUNT_MICROCREDITS_MAX, AMOUNT_MICROCREDITS_MAX)]
    evidence: Digest
    at_ms: int


@message(122)
@dataclass(frozen=True, slots=True)
class AccountLeaf(Message):
    """A signed account operation: `document` is the SHA-256 of it as the ledger keeps it."""

    purpose: Annotated[str, Limit(64)]
    subject: LedgerAccount
    document: Digest
    at_ms: int


@message(123)
@dataclass(frozen=True, slots=True)
class BindingLeaf(Message):
    """From this time on, a node's work pays this account."""

    peer_id: Peer
    account_id: Account
    bound_ms: int


# --- checkpoints ---------------------------------------------------------------------------------
@message(124)
@dataclass(frozen=True, slots=True)
class LogKey(Document):
    """A bootstrap says which key signs the checkpoints that it publishes. Signed by it."""

    PURPOSE: ClassVar[str] = "log-key"
    origin: Annotated[str, Limit(TEXT_CHARACTERS_MAX)]
    public_key: Annotated[bytes, Limit(32, 32)]
    issued_ms: int


@message(125)
@dataclass(frozen=True, slots=True)
class Checkpoint(Message):
    """A checkpoint (C2SP signed note), and why its key counts: LogKey and its signer's chain."""

    note: Annotated[bytes, Limit(NOTE_BYTES_MAX)]
    log_key: Signed
    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX)]


# --- proofs --------------------------------------------------------------------------------------
@message(126)
@dataclass(frozen=True, slots=True)
class InclusionRequest(Document):
    """Asks for the leaves that the signer may see of a transfer, a hold, or a record.

    `subject` is a transfer's ID (of a hold: it and what ended it), or the SHA-256 of a record's
    body. Signed by a key of the account that owns the leaf, or by the node that earned it.
    """

    PURPOSE: ClassVar[str] = "inclusion-request"
    subject: Annotated[bytes, Limit(32, 16)]
    nonce: Id
    issued_ms: int


@message(127)
@dataclass(frozen=True, slots=True)
class Inclusion(Message):
    """One leaf opened, and the hashes from it to the checkpoint's root."""

    opening: Annotated[bytes, Limit(2048)]
    salt: Annotated[bytes, Limit(LEAF_SALT_BYTES, LEAF_SALT_BYTES)]
    position: Position
    proof: Annotated[tuple[Digest, ...], Limit(64)]


@message(128)
@dataclass(frozen=True, slots=True)
class InclusionReply(Message):
    """Leaves with their proofs in the tree of one checkpoint."""

    inclusions: Annotated[tuple[Inclusion, ...], Limit(INCLUSIONS_MAX, 1)]
    checkpoint: Checkpoint


@message(129)
@dataclass(frozen=True, slots=True)
class LogRange(Message):
    """Two sizes of the log: for `log.consistency`, or for the leaves between them."""

    begin: Position
    end: Position
