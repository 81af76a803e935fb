"""Owns Hypothesis strategies for wire messages, made from their annotations."""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
from typing import Any

from hypothesis import strategies as st

from p2p.codec import Limit, Message, Range

LENGTH_MAX_DRAWN = 40
"""Longer texts and lists prove nothing more; the bounds themselves are tested one by one."""


@cache
def messages_of(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Give instances of a class whose fields lie anywhere within their bounds."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return st.builds(cls, **{field.name: _values(hints[field.name]) for field in fields})


def _values(hint: Any) -> st.SearchStrategy[Any]:
    hint, bounds = unwrap(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = next(part for part in typing.get_args(hint) if part is not type(None))
        return st.none() | _values(inner)
    limit = next((bound for bound in bounds if isinstance(bound, Limit)), Limit(1024))
    smallest, largest = limit.length_min, min(limit.length_max, LENGTH_MAX_DRAWN)
    largest = max(smallest, largest)
    if typing.get_origin(hint) is tuple:
        element = _values(typing.get_args(hint)[0])
        return st.lists(element, min_size=smallest, max_size=min(largest, 4)).map(tuple)
    if issubclass(hint, Message):
        return messages_of(hint)
    if hint is int:
        wanted = next((b for b in bounds if isinstance(b, Range)), Range(-(2**63), 2**63 - 1))
        return st.integers(wanted.minimum, wanted.maximum)
    if hint is bytes:
        return st.binary(min_size=smallest, max_size=largest)
    if hint is str:
        return st.text(min_size=smallest, max_size=largest)
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    return st.booleans() if hint is bool else st.sampled_from(list(hint))


def unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Take the bounds off an annotation and see through new types."""
    bounds: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *rest = typing.get_args(hint)
        bounds = tuple(rest)
    return getattr(hint, "__supertype__", hint), bounds


def bad_values(hint: Any) -> list[Any]:
    """Give values, as msgpack has them, that a field with this annotation must refuse."""
    hint, bounds = unwrap(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = next(part for part in typing.get_args(hint) if part is not type(None))
        return [value for value in bad_values(inner) if value is not None]
    limit = next((bound for bound in bounds if isinstance(bound, Limit)), Limit(1024))
    if typing.get_origin(hint) is tuple:
        return [None, 1, "text", b"bytes", {}] + _bad_lengths(limit, [], [0])
    if issubclass(hint, Message):
        return [None, 1, "text", [], [0], [cls_number_other(hint)], ["text"], [True], {}]
    if hint is int:
        bad = [None, True, 1.0, "1", b"1", [], 2**64 - 1]
        wanted = next((bound for bound in bounds if isinstance(bound, Range)), None)
        if wanted is not None:
            bad += [v for v in (wanted.minimum - 1, wanted.maximum + 1) if -(2**63) <= v < 2**64]
        return bad
    if hint is bytes:
        return [None, 1, "text" * 8, []] + _bad_lengths(limit, b"", b"x")
    if hint is float:
        return [None, 1, True, "1.0", float("nan"), float("inf"), float("-inf")]
    if hint is bool:
        return [None, 0, 1, "true", []]
    if hint is str:
        return [None, 1, b"bytes" * 8, []] + _bad_lengths(limit, "", "x")
    return [None, 1, "no such member", b"node"]


def _bad_lengths(limit: Limit, empty: Any, one: Any) -> list[Any]:
    bad = [one * (limit.length_max + 1)]
    if limit.length_min > 0:
        bad += [empty, one * (limit.length_min - 1)]
    return bad


def cls_number_other(cls: type[Message]) -> int:
    """Give the number of a message of another class (a Ping or a Pong of `p2p.link`)."""
    return 20 if cls.NUMBER != 20 else 21
