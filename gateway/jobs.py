"""Owns the values that cross the bridge between the HTTP thread and the peer. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import GatewayError
from p2p.api_keys import ApiKey


@dataclass(frozen=True, slots=True)
class RequestSize:
    """What bounds a request's input tokens: no tokenizer makes more tokens than there are bytes."""

    text_bytes: int
    messages: int
    tools_bytes: int = 0


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


@dataclass(frozen=True, slots=True)
class ReceiptNote:
    """The consumer receipt as it is attached to an answer (base64 and hex where they are texts)."""

    receipt: str
    job_id: str
    price_microcredits: int
    salt: str


@dataclass(frozen=True, slots=True)
class Delta:
    """Some output: text (may be empty while a character is incomplete) and its number of tokens."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is complete. `text` is the whole answer if the job does not stream, else empty."""

    finish_reason: str
    text: str
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
