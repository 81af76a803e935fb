"""Owns the reading of an embeddings request's JSON (its form is in `p2p.embeddings`). Pure.

The gateway has validated the request already; the runtime does it again because it believes nobody.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from node.errors import RuntimeRefusedError
from p2p.limits import EMBEDDING_DIMENSIONS_MAX, EMBEDDING_INPUTS_MAX


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """What to make vectors of: texts, or tokens. `dimensions`: how many numbers of each are wanted,
    None for all."""

    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None


def read_embeddings_request(data: bytes) -> EmbeddingsRequest:
    """Read and validate a request. Raises: RuntimeRefusedError `bad_request`."""
    try:
        fields = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _bad("the request is not valid JSON") from error
    items = fields.get("input") if isinstance(fields, dict) else None
    if not isinstance(items, list) or not 0 < len(items) <= EMBEDDING_INPUTS_MAX:
        raise _bad(f"input must be a list of 1 to {EMBEDDING_INPUTS_MAX} texts or token lists")
    dimensions = fields.get("dimensions")
    if dimensions is not None and (
        type(dimensions) is not int or not 0 < dimensions <= EMBEDDING_DIMENSIONS_MAX
    ):
        raise _bad(f"dimensions must be from 1 to {EMBEDDING_DIMENSIONS_MAX}")
    return EmbeddingsRequest(tuple(_input(item) for item in items), dimensions)


def _input(item: object) -> str | tuple[int, ...]:
    if isinstance(item, str) and item:
        return item
    if isinstance(item, list) and item and all(type(token) is int for token in item):
        return tuple(item)
    raise _bad("each input must be a text or a list of tokens, and not be empty")


def _bad(reason: str) -> RuntimeRefusedError:
    return RuntimeRefusedError("bad_request", reason)
