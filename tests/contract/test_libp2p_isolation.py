"""Owns the proof that peers of two networks have nothing to say to each other, in two processes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio

from p2p.errors import P2PError, WrongNetworkError
from p2p.libp2p_adapter import open_libp2p_network
from p2p.types import NetworkId
from tests.fakes.networks import NETWORK, LibP2PWorld, SimpleGate, pair, simple_records

OTHER = NetworkId("another-" + "1" * 32)

STRANGER = """
import sys, trio
from p2p.libp2p_adapter import open_libp2p_network
from p2p.types import NetworkId
from tests.fakes.networks import SimpleGate, pair, simple_records

async def main():
    async with open_libp2p_network(
        pair("stranger"), NetworkId(sys.argv[1]), gate=SimpleGate(), record_check=simple_records
    ) as network:
        sys.stdout.write(network.addresses()[0] + "\\n")
        sys.stdout.flush()
        try:
            await network.connect(sys.argv[2])
            result = "connected"
        except Exception as error:
            result = type(error).__name__
        sys.stdout.write(result + "\\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.read)
        sys.stdout.write(f"{len(network.peers())} peers\\n")

trio.run(main)
"""


@pytest.mark.parametrize(
    ("network_id", "expected"), [(OTHER, "WrongNetworkError"), (NETWORK, "connected")]
)
async def test_a_peer_of_another_network_is_told_apart_by_names_alone(network_id, expected):
    async with LibP2PWorld().open("one") as one:
        process = subprocess.Popen(
            [sys.executable, "-c", STRANGER, network_id, one.addresses()[0]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                with trio.fail_after(60):
                    address = await trio.to_thread.run_sync(process.stdout.readline)
                    result = await trio.to_thread.run_sync(process.stdout.readline)
                    assert result.strip() == expected
                    if network_id == OTHER:
                        with pytest.raises(WrongNetworkError):
                            await one.connect(address.strip())
                        assert one.peers() == ()
                    else:
                        assert one.peers() == (pair("stranger").peer_id,)
                    process.stdin.close()
                    last = await trio.to_thread.run_sync(process.stdout.readline)
                    assert last.strip() == ("0 peers" if network_id == OTHER else "1 peers")
            finally:
                process.kill()


async def test_one_process_serves_one_network():
    async with LibP2PWorld().open("one"):
        pass
    with pytest.raises(WrongNetworkError):
        async with open_libp2p_network(
            pair("two"), OTHER, gate=SimpleGate(), record_check=simple_records
        ):
            pass


async def test_peers_with_another_pre_shared_key_do_not_connect():
    world = LibP2PWorld()
    keys = [bytes([number]) * 32 for number in (1, 2)]
    async with (
        world.open("one", pre_shared_key=keys[0]) as one,
        world.open("two", pre_shared_key=keys[1]) as two,
        world.open("three", pre_shared_key=keys[0]) as three,
    ):
        with pytest.raises(P2PError):
            await one.connect(two.addresses()[0])
        await one.connect(three.addresses()[0])
        assert one.peers() == (three.local,)
