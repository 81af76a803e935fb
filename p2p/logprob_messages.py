"""Owns the form in which the likelihood of output tokens travels: from a runtime to its agent, and
beside an OutputFrame to the gateway. Must stay importable without cryptography."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from p2p.codec import Limit, Message, Range, message
from p2p.limits import TOKEN_BYTES_MAX, TOP_LOGPROBS_MAX

LOGPROB_MIN = -9999.0
"""Stands for whatever is less likely (OpenAI's own value)."""

TokenBytes = Annotated[bytes, Limit(TOKEN_BYTES_MAX)]


@message(35)
@dataclass(frozen=True, slots=True)
class TopLogprob(Message):
    """One of the likeliest tokens at a place, likeliest first."""

    token_id: Annotated[int, Range(0, 2**32 - 1)]
    data: TokenBytes
    logprob: float


@message(34)
@dataclass(frozen=True, slots=True)
class TokenLogprob(Message):
    """How likely the model thought one output token, and the likeliest tokens in its place.

    `data`: the bytes that the token adds to the answer. Natural logarithms of the probabilities
    that the model gave, before temperature, penalties, biases and grammar.
    """

    data: TokenBytes
    logprob: float
    top: Annotated[tuple[TopLogprob, ...], Limit(TOP_LOGPROBS_MAX)] = ()
