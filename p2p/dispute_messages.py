"""Owns the messages of disputes: a consumer contests one charge, a decider settles it once.

Theory of operation. A charge is one capture, named by the hold that its consumer receipt names. The
consumer's account opens a dispute about it within the network's window and hands over evidence that
is sealed to the deciders (`dispute_keys` of the network configuration): only they can read it, the
log holds its hash. Accounts that were paid by the capture see that it is disputed, what is at stake
for them and the reason, not who disputes; each may add one signed answer. A decider signs one
resolution; what it refunds is taken back from everybody in the proportion in which it was paid.

    consumer                        ledger                          decider
      DisputeSubmission ───────────▶  open (opening, sealed evidence)
                   operator: DisputeAnswer ─▶
                                      ◀──────────────────────────────  DisputeRequest, DisputeView
                                      ◀──────────────────────────────  DisputeResolution
      available += refund  ◀────────  one correction transfer

Amounts are microcredits, times milliseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.job_messages import Amount, Digest, Id, Peer
from p2p.ledger_messages import Account, PublicKey
from p2p.limits import FRAME_BYTES_MAX, NAME_CHARACTERS_MAX, TEXT_CHARACTERS_MAX
from p2p.signing import Document, Signed
from p2p.transfer_ids import derived_id

EVIDENCE_BYTES_MAX = 40 * 1024
"""Sealed and compressed: with its opening it fits the 64 KiB that a gateway's courier carries."""
ATTACHMENTS_MAX = 8
ATTACHMENT_BYTES_MAX = 512 * 1024
"""Before compression: a long request and its answer."""
DECIDERS_MAX = 16
ANSWERS_MAX = 16
"""A capture pays at most eight nodes and one gateway."""
DISPUTES_PER_ANSWER_MAX = 100
SEALED_KEY_BYTES_MAX = 128

Text = Annotated[str, Limit(TEXT_CHARACTERS_MAX)]
LedgerAccount = Annotated[str, Limit(2 * NAME_CHARACTERS_MAX)]


def correction_id(hold_id: bytes) -> bytes:
    """Give the ID of the transfer that settles the dispute of a charge: one, for ever."""
    return derived_id(b"resultity/correction/2", hold_id)


# --- what is signed ------------------------------------------------------------------------------
@message(95)
@dataclass(frozen=True, slots=True)
class DisputeOpening(Document):
    """Contests the charge of a hold. Signed by a key of the account that paid.

    `evidence`: SHA-256 of the sealed evidence. The operators read `reason`.
    """

    PURPOSE: ClassVar[str] = "dispute-opening"
    account_id: Account
    hold_id: Id
    claimed: Amount
    reason: Text
    evidence: Digest
    issued_ms: int


@message(96)
@dataclass(frozen=True, slots=True)
class DisputeAnswer(Document):
    """What an operator says to a dispute about its pay. Signed by a key of its account."""

    PURPOSE: ClassVar[str] = "dispute-answer"
    account_id: Account
    hold_id: Id
    text: Text
    issued_ms: int


@message(97)
@dataclass(frozen=True, slots=True)
class DisputeResolution(Document):
    """Ends a dispute: `refund` of the charge goes back (0: none). Signed by a dispute key."""

    PURPOSE: ClassVar[str] = "dispute-resolution"
    hold_id: Id
    refund: Amount
    note: Text
    issued_ms: int


@message(98)
@dataclass(frozen=True, slots=True)
class DisputeRequest(Document):
    """Asks for disputes: of an account (that paid, or that was paid), or as a decider (no account).

    An account asks as who paid, or (`operator`) as who was paid. With `hold_id` it gets one dispute
    with all that it may see; without, a list without documents, the newest first, `skip` of them
    left out.
    """

    PURPOSE: ClassVar[str] = "dispute-request"
    account_id: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    hold_id: Annotated[bytes, Limit(16)]
    nonce: Id
    issued_ms: int
    operator: bool = False
    skip: Annotated[int, Range(0, 2**31)] = 0


# --- evidence ------------------------------------------------------------------------------------
@message(240)
@dataclass(frozen=True, slots=True)
class SealedKey(Message):
    """The evidence's key for one decider (libsodium sealed box to the X25519 form of its key)."""

    decider: PublicKey
    sealed: Annotated[bytes, Limit(SEALED_KEY_BYTES_MAX)]


@message(241)
@dataclass(frozen=True, slots=True)
class SealedEvidence(Message):
    """Evidence that only the named deciders can read (libsodium secret box, compressed)."""

    keys: Annotated[tuple[SealedKey, ...], Limit(DECIDERS_MAX, 1)]
    box: Annotated[bytes, Limit(EVIDENCE_BYTES_MAX)]


@message(242)
@dataclass(frozen=True, slots=True)
class Attachment(Message):
    """A file that the consumer adds, such as the request and the answer."""

    name: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    content: Annotated[bytes, Limit(ATTACHMENT_BYTES_MAX)]


@message(243)
@dataclass(frozen=True, slots=True)
class DisputeEvidence(Message):
    """What a decider finds in the evidence.

    `salt` opens the receipt's commitment to the node receipts, which the ledger has; `proof` is an
    encoded InclusionReply that opens the charge's leaf. Each may be empty.
    """

    receipt: Signed
    salt: Annotated[bytes, Limit(64)]
    proof: Annotated[bytes, Limit(FRAME_BYTES_MAX)]
    attachments: Annotated[tuple[Attachment, ...], Limit(ATTACHMENTS_MAX)]


@message(244)
@dataclass(frozen=True, slots=True)
class DisputeSubmission(Message):
    """A signed DisputeOpening with its evidence (an encoded SealedEvidence)."""

    opening: Signed
    evidence: Annotated[bytes, Limit(EVIDENCE_BYTES_MAX + 4096)]


# --- what is shown -------------------------------------------------------------------------------
@message(245)
@dataclass(frozen=True, slots=True)
class DisputeShare(Message):
    """What the charge paid to a ledger account, and how much of it was taken back."""

    account: LedgerAccount
    paid: Amount
    taken_back: Amount
    node_id: Annotated[Peer, Limit(NAME_CHARACTERS_MAX)]


@message(246)
@dataclass(frozen=True, slots=True)
class DisputeView(Message):
    """A dispute as one side sees it (`side`: payer, operator or decider).

    An operator sees no opening and only its own shares and answer; a payer sees no shares. The
    deciders see all, with the evidence and the capture's request as the ledger keeps it (`capture`:
    an encoded Signed CaptureRequest or LeasedCapture, or PaidClaims).
    """

    hold_id: Id
    side: Annotated[str, Limit(16)]
    opened_ms: int
    charged_ms: int
    charged: Amount
    claimed: Amount
    reason: Text
    resolved_ms: int
    refunded: Amount
    shares: Annotated[tuple[DisputeShare, ...], Limit(64)] = ()
    resolution: Signed | None = None
    opening: Signed | None = None
    answers: Annotated[tuple[Signed, ...], Limit(ANSWERS_MAX)] = ()
    capture: Annotated[bytes, Limit(FRAME_BYTES_MAX)] = b""
    evidence: Annotated[bytes, Limit(EVIDENCE_BYTES_MAX + 4096)] = b""


@message(247)
@dataclass(frozen=True, slots=True)
class DisputeList(Message):
    """Some disputes without their documents, and whether there are more."""

    disputes: Annotated[tuple[DisputeView, ...], Limit(DISPUTES_PER_ANSWER_MAX)]
    more: bool
