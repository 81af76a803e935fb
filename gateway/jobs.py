"""Owns the values that cross the bridge between the HTTP thread and the peer. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.errors import GatewayError
from p2p.api_keys import ApiKey
from p2p.embeddings import CHAT
from p2p.logprob_messages import TokenLogprob
from p2p.signing import Signed


@dataclass(frozen=True, slots=True)
class RequestSize:
    """What bounds a request's input tokens: no tokenizer makes more tokens than there are bytes."""

    text_bytes: int
    messages: int
    tools_bytes: int = 0
    images: int = 0


@dataclass(frozen=True, slots=True)
class ChatJob:
    """One validated API request.

    Attributes:
        request: compact JSON for the node (p2p.job_messages.Offer.request).
        body_hash: SHA-256 of the HTTP body as it came.
        max_tokens: what the client asked for, or None.
        seed: 32 bits; the same for all attempts, so that a continuation draws the same.
        needs_images: whether a message has image parts.
        source: the client's address as the HTTP server sees it; it never leaves the gateway.
        choices: how many answers; `max_tokens` is for each of them.
        top_logprobs: how many of the likeliest tokens are told with each token's logprob; None: no
            logprobs.
        task: `chat` or `embeddings` (p2p.embeddings); `size.messages` are the inputs then.
        dimensions: to how many numbers its vectors are to be cut, or None.
        accept_unverified: whether a model that nobody can verify may answer.
        model: as it was asked for: it may name a subcloud after an `@`.
        subcloud: the subcloud that the request's own field names, or empty.
        caller_token: the token that lets the caller into a subcloud, if one was shown.
    """

    job_id: bytes
    key: ApiKey
    model: str
    request: bytes
    body_hash: bytes
    streaming: bool
    size: RequestSize
    max_tokens: int | None
    seed: int
    needs_images: bool = False
    source: str = ""
    choices: int = 1
    top_logprobs: int | None = None
    task: str = CHAT
    dimensions: int | None = None
    accept_unverified: bool = False
    subcloud: str = ""
    caller_token: Signed | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ReceiptNote:
    """The consumer receipt as it is attached to an answer (base64 and hex where they are texts).

    `subcloud`: whose members served (its ID), or that was asked for if the job `fell_back` to the
    global pool; empty for a job of the global pool.
    """

    receipt: str
    job_id: str
    price_microcredits: int
    salt: str
    subcloud: str = ""
    fell_back: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """Some output of one choice: text (may be empty while a character is incomplete), its number of
    tokens, and their logprobs if they were asked for."""

    text: str
    tokens: int
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """How one choice ended. `text` and `logprobs` are the whole answer's if the job does not
    stream, else empty."""

    finish_reason: str
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """All choices are complete. Tokens are counted in sum."""

    choices: tuple[Ended, ...]
    input_tokens: int
    output_tokens: int
    note: ReceiptNote
    cached_input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended with an error, before or after output."""

    error: GatewayError


JobEvent = Delta | Done | Failed


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model as `/v1/models` lists it: it is approved, and at least one node serves it now."""

    name: str
    created_s: int
    context_tokens: int
    verified: bool = True
    tasks: tuple[str, ...] = (CHAT,)


def texts_as_one(texts: Sequence[str]) -> str:
    """Give the one text that the receipt for several answers is over: a JSON list of theirs,
    without spaces and without needless escapes."""
    return json.dumps(list(texts), ensure_ascii=False, separators=(",", ":"))
