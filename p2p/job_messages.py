"""Owns the messages of a job session: what gateway and node say and sign for one attempt of a job.

Theory of operation. A gateway keeps one session (`p2p.link`) for each node it works with. Each
attempt has a number in that session. The signed documents below are what money depends on; the
frames carry them.

    gateway                                   node
      OfferFrame(n, Offer)  ───────────────▶   admission: certificate, policy, capacity, deadline
      VoucherFrame(n, Voucher) ────────────▶   may come before or after the acceptance
                            ◀───────────────   AcceptFrame(n, Accept: exact input) | RefuseFrame
                            ◀───────────────   OutputFrame(n, tokens, text, running NodeReceipt) ...
      DeliveryFrame(n, DeliveryCount) ─────▶   every two seconds and at the end
                            ◀───────────────   EndFrame(n, final NodeReceipt)
      CancelFrame(n)        ───────────────▶   at any time; the node answers with an EndFrame

Nothing is emitted before a valid voucher. Every OutputFrame carries the running form of the
receipt, so that a node that is lost can still be paid for what was delivered. Every attempt ends
with an EndFrame or a RefuseFrame, or with the session: the end of a stream alone proves nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.limits import (
    AMOUNT_MICROCREDITS_MAX,
    CERTIFICATES_MAX,
    CHOICES_MAX,
    FRAME_BYTES_MAX,
    NAME_CHARACTERS_MAX,
    OUTPUT_TOKENS_PER_MESSAGE_MAX,
    REQUEST_BYTES_MAX,
    TEXT_CHARACTERS_MAX,
    TOKENS_MAX,
)
from p2p.logprob_messages import TokenLogprob
from p2p.prices import PriceTerms
from p2p.signing import Document, Signed
from p2p.types import PeerId

JOBS_PROTOCOL = "jobs/1"

Id = Annotated[bytes, Limit(16, 16)]
Digest = Annotated[bytes, Limit(32, 32)]
Peer = Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
Tokens = Annotated[int, Range(0, TOKENS_MAX)]
Amount = Annotated[int, Range(0, AMOUNT_MICROCREDITS_MAX)]
JobNumber = Annotated[int, Range(0, 2**53)]
TokenId = Annotated[int, Range(0, 2**32 - 1)]
"""Four bytes in the output hash."""
CacheScope = Annotated[bytes, Limit(16)]
TokenIds = Annotated[tuple[TokenId, ...], Limit(OUTPUT_TOKENS_PER_MESSAGE_MAX)]
Choice = Annotated[int, Range(0, CHOICES_MAX - 1)]


@message(36)
@dataclass(frozen=True, slots=True)
class ChoiceState(Message):
    """How far one choice of a job is: its output tokens, and why it ended if it did (`stop`,
    `length`; the tokens are left out then)."""

    choice: Choice
    token_ids: Annotated[tuple[TokenId, ...], Limit(65_536)]
    finish: Annotated[str, Limit(32)] = ""


@message(30)
@dataclass(frozen=True, slots=True)
class Offer(Document):
    """The gateway asks a node to run one attempt of a job (signed by the gateway).

    `request` is the JSON of the chat request (see docs/reference/protocol.md), `request_hash` its
    SHA-256. `maximum` is the whole job's hold. Times in milliseconds since 1970. `resume_tokens`:
    the output that another node already produced; it is replayed, not emitted, and not paid again.
    `cache_scope`: requests of one scope may share the cache of their prompts' beginnings; the
    gateway makes it from the paying account by a secret of its own. Empty: nothing is shared.
    `choices`: so many answers, each with its part of `output_tokens_max` (which bounds them all
    together) and its own draw (`choice_seed`). A job with several resumes by `resume_choices`: the
    choices that another node ended, or began; `resume_tokens` is empty then. `task`: `chat`, or
    `embeddings` (see `p2p.embeddings`: no output tokens, and nothing is resumed).
    """

    PURPOSE: ClassVar[str] = "offer"
    TRIMMED: ClassVar[int] = 3
    job_id: Id
    attempt: Annotated[int, Range(0, 255)]
    gateway_id: Peer
    node_id: Peer
    hold_id: Id
    model_digest: Digest
    request_hash: Digest
    request: Annotated[bytes, Limit(REQUEST_BYTES_MAX)]
    input_tokens_max: Tokens
    output_tokens_max: Tokens
    terms: PriceTerms
    maximum: Amount
    issued_ms: int
    deadline_ms: int
    seed: Annotated[int, Range(0, 2**32 - 1)]
    resume_tokens: Annotated[tuple[TokenId, ...], Limit(65_536)] = ()
    cache_scope: CacheScope = b""
    choices: Annotated[int, Range(1, CHOICES_MAX)] = 1
    resume_choices: Annotated[tuple[ChoiceState, ...], Limit(CHOICES_MAX)] = ()
    task: Annotated[str, Limit(32)] = "chat"


@message(31)
@dataclass(frozen=True, slots=True)
class Accept(Document):
    """The node takes the attempt and states the exact input tokens (signed by the node)."""

    PURPOSE: ClassVar[str] = "accept"
    job_id: Id
    attempt: Annotated[int, Range(0, 255)]
    offer_hash: Digest
    input_tokens: Tokens
    output_tokens_max: Tokens


@message(32)
@dataclass(frozen=True, slots=True)
class NodeReceipt(Document):
    """What the node did so far (`final` false) or in all (signed by the node).

    `output_hash` is the running hash of all output of this attempt (`next_output_hash`);
    `output_tokens` counts this attempt's own tokens, not the resumed ones. `cached_input_tokens` of
    the `input_tokens` were in the node's cache. So that the work can be checked by doing it again:
    `build` names what computed it (the binding's version and a digest of llama.cpp's build and
    processor), `mode` is `reproducible` or `throughput`, and `sampling_hash` is the digest of the
    sampling settings as they were applied, with the defaults of what the request leaves out
    (docs/reference/protocol.md). All three are empty where the node does not know them.
    """

    PURPOSE: ClassVar[str] = "node-receipt"
    TRIMMED: ClassVar[int] = 3
    job_id: Id
    attempt: Annotated[int, Range(0, 255)]
    offer_hash: Digest
    hold_id: Id
    gateway_id: Peer
    request_hash: Digest
    model_digest: Digest
    model_id: Digest
    output_hash: Digest
    input_tokens: Tokens
    output_tokens: Tokens
    started_ms: int
    at_ms: int
    final: bool
    finish_reason: Annotated[str, Limit(32)]
    seed: Annotated[int, Range(0, 2**32 - 1)]
    cached_input_tokens: Tokens = 0
    build: Annotated[str, Limit(NAME_CHARACTERS_MAX)] = ""
    mode: Annotated[str, Limit(16)] = ""
    sampling_hash: Annotated[bytes, Limit(32)] = b""


@message(33)
@dataclass(frozen=True, slots=True)
class DeliveryCount(Document):
    """How much of this attempt's output is chargeable so far (signed by the gateway).

    `input_tokens` is the input charged to this attempt: the job's first chargeable attempt carries
    it, the later ones carry 0. `cached_input_tokens` of them cost less, as the node's receipt says.
    """

    PURPOSE: ClassVar[str] = "delivery-count"
    job_id: Id
    attempt: Annotated[int, Range(0, 255)]
    offer_hash: Digest
    hold_id: Id
    node_id: Peer
    input_tokens: Tokens
    output_tokens: Tokens
    final: bool
    at_ms: int
    cached_input_tokens: Tokens = 0


@message(40)
@dataclass(frozen=True, slots=True)
class OfferFrame(Message):
    """Opens attempt `number` of this session."""

    number: JobNumber
    offer: Signed


@message(41)
@dataclass(frozen=True, slots=True)
class VoucherFrame(Message):
    """The ledger's promise that the job's maximum is held (`ledger_messages.Voucher`).

    `issuer_chain` certifies the bootstrap that signed it; it may be left out once this session has
    carried it.
    """

    number: JobNumber
    voucher: Signed
    issuer_chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX)] = ()


@message(42)
@dataclass(frozen=True, slots=True)
class AcceptFrame(Message):
    """The node takes the attempt."""

    number: JobNumber
    accept: Signed


@message(43)
@dataclass(frozen=True, slots=True)
class RefuseFrame(Message):
    """The node does not take the attempt, and why (codes in `REFUSALS`)."""

    number: JobNumber
    code: Annotated[str, Limit(64)]
    reason: Annotated[str, Limit(TEXT_CHARACTERS_MAX)]
    retry_after_ms: Annotated[int, Range(0, 86_400_000)] = 0
    input_tokens: Tokens = 0
    context_tokens: Tokens = 0


@message(44)
@dataclass(frozen=True, slots=True)
class OutputFrame(Message):
    """Tokens and text of one or more steps, with the running receipt over everything so far.

    `logprobs`: one for each token if the request asks for them. They are in no hash and no receipt:
    nobody pays for them. `choice`: whose output it is. `finish`: why this choice is over, in jobs
    of several choices only.
    """

    TRIMMED: ClassVar[int] = 3
    number: JobNumber
    token_ids: TokenIds
    text: Annotated[str, Limit(FRAME_BYTES_MAX)]
    receipt: Signed
    logprobs: Annotated[tuple[TokenLogprob, ...], Limit(OUTPUT_TOKENS_PER_MESSAGE_MAX)] = ()
    choice: Choice = 0
    finish: Annotated[str, Limit(32)] = ""


@message(45)
@dataclass(frozen=True, slots=True)
class DeliveryFrame(Message):
    """The gateway's signed acknowledgement of what it delivered."""

    number: JobNumber
    delivery: Signed


@message(46)
@dataclass(frozen=True, slots=True)
class EndFrame(Message):
    """The attempt is over. `outcome`: stop, length, cancelled or failed; receipt if accepted."""

    number: JobNumber
    outcome: Annotated[str, Limit(32)]
    detail: Annotated[str, Limit(TEXT_CHARACTERS_MAX)]
    receipt: Signed | None = None


@message(47)
@dataclass(frozen=True, slots=True)
class CancelFrame(Message):
    """The gateway no longer wants this attempt."""

    number: JobNumber
    reason: Annotated[str, Limit(64)]


@message(48)
@dataclass(frozen=True, slots=True)
class LoadReport(Message):
    """The node's load, pushed over its sessions when it changes and with the heartbeat."""

    running: Annotated[int, Range(0, 10**6)]
    queued: Annotated[int, Range(0, 10**6)]
    slots: Annotated[int, Range(0, 10**6)]
    tokens_per_second: float
    accepting: bool


REFUSALS = {
    "busy": "no free slot and the queue is full",
    "too_many_choices": "the request has more choices than may run here at once",
    "deadline": "the deadline cannot be met",
    "draining": "the node is leaving",
    "model_not_served": "the node does not serve this model",
    "not_entitled": "the gateway or its offer is not acceptable",
    "price": "the price terms differ from the network configuration",
    "context_length_exceeded": "the prompt does not fit the model's context",
    "bad_request": "the request cannot be rendered for this model",
    "unsupported": "the request needs something that this node does not have",
    "runtime": "the runtime is not ready",
    "needs_voucher": "the node takes no leases: offer again with a hold's own voucher",
    "not_resumable": "the node cannot go on with what another node began",
    "caller_not_allowed": "the node's operator takes no jobs of this gateway",
    "price_too_low": "the network pays less than the node's operator asks for",
    "outside_hours": "the node does not work at this time",
    "too_large": "the job may take more tokens than the node's operator allows",
    "isolated": "the node left the global pool for a subcloud",
    "not_member": "the node is not a member of the job's subcloud",
    "policy_unknown": "the node does not know the version of the policy that the offer names (yet)",
    "policy_over": "the subcloud's policy has ended, or the network has banned the subcloud",
    "gateway_not_admitted": "the subcloud's policy does not admit this gateway",
    "model_not_admitted": "the subcloud's policy does not admit this model at this node",
    "suspended": "the node does not meet the subcloud's policy at the moment",
}
"""Refusal codes of a node, with their meaning. `context_length_exceeded`, `bad_request` and
`unsupported` are the caller's to mend; after all others the gateway tries another node."""


def next_output_hash(
    previous: bytes, token_ids: tuple[int, ...], text: str, choice: int | None = None
) -> bytes:
    """Continue the running hash over an attempt's output with one OutputFrame's content.

    `h(0)` is 32 zero bytes; `h(k) = SHA-256(h(k-1) || u32 count || u32 token IDs || UTF-8 text)`,
    integers big-endian. In a job of several choices, u32 `choice` follows `h(k-1)`.
    """
    tokens = b"".join(token.to_bytes(4, "big") for token in token_ids)
    count = len(token_ids).to_bytes(4, "big")
    if choice is not None:
        previous += choice.to_bytes(4, "big")
    return hashlib.sha256(previous + count + tokens + text.encode()).digest()


def choice_seed(seed: int, choice: int) -> int:
    """Give the 32-bit seed by which one choice of a job is drawn; choice 0 has the job's own.

    The others: the first four bytes of `SHA-256("choice" || u32 seed || u32 choice)`, big-endian.
    """
    if choice == 0:
        return seed
    data = b"choice" + seed.to_bytes(4, "big") + choice.to_bytes(4, "big")
    return int.from_bytes(hashlib.sha256(data).digest()[:4], "big")


OUTPUT_HASH_START = bytes(32)
