"""Owns what a request says to this network in particular: its field `resultity`.

OpenAI's clients send it by `extra_body={"resultity": {...}}`. Unknown options are refused, because
nobody else could mean anything by them.
"""

from __future__ import annotations

import pydantic


class ResultityOptions(pydantic.BaseModel):
    """The options. `accept_unverified`: models that nobody can verify may answer."""

    model_config = pydantic.ConfigDict(extra="forbid")

    accept_unverified: pydantic.StrictBool | None = None
