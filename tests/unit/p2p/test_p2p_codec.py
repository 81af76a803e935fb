"""Owns the tests of the message codec: strict, bounded, growing, and never surprised."""

from __future__ import annotations

import dataclasses
import random
import typing
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p.calls import Call
from p2p.codec import (
    Message,
    decode_any_message,
    decode_message,
    decode_messages,
    encode_message,
    encode_messages,
)
from p2p.errors import MalformedError
from p2p.job_messages import EndFrame, LoadReport, OutputFrame, RefuseFrame
from p2p.ledger_messages import KeyRevocation
from p2p.limits import FRAME_BYTES_MAX, MESSAGES_PER_FRAME_MAX
from p2p.link import Bye, Ping, Pong
from p2p.signing import Signed
from p2p.types import AccountId
from tests.fakes.message_strategies import bad_values, messages_of
from tools.make_vectors import example, message_classes

CLASSES = list(message_classes().values())
MUTATIONS_PER_CLASS = 200
by_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.NUMBER}-{cls.__name__}")


def wire_form(value: Message) -> list[Any]:
    """Give a message as the list that is packed."""
    form = msgpack.unpackb(encode_message(value), raw=False)
    assert isinstance(form, list)
    return form


def pack(form: Any) -> bytes:
    packed = msgpack.packb(form, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def required_fields(cls: type[Message]) -> int:
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return sum(field.default is dataclasses.MISSING for field in fields)


@by_class
def test_what_is_encoded_is_decoded(cls: type[Message]) -> None:
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(messages_of(cls))
    def check(value: Message) -> None:
        data = encode_message(value)
        assert decode_message(data, cls) == value
        assert decode_any_message(data) == value
        assert decode_messages(encode_messages([value, value])) == [value, value]
        assert encode_message(decode_message(data, cls)) == data

    check()


@by_class
def test_fields_out_of_bounds_are_refused(cls: type[Message]) -> None:
    hints = typing.get_type_hints(cls, include_extras=True)
    form = wire_form(example(cls))
    for place, field in enumerate(dataclasses.fields(cls), start=1):  # type: ignore[arg-type]
        for bad in bad_values(hints[field.name]):
            changed = [*form[:place], bad, *form[place + 1 :]]
            with pytest.raises(MalformedError):
                decode_message(pack(changed), cls)


@by_class
def test_fields_of_a_later_version_are_ignored(cls: type[Message]) -> None:
    value = example(cls)
    form = wire_form(value)
    for field in dataclasses.fields(cls)[len(form) - 1 :]:  # type: ignore[arg-type]
        form.append(list(field.default) if isinstance(field.default, tuple) else field.default)
    for extra in ([1], ["text", None], [[99, 1], {}, b"x"]):
        assert decode_message(pack(form + extra), cls) == value


@by_class
def test_missing_fields_are_defaults_or_refused(cls: type[Message]) -> None:
    value = example(cls)
    form = wire_form(value)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    required = required_fields(cls)
    for count in range(len(fields)):
        data = pack(form[: count + 1])
        if count < required:
            with pytest.raises(MalformedError):
                decode_message(data, cls)
        else:
            defaults = {field.name: field.default for field in fields[count:]}
            assert decode_message(data, cls) == dataclasses.replace(
                value,  # type: ignore[type-var]
                **defaults,
            )


def mutations(data: bytes, draw: random.Random, count: int) -> list[bytes]:
    """Give valid bytes with a few faults each: flipped, inserted, removed, cut."""
    found = []
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(changed)) if changed else 0
            fault = draw.randrange(4)
            if fault == 0 and changed:
                changed[place] ^= 1 << draw.randrange(8)
            elif fault == 1:
                changed[place:place] = draw.randbytes(draw.randint(1, 4))
            elif fault == 2:
                del changed[place : place + draw.randint(1, 4)]
            else:
                del changed[place:]
        found.append(bytes(changed))
    return found


@by_class
def test_mutated_messages_are_refused_or_mean_something(cls: type[Message]) -> None:
    draw = random.Random(cls.NUMBER)
    data = encode_message(example(cls))
    for changed in mutations(data, draw, MUTATIONS_PER_CLASS):
        try:
            value = decode_any_message(changed)
        except MalformedError:
            continue
        assert decode_any_message(encode_message(value)) == value


@settings(max_examples=2_000)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_mean_something(data: bytes) -> None:
    for decode in (decode_any_message, decode_messages):
        try:
            decode(data)
        except MalformedError:
            pass
    with pytest.raises(MalformedError):
        decode_message(data, Call)


scalars = st.sampled_from([None, True, 0, -1, 2**64 - 1, 1.5, "", "text", b"", b"x" * 32, {}])
plain = scalars | st.lists(scalars | st.lists(scalars, max_size=2), max_size=3)


@settings(max_examples=1_000)
@given(st.sampled_from(CLASSES), st.lists(plain, max_size=10))
def test_random_fields_are_refused_or_mean_something(
    cls: type[Message], fields: list[object]
) -> None:
    try:
        value = decode_any_message(pack([cls.NUMBER, *fields]))
    except MalformedError:
        return
    assert type(value) is cls


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        pack([]),
        pack({}),
        pack(None),
        pack(20),
        pack([[20], 20]),
        pack([[20], []]),
        pack([[]]),
        pack([[-1]]),
        pack([[999]]),
        pack([[20.0]]),
        pack([[True]]),
        pack([["20"]]),
        pack([{20: 1}]),
        pack([[20]] * (MESSAGES_PER_FRAME_MAX + 1)),
        pack([msgpack.ExtType(20, b"")]),
        pack([[20]]) + b"\x00",
        b"\x91" * 5000,
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\x91\x91\xd9",
    ],
)
def test_payloads_that_are_no_messages(payload: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_messages(payload)


def test_a_frame_may_be_full() -> None:
    pings: list[Message] = [Ping()] * MESSAGES_PER_FRAME_MAX
    assert decode_messages(encode_messages(pings)) == pings


def test_an_extension_type_is_no_message() -> None:
    """msgpack gives it as a tuple of its number and its bytes."""
    with pytest.raises(MalformedError):
        decode_any_message(pack(msgpack.ExtType(20, b"")))
    form = wire_form(EndFrame(1, "stop", "", Signed(b"", bytes(32), bytes(64))))
    form[4] = msgpack.ExtType(1, b"")
    with pytest.raises(MalformedError):
        decode_message(pack(form), EndFrame)


def test_another_class_than_expected_is_refused() -> None:
    with pytest.raises(MalformedError, match="expected Pong, got Ping"):
        decode_message(encode_message(Ping()), Pong)


def test_the_error_names_the_field() -> None:
    data = pack([43, 1, "x" * 65, "reason"])
    with pytest.raises(MalformedError, match=r"RefuseFrame\.code"):
        decode_message(data, RefuseFrame)


def test_lengths_count_characters_and_bytes() -> None:
    assert decode_message(encode_message(Bye("\U0001f600" * 1024)), Bye).reason[0] == "\U0001f600"
    body = b"x" * (FRAME_BYTES_MAX - 64)
    assert decode_message(encode_message(Call(1, "m", body)), Call).body == body


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_break_comparisons_are_refused(value: float) -> None:
    with pytest.raises(MalformedError, match="tokens_per_second"):
        decode_message(encode_message(LoadReport(0, 0, 1, value, True)), LoadReport)


@pytest.mark.parametrize("token", [-1, 2**32])
def test_token_ids_fit_the_output_hash(token: int) -> None:
    frame = OutputFrame(1, (token,), "x", Signed(b"", bytes(32), bytes(64)))
    with pytest.raises(MalformedError):
        decode_message(encode_message(frame), OutputFrame)


def test_texts_that_are_no_unicode_are_refused() -> None:
    data = encode_message(Bye("abc")).replace(b"abc", b"\xed\xa0\x80")
    with pytest.raises(MalformedError):
        decode_message(data, Bye)


@pytest.mark.parametrize(
    "value", [Bye("\ud800"), KeyRevocation(AccountId("a"), "b", 2**64)], ids=["text", "integer"]
)
def test_what_cannot_be_sent_is_told_to_the_sender(value: Message) -> None:
    for encode in (encode_message, lambda item: encode_messages([item])):
        with pytest.raises(MalformedError, match="cannot be sent"):
            encode(value)
