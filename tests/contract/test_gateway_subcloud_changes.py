"""What changes while a gateway works for a subcloud: members that are removed in the middle of an
answer, nodes that say no, policies that end."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from p2p.codec import decode_message, encode_message
from p2p.signing import KeyPair
from p2p.subclouds.memberships import MembershipCertificate, MembershipFrame
from p2p.subclouds.requests import sign_request
from tests.fakes import trust
from tests.fakes.gateway_world import chat
from tests.fakes.networks import eventually
from tests.fakes.nodes import WORDS, Script
from tests.fakes.subcloud_gateway_world import (
    DELEGATE,
    SubcloudGatewayWorld,
    error_of,
    identity_of,
    in_team,
    text_of,
)

CHAT = "/v1/chat/completions"
ANSWER = "".join(WORDS)


@pytest.fixture
def world(tmp_path: Path) -> SubcloudGatewayWorld:
    return SubcloudGatewayWorld(tmp_path)


@pytest.fixture(autouse=True)
def pages_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.status.STATUS_CACHE_S", 0.0)
    monkeypatch.setattr("gateway.subclouds.explanations.EXPLANATION_CACHE_S", 0.0)


@pytest.mark.parametrize("rule", ["finish", "move"])
async def test_a_running_job_of_a_removed_member_finishes_or_moves_and_none_starts(
    world: SubcloudGatewayWorld, rule: str
) -> None:
    world.publish(join="private", running_jobs=rule)
    go_on = trio.Event()
    for node in world.nodes:
        node.script = Script(stop_after=None, hold_back=None, pause_s=0.0)
    async with world.run() as client:
        await world.gossip_list()
        world.join(world.nodes[0], certified=True)
        await world.settled(client, members_qualified=1)
        world.nodes[0].script = Script(hold_back=go_on)
        answers: list[str] = []

        async def ask() -> None:
            answers.append(text_of(await client.post(CHAT, json=in_team())))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await eventually(lambda: len(world.nodes[0].jobs) == 1)
            world.join(world.nodes[1], certified=True)
            await world.settled(client, members_qualified=2)
            await world.gossip_list("team", world.nodes[0].key_pair.peer_id)
            await world.settled(client, members_qualified=1)
            if rule == "finish":
                go_on.set()
        assert answers == [ANSWER]
        assert len(world.nodes[1].jobs) == (rule == "move")
        text_of(await client.post(CHAT, json=in_team()))
        assert len(world.nodes[0].jobs) == 1
        await world.gossip_list("team", *(node.key_pair.peer_id for node in world.nodes))
        await world.settled(client, members_qualified=0)
        error = error_of(await client.post(CHAT, json=in_team()), 503)
        assert "2 have no valid membership" in error["message"]


async def test_a_node_that_says_that_it_is_no_member_is_not_asked_again_at_once(
    world: SubcloudGatewayWorld,
) -> None:
    world.publish()
    for node in world.nodes:
        world.join(node)
        node.script = Script(refuse="not_member")
    async with world.run() as client:
        await world.settled(client, members_qualified=2)
        error = error_of(await client.post(CHAT, json=in_team()), 503)
        assert "2 answered not_member" in error["message"]
        await world.settled(client, members_qualified=0)
        for node in world.nodes:
            node.script = Script(refuse="isolated")
        error = error_of(await client.post(CHAT, json=chat()), 503)
        assert "2 answered isolated" in error["message"]
        error = error_of(await client.post(CHAT, json=chat()), 503)
        assert "2 work for subclouds only" in error["message"]
        for node in world.nodes:
            node.script = Script()
            world.join(node)
        await world.settled(client, members_qualified=2)
        text_of(await client.post(CHAT, json=in_team()))
        text_of(await client.post(CHAT, json=chat()))


@pytest.mark.parametrize("change", [{"ended": True}, {"expires_ms": 1}])
async def test_a_policy_that_is_not_in_force_serves_nobody(
    world: SubcloudGatewayWorld, change: dict[str, Any]
) -> None:
    if "expires_ms" in change:
        change = {"issued_ms": world.clock_ms() - 5000, "expires_ms": world.clock_ms() - 1}
    world.publish(fallback="global", **change)
    world.join(world.nodes[0])
    async with world.run() as client:
        error = error_of(await client.post(CHAT, json=in_team()), 403)
        assert error["code"] == "subcloud_closed"


async def test_the_owner_sees_members_and_verdicts_and_nobody_else_does(
    world: SubcloudGatewayWorld,
) -> None:
    world.publish(join="private", regions={"allow": ["DE"]})
    good, other = world.nodes
    async with world.run() as client:
        await world.gossip_list()
        for node in world.nodes:
            world.join(node, certified=True)
        good.say(world.statement(good, country="DE"))
        await world.settled(client, members_qualified=1)
        identity = identity_of()

        async def view(key: KeyPair, **fields: Any) -> httpx.Response:
            signed = sign_request(key, trust.NETWORK, identity, "view", world.clock_ms())
            body = {"signed": base64.b64encode(encode_message(signed)).decode(), **fields}
            return await client.post(f"/resultity/v1/subclouds/{identity}/view", json=body)

        assert (await view(trust.STRANGER)).status_code == 403
        shown = (await view(DELEGATE, candidates=[other.key_pair.peer_id])).json()
        assert shown["policy"]["digest"] == world.digest(identity).hex()
        assert shown["revocation_list"]["number"] == 1
        members = {member["peer_id"]: member for member in shown["members"]}
        assert members[good.key_pair.peer_id]["qualifies"]
        assert members[good.key_pair.peer_id]["connected"]
        failed = members[other.key_pair.peer_id]["failed"]
        assert [verdict["criterion"] for verdict in failed] == ["region"]
        judged = shown["candidates"][other.key_pair.peer_id]
        assert not judged["qualifies"]
        assert [verdict["criterion"] for verdict in judged["failed"]] == ["region"]


async def test_what_lies_about_a_membership_is_worth_nothing(world: SubcloudGatewayWorld) -> None:
    world.publish(join="private")
    world.publish("open")
    liar, other = world.nodes
    async with world.run() as client:
        await world.gossip_list()
        # A certificate for another node, one that no delegate signed, and an old policy.
        world.join(other, certified=True)
        peers = (liar.key_pair.peer_id, other.key_pair.peer_id)
        world.said[peers[0]] = dict(world.said[peers[1]])
        liar.say(world.statement(liar))
        await world.settled(client, members=2, members_qualified=1)
        membership = world.said[peers[0]][identity_of()]
        assert membership.certificate is not None
        forged = liar.key_pair.sign(
            trust.NETWORK, decode_message(membership.certificate.body, MembershipCertificate)
        )
        world.said[peers[0]][identity_of()] = replace(membership, certificate=forged)
        world.said[peers[0]][identity_of("open")] = replace(
            membership, subcloud_id=identity_of("open"), policy_digest=bytes(32)
        )
        liar.say(world.statement(liar))
        await world.settled(client, "open", members=1, members_qualified=0)
        shown = await world.settled(client, members=2, members_qualified=1)
        assert shown["removed"] == {"membership": 1}
        # A statement about another node, brought by a liar, is ignored.
        for link in liar.links:
            link.send(MembershipFrame(world.statement(other)))
        text_of(await client.post(CHAT, json=in_team()))
        assert not liar.jobs
