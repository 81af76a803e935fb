"""Policies and revocation lists reach every peer, the late ones too, and forgeries reach none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from p2p.codec import encode_message
from p2p.errors import ForkError, RefusedError, UntrustedError
from p2p.network import Network
from p2p.subcloud_rules import SubcloudRules
from p2p.subclouds import sync
from p2p.subclouds.policy_gossip import look_up_policy, put_policy
from p2p.subclouds.records import subcloud_topic, verify_record
from tests.fakes.networks import eventually, process_free_of_networks
from tests.fakes.policy_owners import PolicyOwner, revocation_list
from tests.fakes.subcloud_desk import open_desk
from tests.fakes.subcloud_net import SubcloudNet, libp2p_opener, memory_opener, open_net
from tests.fakes.trust import GATEWAY, NETWORK, NODE, OTHER_GATEWAY, OTHER_NODE, STRANGER

OWNER, RIVAL = PolicyOwner(1), PolicyOwner(2)
TEAM = OWNER.identity()
OPENERS = {"memory": memory_opener, "libp2p": libp2p_opener}


both = pytest.mark.parametrize("net", sorted(OPENERS), indirect=True)
"""The others ask nothing of the network that these do not."""


@pytest.fixture(params=["memory"])
async def net(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SubcloudNet]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with process_free_of_networks():
        async with open_desk(url) as desk:
            await desk.found(OWNER, RIVAL)
            async with open_net(desk, OPENERS[request.param]()) as opened:
                yield opened


@both
async def test_everybody_gets_it_at_once_and_late_peers_when_they_come(
    net: SubcloudNet, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(sync, "SUBCLOUD_POLL_INTERVAL_S", 3600.0)  # gossip alone
    one, two = await net.join(GATEWAY, tmp_path / "one"), await net.join(OTHER_GATEWAY)
    await _settled(net, one.network, two.network)
    first = OWNER.record(join="private")
    await one.directory.publish(first)  # unknown to all: gossip is a hint to ask
    await eventually(lambda: one.version(TEAM) == two.version(TEAM) == 1)
    assert two.sync.find("team").record == first  # with its name
    second = OWNER.record(after=first, join="private", contact="x" * 100)
    await two.directory.publish(second)
    await eventually(lambda: one.version(TEAM) == two.version(TEAM) == 2)
    await one.directory.put_revocations(revocation_list(TEAM, 1, NODE.peer_id))
    await eventually(lambda: all(m.book.revocations(TEAM) is not None for m in (one, two)))
    # The first is too large for gossip: what travels is the news of it.
    large = {f"urn:{number:04}": "x" * 60 for number in range(300)}
    third = OWNER.record(
        after=second,
        join="private",
        models={"names": [{"name": name + value} for name, value in large.items()][:256]},
    )
    assert len(encode_message(third)) > 16 * 1024
    await one.directory.publish(third)
    await eventually(lambda: one.version(TEAM) == two.version(TEAM) == 3)
    late = await net.join(NODE)  # all of it at its greeting
    assert late.version(TEAM) == 3
    assert late.book.revocations(TEAM).banned_peers == (NODE.peer_id,)
    assert late.sync.resolve("team") == TEAM


@both
async def test_forgeries_are_refused_and_kept_at_all(net: SubcloudNet) -> None:
    members = [await net.join(pair) for pair in (GATEWAY, OTHER_GATEWAY)]
    liar = await net.join(STRANGER)
    first = OWNER.record()
    await members[0].directory.publish(first)
    await eventually(lambda: all(m.version(TEAM) == 1 for m in (*members, liar)))
    second = OWNER.record(after=first)
    await members[0].directory.publish(second)
    await eventually(lambda: all(m.version(TEAM) == 2 for m in (*members, liar)))
    fork = OWNER.record(after=first, contact="fork")
    foreign = OWNER.record(after=second, signer=RIVAL.key)
    with pytest.raises(RefusedError):
        await liar.directory.publish(fork)
    with pytest.raises(RefusedError):
        await liar.directory.publish(foreign)
    await _settled(net, *(m.network for m in members), liar.network)
    for record in (fork, foreign, first):
        await liar.network.publish(subcloud_topic(TEAM), encode_message(record))
    wanted = ["foreign", "fork", "older"]

    def kept() -> bool:
        return all(sorted(i.kind for i in m.book.evidence) == wanted for m in members)

    await eventually(kept)
    assert all(m.book.get(TEAM).record == second for m in members)
    found = await members[0].directory.evidence("team")
    await eventually(_has_kinds(members[0].directory, wanted))
    assert {item.offered for item in found} <= {fork.policy, foreign.policy, first.policy}
    assert all(item.source == STRANGER.peer_id for m in members for item in m.book.evidence)


async def test_gossip_alone_makes_no_unknown_subcloud_known(net: SubcloudNet) -> None:
    net.desk.rules = SubcloudRules(creation="approval")
    one, two = await net.join(GATEWAY), await net.join(OTHER_GATEWAY)
    await _settled(net, one.network, two.network)
    unapproved = RIVAL.record()
    await one.network.publish(subcloud_topic(RIVAL.identity()), encode_message(unapproved))
    net.desk.rules = SubcloudRules(creation="approval", approved=(TEAM,))
    await one.directory.publish(OWNER.record())
    await eventually(lambda: two.version(TEAM) == 1)
    assert two.version(RIVAL.identity()) == 0
    with pytest.raises(RefusedError):
        await two.sync.fetch(two.network, two.uplink, RIVAL.identity())
    net.desk.rules = SubcloudRules(banned=(TEAM,))
    with pytest.raises(RefusedError) as refusal:
        await two.sync.fetch(two.network, two.uplink, "team")
    assert refusal.value.code == "subcloud_banned"
    assert two.sync.find("team") is None


async def test_a_peer_hands_over_what_its_bootstrap_has_not(
    net: SubcloudNet, tmp_path: Path
) -> None:
    from p2p.subclouds.policy_book import PolicyBook

    first = OWNER.record(join="private")
    second = OWNER.record(after=first, join="private")
    await net.desk.as_peer().publish(first)
    before = PolicyBook(NETWORK, tmp_path / "book", clock_ms=net.desk.clock)
    before.offer(second)
    before.offer(RIVAL.record())
    before.offer_revocations(revocation_list(TEAM, 4))
    one = await net.join(GATEWAY, tmp_path / "book")
    assert (await one.directory.get("team"))[0] == second
    assert (await one.directory.resolve("team")).revocations_number == 4
    assert (await one.directory.get(RIVAL.identity()))[0] == RIVAL.record()


async def test_what_gossip_lost_is_asked_for(net: SubcloudNet, monkeypatch) -> None:
    monkeypatch.setattr(sync, "SUBCLOUD_POLL_INTERVAL_S", 0.05)
    one = await net.join(GATEWAY)
    monkeypatch.setattr(sync.SubcloudSync, "hear", lambda *_: None)
    first = OWNER.record()
    await net.desk.as_peer().publish(first)
    await eventually(lambda: one.version(TEAM) == 1)
    await net.desk.as_peer().publish(OWNER.record(after=first))
    await eventually(lambda: one.version(TEAM) == 2)


@both
async def test_the_dht_has_what_no_bootstrap_gives(net: SubcloudNet) -> None:
    one, two = await net.join(GATEWAY), await net.join(OTHER_NODE)
    await eventually(lambda: len(net.bootstrap.peers()) == 2)
    record = RIVAL.record()
    assert await put_policy(one.network, verify_record(record, NETWORK))
    assert await look_up_policy(two.network, RIVAL.identity()) == record
    known = await two.sync.fetch(two.network, two.uplink, RIVAL.identity())
    assert known.record == record
    # A newer version takes its place, an older one does not come back, another's is not taken.
    newer = RIVAL.record(after=record)
    assert await put_policy(two.network, verify_record(newer, NETWORK))
    await put_policy(one.network, verify_record(record, NETWORK))
    assert await look_up_policy(one.network, RIVAL.identity()) == newer
    from p2p.subclouds.records import policy_key

    with pytest.raises(UntrustedError):
        await one.network.put_record(policy_key(TEAM), encode_message(newer))


async def test_a_bootstrap_that_forks_is_caught(tmp_path: Path) -> None:
    first = OWNER.record()
    second, fork = OWNER.record(after=first), OWNER.record(after=first, contact="fork")
    async with open_desk(f"sqlite:///{tmp_path / 'ledger.db'}") as desk:
        await desk.found(OWNER)
        await desk.as_peer().publish(fork)
        async with open_net(desk, memory_opener()) as net:
            from p2p.subclouds.policy_book import PolicyBook

            PolicyBook(NETWORK, tmp_path / "book", clock_ms=desk.clock).offer(second)
            one = await net.join(GATEWAY, tmp_path / "book")
            assert one.book.get(TEAM).record == second
            assert [item.offered for item in one.book.evidence] == [fork.policy]
            with pytest.raises(ForkError):
                one.book.offer(fork)


async def _settled(net: SubcloudNet, *networks: Network) -> None:
    """Wait until gossip reaches everybody: meshes take a heartbeat to form."""
    heard: set[int] = set()

    async def listen(number: int, network: Network) -> None:
        async for _ in network.subscribe("test/settled"):
            heard.add(number)

    async with trio.open_nursery() as nursery:
        for number, network in enumerate((net.bootstrap, *networks)):
            nursery.start_soon(listen, number, network)
        with trio.fail_after(20):
            while len(heard) < len(networks):
                for network in (net.bootstrap, *networks):
                    await network.publish("test/settled", b"x")
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


def _has_kinds(directory, wanted: list[str]):  # type: ignore[no-untyped-def]
    async def check() -> bool:
        return sorted(item.kind for item in await directory.evidence("team")) == wanted

    return check
