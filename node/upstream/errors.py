"""Owns the errors of an upstream server, and what each status means. Pure. (What happens to the
connection is mapped in `node.upstream.client`.)

What the server wrote is not passed on: it may name the operator's machine, or repeat a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from node.errors import NodeError

_CONTEXT_WORDS = (
    "context length",
    "context_length",
    "maximum context",
    "max_model_len",
    "context size",
    "exceed_context",
    "context window",
    "prompt is too long",
    "too many tokens",
)
_PARAMETERS = frozenset(
    (
        "messages",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "max_tokens",
        "logprobs",
        "seed",
    )
)


class UpstreamSetupError(NodeError):
    """The upstream server cannot be offered as it is set up: the operator must act."""


class UpstreamError(NodeError):
    """The upstream server did not do what it was asked for.

    Attributes:
        code: a refusal (`p2p.job_messages.REFUSALS`) as long as there was no output, or `failed`.
        sick: whether this says something against the server, not against the request.
    """

    def __init__(self, code: str, reason: str, *, sick: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.sick = sick


class BrokenAnswerError(UpstreamError):
    """The server's answer breaks the form, or a bound."""

    def __init__(self, reason: str) -> None:
        super().__init__("failed", f"the server's answer {reason}", sick=True)


@dataclass(frozen=True, slots=True)
class _Meaning:
    code: str
    text: str
    sick: bool


_STATUSES = {
    401: _Meaning("runtime", "the server refuses the key", True),
    403: _Meaning("runtime", "the server refuses the key", True),
    404: _Meaning("runtime", "the server does not know this address or model", True),
    408: _Meaning("busy", "the server took too long", False),
    413: _Meaning("bad_request", "the request is too large for the server", False),
    429: _Meaning("busy", "the server is busy", False),
    501: _Meaning("unsupported", "the server cannot do this", False),
    503: _Meaning("busy", "the server is busy or starting", True),
}


def refused(status: int, body: Any) -> UpstreamError:
    """What an answer with a status other than 200 means.

    Args: body: its JSON, or None if it is none.
    """
    if 300 <= status < 400:
        return UpstreamError("runtime", "the server redirects, which is not followed", sick=True)
    known = _STATUSES.get(status)
    if known is not None:
        return UpstreamError(known.code, f"{known.text} (status {status})", sick=known.sick)
    if not 400 <= status < 500:
        return UpstreamError("runtime", f"the server failed (status {status})", sick=True)
    error = body.get("error", body) if isinstance(body, dict) else {}
    message = error.get("message", "") if isinstance(error, dict) else error
    words = message.lower() if isinstance(message, str) else ""
    kind = (
        str(error.get("type", "")) + str(error.get("code", "")) if isinstance(error, dict) else ""
    )
    if any(word in words or word in kind.lower() for word in _CONTEXT_WORDS):
        return UpstreamError("context_length_exceeded", "the prompt does not fit the context")
    param = error.get("param") if isinstance(error, dict) else None
    about = f", parameter {param}" if param in _PARAMETERS else ""
    return UpstreamError(
        "bad_request", f"The model's server refuses the request (status {status}{about})."
    )
