"""What a peer makes of a bootstrap's word on where it can be dialled."""

from __future__ import annotations

import pytest

from p2p.codec import decode_message, encode_message
from p2p.errors import UntrustedError
from p2p.reaching.reach_client import ask_reach
from p2p.reaching.relay_messages import REACH_CHECK, ReachAnswer, ReachQuestion

OURS = ("/ip4/10.0.0.5/tcp/4001/p2p/us", "/ip4/127.0.0.1/tcp/4001/p2p/us")


async def ask(said: str, *addresses: str) -> ReachAnswer:
    async def call(method: str, body: bytes) -> bytes:
        assert method == REACH_CHECK
        assert decode_message(body, ReachQuestion).ports == (4001,)
        return encode_message(ReachAnswer(said))

    return await ask_reach(call, addresses)


@pytest.mark.parametrize("said", ["", "/ip4/203.0.113.5/tcp/4001/p2p/us"])
async def test_what_can_be_ours_is_believed(said: str) -> None:
    assert (await ask(said, *OURS)).address == said


@pytest.mark.parametrize(
    "said",
    [
        "/ip4/203.0.113.5/tcp/4001/p2p/somebody",
        "/ip4/203.0.113.5/tcp/25/p2p/us",
        "/ip4/203.0.113.5/tcp/4001",
        "anything",
    ],
)
async def test_another_place_is_not(said: str) -> None:
    """A gateway that said it would have its whole statement refused by every node."""
    with pytest.raises(UntrustedError):
        await ask(said, *OURS)


async def test_without_a_listener_nobody_is_asked() -> None:
    assert (await ask("unused")).address == ""
