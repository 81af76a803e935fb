"""Owns what a request says to this network in particular: its field `resultity`.

OpenAI's clients send it by `extra_body={"resultity": {...}}`. Unknown options are refused, because
nobody else could mean anything by them.
"""

from __future__ import annotations

from typing import Annotated

import pydantic
from starlette.requests import Request

from gateway.errors import InvalidRequestError
from p2p.errors import P2PError
from p2p.limits import NAME_CHARACTERS_MAX
from p2p.signing import Signed
from p2p.subclouds.tokens import TOKEN_TEXT_CHARACTERS_MAX, parse_token

TOKEN_HEADER = "resultity-subcloud-token"  # noqa: S105 - the name of a header
ADDRESSED_MODEL_CHARACTERS_MAX = 2 * NAME_CHARACTERS_MAX
"""A model's name, an `@`, and a subcloud's ID."""

SubcloudName = Annotated[str, pydantic.Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
TokenText = Annotated[str, pydantic.Field(max_length=TOKEN_TEXT_CHARACTERS_MAX)]


class ResultityOptions(pydantic.BaseModel):
    """The options.

    `accept_unverified`: models that nobody can verify may answer. `subcloud`: the ID or label of
    the subcloud whose members are to answer (as `name@subcloud` in the model). `token`: lets the
    caller into a subcloud that takes tokens; the header `Resultity-Subcloud-Token` does the same.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    accept_unverified: pydantic.StrictBool | None = None
    subcloud: SubcloudName | None = None
    token: Annotated[TokenText | None, pydantic.Field(repr=False)] = None


def subcloud_of(options: ResultityOptions | None) -> str:
    """The subcloud that the options name, or empty."""
    return (options.subcloud or "") if options is not None else ""


def caller_token_of(options: ResultityOptions | None, request: Request) -> Signed | None:
    """The token that a request shows, in its options or its header.

    Raises: InvalidRequestError (it is no token; what it holds is not repeated).
    """
    shown = options.token if options is not None else None
    shown = shown or request.headers.get(TOKEN_HEADER)
    if not shown:
        return None
    try:
        return parse_token(shown.strip())
    except P2PError as error:
        raise InvalidRequestError(
            "This is not a subcloud's access token (rt_...).", param="resultity.token"
        ) from error
