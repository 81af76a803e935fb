"""Owns a look at py-libp2p as it comes: as a script, it prints what each known defect does (JSON).

It must run in a process of its own, because the adapter's repairs change the library for all.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import trio
from libp2p import create_new_ed25519_key_pair, new_host
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")
ECHO = TProtocol("/echo/1")


def plain_host(**options: Any) -> Any:
    return new_host(
        key_pair=create_new_ed25519_key_pair(),
        connection_config=ConnectionConfig(low_watermark=0, min_connections=0),
        **options,
    )


async def dial_takes_s() -> float:
    one, two = plain_host(), plain_host()
    async with one.run(listen_addrs=[]), two.run(listen_addrs=[LOOPBACK]):
        info = info_from_p2p_addr(two.get_addrs()[0])
        one.get_peerstore().add_addrs(info.peer_id, info.addrs, 60)
        started = trio.current_time()
        await one.get_network().dial_peer(info.peer_id)
        return trio.current_time() - started


async def slots_held_after_closing() -> int:
    one, two = plain_host(), plain_host()
    async with one.run(listen_addrs=[]), two.run(listen_addrs=[LOOPBACK]):
        info = info_from_p2p_addr(two.get_addrs()[0])
        await one.connect(info)
        await one.disconnect(info.peer_id)
        for _ in range(200):
            if not two.get_network().connections:
                break
            await trio.sleep(0.01)
        await trio.sleep(0.5)
        return int(two.get_network()._inbound_limiter.borrowed_tokens)


async def streams_opened_at_most() -> int:
    one, two = plain_host(), plain_host()
    async with one.run(listen_addrs=[]), two.run(listen_addrs=[LOOPBACK]):
        await one.connect(info_from_p2p_addr(two.get_addrs()[0]))
        muxer = one.get_network().get_connections()[0].muxed_conn
        opened = 0
        with trio.move_on_after(5):
            while opened < 300:
                await muxer.open_stream()
                opened += 1
        return opened


async def two_listeners_on_one_port() -> bool:
    one, two = plain_host(), plain_host()
    async with one.run(listen_addrs=[LOOPBACK]):
        port = one.get_addrs()[0].value_for_protocol("tcp")
        async with two.run(listen_addrs=[Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")]):
            return bool(two.get_addrs())


async def a_handler_s_exception_ends_the_host() -> bool:
    async def fail(stream: Any) -> None:
        raise LookupError("a bug in a handler")

    one, two = plain_host(), plain_host()
    two.set_stream_handler(ECHO, fail)
    try:
        async with two.run(listen_addrs=[LOOPBACK]):
            with trio.move_on_after(5):
                async with one.run(listen_addrs=[]):
                    info = info_from_p2p_addr(two.get_addrs()[0])
                    await one.connect(info)
                    await one.new_stream(info.peer_id, [ECHO])
                    await trio.sleep_forever()
    except BaseException:
        return True
    return False


async def main() -> dict[str, Any]:
    results: dict[str, Any] = {}
    for measure in (
        dial_takes_s,
        slots_held_after_closing,
        streams_opened_at_most,
        two_listeners_on_one_port,
        a_handler_s_exception_ends_the_host,
    ):
        results[measure.__name__] = await measure()
    return results


if __name__ == "__main__":
    found = trio.run(main)
    found["root_log_handlers"] = len(logging.getLogger().handlers)
    sys.stdout.write(json.dumps(found))
