"""The pipe's messages: golden vectors, and that the largest ones fit."""

from __future__ import annotations

import pytest

from node import runtime_messages as messages
from node.limits import PIPE_FRAME_BYTES_MAX, RESUME_TOKENS_MAX
from node.runtime_child import _encode
from p2p.codec import Message, decode_messages, encode_message, encode_messages
from p2p.limits import REQUEST_BYTES_MAX
from p2p.wire import FrameDecoder

SAMPLES: list[tuple[Message, str]] = [
    (
        messages.Ready(1024, 4, "llama", "cpp", 1, 1280, True),
        "98ccd2cd040004a56c6c616d61a363707001cd0500c3",
    ),
    (messages.StartFailed("no"), "92ccd3a26e6f"),
    (
        messages.Prepare(1, b"{}", 9, 7, (1, 2), b"scope"),
        "97ccd401c4027b7d0907920102c40573636f7065",
    ),
    (messages.Prepared(1, 12, 9), "94ccd5010c09"),
    (messages.Rejected(1, "busy", "full", 0, 0), "96ccd601a462757379a466756c6c0000"),
    (messages.Start(1), "92ccd701"),
    (messages.Cancel(1), "92ccd801"),
    (messages.Step((messages.StepItem(1, (5,), "a"),)), "92ccda9194ccd9019105a161"),
    (messages.Ended(1, "stop", ""), "94ccdb01a473746f70a0"),
    (messages.Ping(3), "92ccdc03"),
    (messages.Pong(3), "92ccdd03"),
    (messages.Stats(1, 2, 4, 1.5, 3, 4, 5, 6), "99ccde010204cb3ff800000000000003040506"),
    (messages.Cached(1, 40), "93ccdf0128"),
]


@pytest.mark.parametrize(("message", "golden"), SAMPLES)
def test_golden_vectors(message: Message, golden: str) -> None:
    assert encode_message(message).hex() == golden
    assert decode_messages(encode_messages([message])) == [message]


def test_the_largest_messages_fit_into_frames() -> None:
    largest = messages.Prepare(
        2**53, bytes(REQUEST_BYTES_MAX), 1, 2**32 - 1, (2**31,) * RESUME_TOKENS_MAX
    )
    sent = [largest, messages.Start(1), largest, largest, messages.Cancel(2)]
    received: list[Message] = []
    for frame in FrameDecoder(PIPE_FRAME_BYTES_MAX).feed(_encode(sent)):
        received += decode_messages(frame)
    assert received == sent
