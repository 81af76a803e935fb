"""Owns the contract of the network port: connections and who may use what, on both adapters."""

from __future__ import annotations

import pytest
import trio

from p2p.errors import (
    DeadlineError,
    MalformedError,
    PeerUnavailableError,
    RefusedError,
    SessionLostError,
    UntrustedError,
    WrongNetworkError,
)
from p2p.network import Access
from tests.fakes.networks import (
    SimpleGate,
    eventually,
    pair,
)

STRANGER = pair("stranger").peer_id


async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)


# --- connections --------------------------------------------------------------------------------


async def test_connecting_greets_on_both_sides_once(world):
    gates = SimpleGate(), SimpleGate()
    async with world.open("one", gates[0]) as one, world.open("two", gates[1]) as two:
        assert one.local == pair("one").peer_id
        assert two.addresses()[0].endswith(f"/p2p/{two.local}")
        assert one.access_of(two.local) is None
        assert await one.connect(two.addresses()[0]) == two.local
        await eventually(lambda: two.access_of(one.local) is Access.MEMBER)
        assert one.access_of(two.local) is Access.MEMBER
        assert one.peers() == (two.local,)
        assert await one.connect(two.addresses()[0]) == two.local
        assert gates[0].greeted == [two.local]
        assert gates[1].greeted == [one.local]


async def test_a_refused_hello_is_reported_to_the_dialler_and_ends_the_connection(world):
    gate = SimpleGate()
    gate.refused.add(pair("one").peer_id)
    async with world.open("one") as one, world.open("two", gate) as two:
        two.handle("echo/1", echo, newcomers=True)
        with pytest.raises(UntrustedError):
            await one.connect(two.addresses()[0])
        assert one.access_of(two.local) is None
        assert two.access_of(one.local) is None
        with pytest.raises(PeerUnavailableError):
            await one.open_stream(two.local, "echo/1")
        assert gate.forgotten == []


async def test_another_network_is_reported_as_such(world):
    async with (
        world.open("one", SimpleGate(network="a")) as one,
        world.open("two", SimpleGate(network="b")) as two,
    ):
        with pytest.raises(WrongNetworkError):
            await one.connect(two.addresses()[0])
        assert one.peers() == ()
        assert two.peers() == ()


@pytest.mark.parametrize("silent", ["dialler", "acceptor"])
async def test_a_connection_without_a_hello_is_closed(world, silent):
    gates = [SimpleGate(silent=silent == "dialler"), SimpleGate(silent=silent == "acceptor")]
    async with world.open("one", gates[0]) as one, world.open("two", gates[1]) as two:
        with pytest.raises(DeadlineError):
            await one.connect(two.addresses()[0])
        assert one.peers() == ()
        assert two.peers() == ()


async def test_a_gate_that_fails_refuses(world):
    class BrokenGate(SimpleGate):
        async def greet(self, stream, *, dialled):
            raise ZeroDivisionError

    async with world.open("one") as one, world.open("two", BrokenGate()) as two:
        with pytest.raises(UntrustedError):
            await one.connect(two.addresses()[0])
        async with world.open("three", BrokenGate()) as three:
            with pytest.raises(MalformedError):
                await three.connect(one.addresses()[0])


async def test_both_sides_may_dial_at_once(world):
    async with world.open("one") as one, world.open("two") as two:
        one.handle("echo/1", echo)
        two.handle("echo/1", echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.connect, two.addresses()[0])
            nursery.start_soon(two.connect, one.addresses()[0])
        for here, there in ((one, two), (two, one)):
            stream = await here.open_stream(there.local, "echo/1")
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        assert one.peers() == (two.local,)


async def test_connecting_from_many_tasks_greets_once(world):
    gate = SimpleGate()
    async with world.open("one", gate) as one, world.open("two") as two:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one.connect, two.addresses()[0])
        assert gate.greeted == [two.local]


@pytest.mark.parametrize(
    "address", ["", "nonsense", "/ip4/127.0.0.1/tcp/1", "/p2p/xyz", "/ip4/127.0.0.1/p2p/abc"]
)
async def test_what_is_no_address_is_refused(world, address):
    async with world.open("one") as one:
        with pytest.raises(MalformedError):
            await one.connect(address)


async def test_dialling_ourselves_is_refused(world):
    async with world.open("one") as one:
        with pytest.raises(MalformedError):
            await one.connect(one.addresses()[0])


async def test_nobody_there(world):
    async with world.open("one") as one:
        with pytest.raises(PeerUnavailableError):
            await one.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}")


async def test_another_peer_there(world):
    async with world.open("one") as one, world.open("two") as two:
        address = two.addresses()[0].replace(two.local, STRANGER)
        with pytest.raises(UntrustedError):
            await one.connect(address)
        await one.connect(two.addresses()[0])


async def test_a_port_in_use_is_reported(world):
    async with world.open("one") as one:
        place = one.addresses()[0].rpartition("/p2p/")[0]
        with pytest.raises(PeerUnavailableError, match="in use"):
            async with world.open("two", listen_addresses=(place,)):
                pass


async def test_the_block_s_own_exception_comes_out_as_it_is(world):
    with pytest.raises(LookupError, match="mine"):
        async with world.open("one"):
            raise LookupError("mine")


async def test_disconnecting_is_noticed_and_forgotten_on_both_sides(world):
    gates = SimpleGate(), SimpleGate()
    async with world.open("one", gates[0]) as one, world.open("two", gates[1]) as two:
        await one.connect(two.addresses()[0])
        await eventually(lambda: two.access_of(one.local) is not None)
        await one.disconnect(two.local)
        assert one.access_of(two.local) is None
        await eventually(lambda: two.access_of(one.local) is None)
        await eventually(lambda: gates[1].forgotten == [one.local])
        assert gates[0].forgotten == [two.local]
        await one.disconnect(two.local)
        await one.connect(two.addresses()[0])
        assert one.access_of(two.local) is Access.MEMBER


async def test_a_crash_is_noticed_at_once(world):
    gate = SimpleGate()
    async with world.open("one", gate) as one:
        async with world.open("two") as two:
            two.handle("echo/1", echo)
            await one.connect(two.addresses()[0])
            stream = await one.open_stream(two.local, "echo/1")
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            await world.crash(two)
        with pytest.raises(SessionLostError):
            await stream.receive_some()
        with pytest.raises(SessionLostError):
            await stream.send_all(b"y")
        await eventually(lambda: one.access_of(pair("two").peer_id) is None)
        await eventually(lambda: gate.forgotten == [pair("two").peer_id])


async def test_a_restarted_peer_is_reached_at_once(world):
    async with world.open("one") as one:
        for _ in range(3):
            async with world.open("two") as two:
                two.handle("echo/1", echo)
                await one.connect(two.addresses()[0])
                stream = await one.open_stream(two.local, "echo/1")
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
                address = two.addresses()[0]
            await eventually(lambda: one.peers() == ())
            with pytest.raises(PeerUnavailableError):
                await one.connect(address)


# --- newcomers ----------------------------------------------------------------------------------


async def test_a_newcomer_reaches_what_is_for_newcomers_only(world):
    async with (
        world.open("one", SimpleGate(claims=Access.NEWCOMER)) as one,
        world.open("two") as two,
    ):
        two.handle("join/1", echo, newcomers=True)
        two.handle("jobs/1", echo)
        await one.connect(two.addresses()[0])
        await eventually(lambda: two.access_of(one.local) is Access.NEWCOMER)
        stream = await one.open_stream(two.local, "join/1")
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        with pytest.raises(RefusedError):
            await one.open_stream(two.local, "jobs/1")
        await one.disconnect(two.local)


async def test_streams_opened_right_after_connecting_are_served(world):
    class SlowGate(SimpleGate):
        async def greet(self, stream, *, dialled):
            access = await super().greet(stream, dialled=dialled)
            await trio.sleep(0.2)
            return access

    async with world.open("one") as one, world.open("two", SlowGate()) as two:
        two.handle("echo/1", echo)
        await one.connect(two.addresses()[0])
        stream = await one.open_stream(two.local, "echo/1")
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
