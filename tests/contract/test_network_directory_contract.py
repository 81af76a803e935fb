"""Owns the contract of the directory, on both adapters."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from p2p.errors import MalformedError, PeerUnavailableError, StaleError, UntrustedError
from p2p.network import Access
from tests.fakes.networks import SimpleGate, eventually

KEY = b"k" * 32


@asynccontextmanager
async def star(world, size, **options):
    """Open a hub and others that are connected to it only."""
    async with AsyncExitStack() as stack:
        centre = await stack.enter_async_context(world.open("centre"))
        others = []
        for number in range(size):
            other = await stack.enter_async_context(world.open(f"other-{number}", **options))
            await other.connect(centre.addresses()[0])
            others.append(other)
        await eventually(lambda: len(centre.peers()) == size)
        yield centre, others


async def test_who_provides_is_found_by_everybody(world):
    async with star(world, 3, directory_server=False) as (centre, others):
        await others[0].provide(KEY)
        await others[1].provide(KEY)

        async def found_by(network):
            return {provider.peer_id for provider in await network.find_providers(KEY)}

        expected = {others[0].local, others[1].local}
        for network in (others[2], centre):
            await eventually(lambda network=network: is_equal(found_by(network), expected))
        (provider,) = [
            p for p in await others[2].find_providers(KEY) if p.peer_id == others[0].local
        ]
        assert provider.addresses == others[0].addresses()
        await others[2].connect(provider.addresses[0])


async def is_equal(awaitable, expected):
    return await awaitable == expected


async def test_a_later_provider_is_found_too_and_none_twice(world):
    async with star(world, 3) as (_, others):
        for network in others[:2]:
            await network.provide(KEY)
            await network.provide(KEY)

            async def found():
                providers = await others[2].find_providers(KEY)
                assert len(providers) == len({p.peer_id for p in providers})
                return network.local in {p.peer_id for p in providers}  # noqa: B023

            await eventually(found)


async def test_nobody_provides_an_unknown_key(world):
    async with star(world, 2) as (_, others):
        assert await others[0].find_providers(b"?" * 32) == []


async def test_without_peers_nothing_can_be_announced(world):
    async with world.open("alone") as alone:
        with pytest.raises(PeerUnavailableError):
            await alone.provide(KEY)
        with pytest.raises(PeerUnavailableError):
            await alone.put_record(b"key", b"1:x")
        assert await alone.find_providers(KEY) == []


async def test_a_record_is_read_by_others_and_the_newest_wins(world):
    async with star(world, 3) as (centre, others):
        await others[0].put_record(b"key", b"1:one")
        assert await others[1].get_record(b"key") == b"1:one"
        await others[1].put_record(b"key", b"2:two")
        for network in (*others, centre):
            assert await network.get_record(b"key") == b"2:two"
        with pytest.raises(StaleError):
            await others[1].put_record(b"key", b"1:again")
        assert await others[2].get_record(b"other") is None


async def test_records_that_are_not_valid_are_refused(world):
    async with star(world, 2) as (_, others):
        with pytest.raises(UntrustedError):
            await others[0].put_record(b"key", b"not a record")
        with pytest.raises(MalformedError):
            await others[0].put_record(b"key", b"1:" + b"x" * 20_000)
        assert await others[1].get_record(b"key") is None


async def test_a_record_that_only_its_writer_believes_is_not_read(world):
    def believes_all(key, value):
        return 99

    async with (
        star(world, 1) as (centre, _),
        world.open("liar", record_check=believes_all) as liar,
    ):
        await liar.connect(centre.addresses()[0])
        await liar.put_record(b"key", b"a lie")
        assert await centre.get_record(b"key") is None


async def test_newcomers_have_no_directory(world):
    async with (
        star(world, 1) as (centre, others),
        world.open("new", SimpleGate(claims=Access.NEWCOMER)) as newcomer,
    ):
        await newcomer.connect(centre.addresses()[0])
        await eventually(lambda: centre.access_of(newcomer.local) is Access.NEWCOMER)
        with pytest.raises(PeerUnavailableError):
            await newcomer.provide(KEY)
        await others[0].put_record(b"key", b"1:x")
        assert await newcomer.get_record(b"key") is None
        assert newcomer.local not in {p.peer_id for p in await centre.find_providers(KEY)}
