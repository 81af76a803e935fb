"""Owns how what the bootstraps say about subclouds becomes HTTP: documents and refusals."""

from __future__ import annotations

import base64
import math
from typing import TypeVar

from starlette.responses import JSONResponse

from gateway.backend import CourierAnswer
from gateway.errors import StoppingError
from gateway.limits import RETRY_AFTER_S
from p2p.codec import Message, decode_message, decode_messages, encode_message
from p2p.errors import MalformedError

M = TypeVar("M", bound=Message)
STATUS = {
    "unknown_subcloud": 404,
    "untrusted": 403,
    "owner_key": 403,
    "subcloud_creation": 403,
    "subcloud_banned": 403,
    "not_entitled": 403,
    "not_authorized": 403,
    "subcloud_rate": 429,
    "too_many_requests": 429,
    "too_many_subclouds": 429,
    "rate_limited": 429,
    "busy": 503,
}


def encoded(document: Message) -> str:
    """A message in base64."""
    return base64.b64encode(encode_message(document)).decode("ascii")


def documents(answer: CourierAnswer) -> list[Message]:
    """The messages of an answer that is a list. Raises: StoppingError (it cannot be read)."""
    try:
        return decode_messages(answer.result) if answer.result else []
    except MalformedError as error:
        raise _unreadable() from error


def carried(answer: CourierAnswer, cls: type[M]) -> M:
    """The message of an answer that is one. Raises: StoppingError (it cannot be read)."""
    try:
        return decode_message(answer.result, cls)
    except MalformedError as error:
        raise _unreadable() from error


def refusal(answer: CourierAnswer) -> JSONResponse:
    """What the bootstrap refused, with its reason."""
    error = {
        "message": answer.message,
        "type": "subcloud_refusal",
        "param": None,
        "code": answer.code,
    }
    headers = {}
    if answer.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(answer.retry_after_s))
    return JSONResponse({"error": error}, STATUS.get(answer.code, 400), headers)


def _unreadable() -> StoppingError:
    return StoppingError(
        "The bootstrap's answer cannot be read; ask again later.", retry_after_s=RETRY_AFTER_S
    )
