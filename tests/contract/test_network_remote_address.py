"""Where a stream comes from, on both adapters: libp2p knows the address, memory has none."""

from __future__ import annotations

import pytest
import trio

from p2p.network import remote_address_of
from tests.fakes.networks import PATIENCE_S, LibP2PWorld, World, connected_pair


async def test_the_acceptor_learns_the_address(world: World) -> None:
    async with connected_pair(world) as (one, two):
        seen: list[str] = []
        done = trio.Event()

        async def look(stream: object) -> None:
            seen.append(remote_address_of(stream))  # type: ignore[arg-type]
            done.set()

        two.handle("look/1", look)
        await (await one.open_stream(two.local, "look/1")).close()
        with trio.fail_after(PATIENCE_S):
            await done.wait()
    assert seen == (["127.0.0.1"] if isinstance(world, LibP2PWorld) else [""])


@pytest.mark.parametrize("gone", [None, object()])
def test_a_stream_without_an_address(gone: object) -> None:
    assert remote_address_of(gone) == ""  # type: ignore[arg-type]
