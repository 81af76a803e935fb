"""Owns the mapping between message classes and msgpack: strict, bounded, by declaration.

Theory of operation. A message is a frozen dataclass registered under a number; on the wire it is
the msgpack array `[number, field, field, ...]` in the order of declaration. Fields are int, bool,
str, bytes, float, an optional of these, a tuple of one of these, or another message class. Bounds
stand in the annotation (`Annotated[str, Limit(64)]`): length for texts, bytes and tuples, an
inclusive range for integers. Decoding checks types and bounds of every field before the object
exists.

Growth: a field may be added at the end with a default. A decoder fills what is missing from the
defaults and ignores what it does not know, so old and new peers understand each other. Signatures
are not touched by this: they always cover the bytes as sent (see `p2p.signing`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import msgpack

from p2p.errors import MalformedError
from p2p.limits import FRAME_BYTES_MAX, MESSAGES_PER_FRAME_MAX, TEXT_CHARACTERS_MAX


class Message:
    """Base of all wire messages. Subclasses are frozen dataclasses made with `@message(number)`."""

    __slots__ = ()
    NUMBER: ClassVar[int]
    TRIMMED: ClassVar[int] = 0
    """So many fields at the end, added later, are not sent while they have their defaults: what an
    older program encoded is still encoded like that."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """The largest length of a text, byte string or tuple."""

    length_max: int
    length_min: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """The inclusive range of an integer."""

    minimum: int
    maximum: int


M = TypeVar("M", bound=Message)
T = TypeVar("T")
Check = Callable[[Any, str], Any]

_classes: dict[int, type[Message]] = {}
_decoders: dict[type[Message], Callable[[Sequence[Any]], Message]] = {}
_encoders: dict[type[Message], Callable[[Any], list[Any]]] = {}
_INTEGER = Range(-(2**63), 2**63 - 1)


def message(number: int) -> Callable[[type[M]], type[M]]:
    """Register a frozen dataclass as the message with this number (never re-used once shipped)."""

    def register(cls: type[M]) -> type[M]:
        assert number not in _classes, f"message number {number} is taken by {_classes[number]}"
        cls.NUMBER = number
        _classes[number] = cls
        return cls

    return register


def encode_message(value: Message, *, left_out: int = 0) -> bytes:
    """Give the msgpack form of one message: `[number, field, ...]`.

    Args: left_out: so many fields at the end are left out (they must have defaults).
    Raises: MalformedError for a text that is not Unicode or an integer beyond 64 bits. (Bounds are
        checked by who decodes.)
    """
    form = _to_list(value)
    return _pack(form[:-left_out] if left_out else form)


def encode_timeless(value: Message, time_field: str, *, left_out: int = 0) -> bytes:
    """Give `encode_message` of a message whose field `time_field` is 0, without making a copy.

    Args and Raises: as `encode_message`.
    """
    form = _to_list(value)
    cls: Any = type(value)
    form[_place_of(cls, time_field)] = 0
    return _pack(form[:-left_out] if left_out else form)


def encode_messages(values: Sequence[Message]) -> bytes:
    """Give the payload of one frame: a msgpack array of messages. Raises: as `encode_message`."""
    return _pack([_to_list(value) for value in values])


def decode_message(data: bytes, cls: type[M]) -> M:
    """Read one message of a known class.

    Raises: MalformedError if the bytes are anything else, or a field breaks its bounds.
    """
    return _from_list(_unpack(data), cls)


def decode_any_message(data: bytes) -> Message:
    """Read one message of whatever class its number names.

    Raises: MalformedError if the bytes are no known, well-formed message.
    """
    return _from_list(_unpack(data), None)


def decode_messages(payload: bytes) -> list[Message]:
    """Read all messages of one frame's payload.

    Raises: MalformedError if anything in it is not a known, well-formed message.
    """
    items = _unpack(payload)
    if type(items) is not tuple or not 0 < len(items) <= MESSAGES_PER_FRAME_MAX:
        raise MalformedError(f"a frame holds 1 to {MESSAGES_PER_FRAME_MAX} messages")
    return [_from_list(item, None) for item in items]


@functools.cache
def _place_of(cls: Any, name: str) -> int:
    names = [field.name for field in dataclasses.fields(cls)]
    return names.index(name) + 1  # after the message's number


def _pack(form: list[Any]) -> bytes:
    try:
        return msgpack.packb(form, use_bin_type=True)  # type: ignore[no-any-return]
    except (UnicodeEncodeError, OverflowError) as error:
        raise MalformedError(f"this cannot be sent: {type(error).__name__}") from error


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            strict_map_key=True,
            max_str_len=FRAME_BYTES_MAX,
            max_bin_len=FRAME_BYTES_MAX,
            max_array_len=65_536,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedError(f"not valid msgpack: {type(error).__name__}") from error


def _to_list(value: Message) -> list[Any]:
    encoder = _encoders.get(type(value))
    if encoder is None:
        encoder = _encoders[type(value)] = _make_encoder(type(value))
    return encoder(value)


def _from_list(item: Any, cls: type[M] | None) -> M:
    # Exactly a tuple: msgpack gives its extension types as a subclass.
    if type(item) is not tuple or not item or type(item[0]) is not int:
        raise MalformedError("a message is an array that starts with its number")
    found = _classes.get(item[0])
    if found is None:
        raise MalformedError(f"unknown message number {item[0]}")
    if cls is not None and found is not cls:
        raise MalformedError(f"expected {cls.__name__}, got {found.__name__}")
    decoder = _decoders.get(found)
    if decoder is None:
        decoder = _decoders[found] = _make_decoder(found)
    return typing.cast(M, decoder(item))


def _make_encoder(cls: type[Message]) -> Callable[[Any], list[Any]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    # Most fields are packed as they are; only messages and tuples of them need work. (Tuples of
    # plain values are arrays to msgpack already.)
    nested = [place for place, name in enumerate(names, 1) if _holds_messages(hints[name])]
    number = cls.NUMBER

    def pack(value: Any) -> Any:
        if isinstance(value, Message):
            return _to_list(value)
        if isinstance(value, tuple):
            return [pack(element) for element in value]
        return value

    if len(names) < 2:
        return lambda value: [number, *(pack(getattr(value, name)) for name in names)]
    get_all = operator.attrgetter(*names)

    def encode(value: Any) -> list[Any]:
        items = [number, *get_all(value)]
        for place in nested:
            items[place] = pack(items[place])
        return items

    if not cls.TRIMMED:
        return encode
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    first = len(names) - cls.TRIMMED + 1
    defaults = [
        pack(field.default) if place in nested else field.default
        for place, field in enumerate(fields[-cls.TRIMMED :], first)
    ]

    def encode_trimmed(value: Any) -> list[Any]:
        items = encode(value)
        for default in reversed(defaults):
            if items[-1] != default:
                break
            items.pop()
        return items

    return encode_trimmed


def _holds_messages(hint: Any) -> bool:
    if isinstance(hint, type):
        return issubclass(hint, Message)
    return any(_holds_messages(part) for part in typing.get_args(hint))


def _make_decoder(cls: type[Message]) -> Callable[[Sequence[Any]], Message]:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    checks = [(field.name, _make_check(hints[field.name])) for field in fields]
    required = sum(
        field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        for field in fields
    )
    name = cls.__name__

    def decode(item: Sequence[Any]) -> Message:
        if len(item) - 1 < required:
            raise MalformedError(f"{name} has at least {required} fields, not {len(item) - 1}")
        values = [
            check(value, f"{name}.{field_name}")
            for (field_name, check), value in zip(checks, item[1:], strict=False)
        ]
        return cls(*values)

    return decode


def _make_check(hint: Any) -> Check:
    bounds: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *rest = typing.get_args(hint)
        bounds = tuple(rest)
    hint = getattr(hint, "__supertype__", hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        assert len(inner) == 1, f"only optional unions are supported: {hint}"
        return _optional(_make_check(typing.Annotated[inner[0], *bounds] if bounds else inner[0]))
    limit = next((bound for bound in bounds if isinstance(bound, Limit)), None)
    if origin is tuple:
        assert limit is not None, f"a tuple needs a Limit: {hint}"
        return _tuple_of(_make_check(typing.get_args(hint)[0]), limit)
    if isinstance(hint, type) and issubclass(hint, Message):
        return lambda value, where: _from_list(value, hint)
    if hint is int:
        return _integer(next((b for b in bounds if isinstance(b, Range)), _INTEGER))
    if hint is float:
        return _number
    if hint is bool:
        return _boolean
    if isinstance(hint, type) and issubclass(hint, str):
        return _text(hint, limit or Limit(TEXT_CHARACTERS_MAX))
    assert hint is bytes, f"unsupported field type: {hint}"
    assert limit is not None, "bytes need a Limit"
    return _sized(bytes, limit)


def _optional(check: Check) -> Check:
    return lambda value, where: None if value is None else check(value, where)


def _boolean(value: Any, where: str) -> Any:
    if type(value) is not bool:
        raise MalformedError(f"{where} must be bool")
    return value


def _number(value: Any, where: str) -> Any:
    # Not-a-number and infinity would defeat every comparison that is made with them.
    if type(value) is not float or not math.isfinite(value):
        raise MalformedError(f"{where} must be a finite float")
    return value


def _integer(bounds: Range) -> Check:
    minimum, maximum = bounds.minimum, bounds.maximum

    def check(value: Any, where: str) -> Any:
        if type(value) is not int or not minimum <= value <= maximum:
            raise MalformedError(f"{where} must be an integer from {minimum} to {maximum}")
        return value

    return check


def _sized(kind: type[str] | type[bytes] | type[tuple[Any, ...]], limit: Limit) -> Check:
    def check(value: Any, where: str) -> Any:
        if type(value) is not kind or not limit.length_min <= len(value) <= limit.length_max:
            raise MalformedError(
                f"{where} must be {kind.__name__} of {limit.length_min} to {limit.length_max}"
            )
        return value

    return check


def _text(kind: type, limit: Limit) -> Check:
    plain = _sized(str, limit)
    if kind is str:
        return plain

    def check(value: Any, where: str) -> Any:
        try:
            return kind(plain(value, where))
        except ValueError as error:
            raise MalformedError(f"{where} is not a known {kind.__name__}") from error

    return check


def _tuple_of(element: Check, limit: Limit) -> Check:
    plain = _sized(tuple, limit)
    return lambda value, where: tuple(element(item, where) for item in plain(value, where))
