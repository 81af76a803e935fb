"""Owns what every endpoint reads from a request: the body within its bound, and the API key."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from gateway.errors import AuthenticationError, BodyTooLargeError, InvalidRequestError
from gateway.limits import HEAD_TIMEOUT_S
from gateway.peer.ledger_port import BAD_KEY_MESSAGE
from p2p.api_keys import ApiKey, parse_api_key
from p2p.errors import MalformedError

JOB_ID_BYTES = 16
MISSING_KEY_MESSAGE = (
    "You didn't provide an API key. Pass it in the header: `Authorization: Bearer <key>`."
)


async def read_body(request: Request, size_bytes_max: int) -> bytes:
    """Read a body. Raises: BodyTooLargeError, InvalidRequestError (too slow), ClientDisconnect."""
    too_large = BodyTooLargeError(f"The body is larger than {size_bytes_max} bytes.")
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > size_bytes_max:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            while True:
                message = await request.receive()
                if message["type"] != "http.request":
                    raise ClientDisconnect
                part = message.get("body", b"")
                size += len(part)
                if size > size_bytes_max:
                    raise too_large
                parts.append(part)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise InvalidRequestError(
            f"The body did not arrive within {HEAD_TIMEOUT_S:g} seconds."
        ) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def api_key_of(request: Request) -> ApiKey:
    """The API key of a request. Raises: AuthenticationError."""
    header = request.headers.get("authorization", "")
    scheme, _, text = header.partition(" ")
    text = text.strip()
    if not header or scheme.lower() != "bearer" or not text:
        raise AuthenticationError(MISSING_KEY_MESSAGE)
    try:
        return parse_api_key(text)
    except MalformedError as error:
        raise AuthenticationError(BAD_KEY_MESSAGE) from error
