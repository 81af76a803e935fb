"""Subclouds at a gateway, from the client to nodes: addressing, who qualifies, who may call, where
jobs go when nobody does. Real HTTP, the real gateway, scripted nodes."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2p.codec import decode_message
from p2p.key_limits import KeyLimits
from p2p.ledger_messages import ConsumerReceipt
from p2p.signing import Signed, open_signed
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.tokens import CallerToken, token_text
from tests.fakes import trust
from tests.fakes.gateway_world import chat, streamed_text
from tests.fakes.ledger import ACCOUNT
from tests.fakes.networks import eventually
from tests.fakes.nodes import WORDS
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
TEAM = identity_of()


@pytest.fixture
def world(tmp_path: Path) -> SubcloudGatewayWorld:
    return SubcloudGatewayWorld(tmp_path)


@pytest.fixture(autouse=True)
def pages_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.status.STATUS_CACHE_S", 0.0)
    monkeypatch.setattr("gateway.subclouds.explanations.EXPLANATION_CACHE_S", 0.0)


def jobs_of(world: SubcloudGatewayWorld, number: int = 0) -> list[SubcloudId]:
    """The subclouds of the jobs that a node was offered."""
    return [SubcloudId(seen.offer.terms.subcloud_id) for seen in world.nodes[number].jobs]


async def test_a_job_goes_to_members_only_however_its_subcloud_is_named(
    world: SubcloudGatewayWorld,
) -> None:
    world.publish(price={"owner_fee_basis_points": 500})
    world.join(world.nodes[1])
    async with world.run() as client:
        await world.settled(client, members_qualified=1)
        bodies = [
            in_team(),
            chat(resultity={"subcloud": TEAM}),
            chat(resultity={"subcloud": TEAM}) | {"model": f"tiny-chat@{TEAM}"},
        ]
        for body in bodies:
            response = await client.post(CHAT, json=body)
            assert text_of(response) == ANSWER
            assert response.json()["model"] == body["model"]
            note = response.json()["resultity"]
            assert note["subcloud"] == TEAM
            assert "fallback" not in note
            signed = decode_message(base64.b64decode(note["receipt"]), Signed)
            receipt = open_signed(signed, ConsumerReceipt, trust.NETWORK, trust.GATEWAY.public_key)
            assert receipt.terms.subcloud_id == TEAM
            assert receipt.terms.policy_digest == world.digest(TEAM)
            assert receipt.terms.owner_fee_basis_points == 500
        streamed = await client.post(CHAT, json=in_team(stream=True))
        assert streamed_text(streamed.text) == ANSWER
        assert f'"subcloud": "{TEAM}"' in streamed.text
        assert jobs_of(world, 0) == []
        assert jobs_of(world, 1) == [TEAM] * 4
        shown = await world.page(client)
        assert shown["jobs"] == 4
        assert shown["models"] == [
            {"name": "tiny-chat", "digest": trust.MODEL_DIGEST.hex(), "nodes": 1}
        ]
        peers = [node.key_pair.peer_id for node in world.nodes]
        assert not any(peer_id in str(shown) for peer_id in peers)


async def test_a_keys_default_counts_unless_the_request_names_another(
    world: SubcloudGatewayWorld,
) -> None:
    world.publish()
    world.join(world.nodes[1])
    world.ledger.limits = KeyLimits(default_subcloud=TEAM, subclouds=(TEAM, "global"))
    async with world.run() as client:
        await world.settled(client, members_qualified=1)
        answer = (await client.post(CHAT, json=chat())).json()
        assert answer["resultity"]["subcloud"] == TEAM
        listed = [c["id"] for c in (await client.get("/v1/models")).json()["data"]]
        assert listed == ["tiny-chat"]
        answer = (await client.post(CHAT, json=chat() | {"model": "tiny-chat@global"})).json()
        assert "subcloud" not in answer["resultity"]
        # The prompts of one pool are no prefixes for another, not even the same account's.
        offers = [seen.offer for node in world.nodes for seen in node.jobs]
        scopes = {(offer.terms.subcloud_id, offer.cache_scope) for offer in offers}
        assert len({scope for _, scope in scopes}) == len(scopes) == 2


async def test_a_key_is_held_to_its_subclouds(world: SubcloudGatewayWorld) -> None:
    world.publish()
    world.publish("other")
    world.ledger.limits = KeyLimits(subclouds=(identity_of("other"),))
    async with world.run() as client:
        for body in (chat(), in_team()):
            assert error_of(await client.post(CHAT, json=body), 403)["code"] == "key_not_allowed"


async def test_names_that_mean_nothing_or_two_things_are_refused(
    world: SubcloudGatewayWorld,
) -> None:
    world.publish()
    world.publish("other")
    async with world.run() as client:
        for name in ("nobody", identity_of("nobody"), "Not A Name", "x" * 100):
            body = chat() | {"model": f"tiny-chat@{name}"}
            error = error_of(await client.post(CHAT, json=body), 404)
            assert error["code"] == "subcloud_not_found"
            assert "<model>@<label>" in error["message"]
        for model in ("tiny-chat@", f"@{TEAM}"):
            error = error_of(await client.post(CHAT, json=chat() | {"model": model}), 404)
            assert error["code"] == "subcloud_not_found"
        body = in_team(resultity={"subcloud": identity_of("other")})
        error = error_of(await client.post(CHAT, json=body), 400)
        assert (error["code"], error["param"]) == ("subcloud_conflict", "resultity.subcloud")
        embed = {"model": f"tiny-chat@{TEAM}", "input": "Hello"}
        error = error_of(await client.post("/v1/embeddings", json=embed), 400)
        assert error["code"] == "model_task_mismatch"  # of the model that is named before the @
        embed |= {"resultity": {"subcloud": identity_of("other")}}
        error = error_of(await client.post("/v1/embeddings", json=embed), 400)
        assert error["code"] == "subcloud_conflict"
        error = error_of(await client.post(CHAT, json=chat() | {"model": f"gpt-9@{TEAM}"}), 404)
        assert error["code"] == "model_not_found"
        assert (await client.get("/status/subclouds/nobody")).status_code == 404
        listed = (await client.get("/status/subclouds")).json()
        assert {s["id"] for s in listed["subclouds"]} == {TEAM, identity_of("other")}


async def test_without_a_member_it_fails_closed_and_says_which_criterion_removed_how_many(
    world: SubcloudGatewayWorld,
) -> None:
    world.publish(regions={"allow": ["DE"]}, models={"names": [{"name": "big"}]})
    world.publish("agreed", regions={"allow": ["DE"]})
    for node in world.nodes:
        world.join(node, "agreed")
    async with world.run() as client:
        await world.settled(client, "agreed", members=2)
        error = error_of(await client.post(CHAT, json=in_team()), 503)
        assert error["code"] == "no_member_available"
        assert "has no member" in error["message"]
        name = identity_of("agreed")
        error = error_of(await client.post(CHAT, json=chat() | {"model": f"tiny-chat@{name}"}), 503)
        assert "2 have no sufficient evidence of an allowed region" in error["message"]
        peers = [node.key_pair.peer_id for node in world.nodes]
        assert not any(peer_id in error["message"] for peer_id in peers)
        shown = await world.page(client, "agreed")
        assert shown["removed"] == {"region": 2}
        assert shown["refusals"] == {"no_member_available": 1}
    assert not world.nodes[0].jobs + world.nodes[1].jobs
    assert not world.ledger.holds


@pytest.mark.parametrize("fallback", ["none", "global"])
async def test_only_a_policy_that_says_so_falls_back_to_the_global_pool(
    world: SubcloudGatewayWorld, fallback: str
) -> None:
    world.publish(fallback=fallback, price={"owner_fee_basis_points": 500})
    async with world.run() as client:
        response = await client.post(CHAT, json=in_team())
        if fallback == "none":
            assert error_of(response, 503)["code"] == "no_member_available"
            return
        assert text_of(response) == ANSWER
        note = response.json()["resultity"]
        assert note["subcloud"] == TEAM
        assert note["fallback"] is True
        terms = (world.nodes[0].jobs + world.nodes[1].jobs)[0].offer.terms
        assert terms.subcloud_id == ""
        assert terms.owner_fee_basis_points == 0
        world.join(world.nodes[0])
        await world.settled(client, members_qualified=1)
        response = await client.post(CHAT, json=in_team())
        assert "fallback" not in response.json()["resultity"]
        assert jobs_of(world)[-1] == TEAM
        assert (await world.page(client))["fallbacks"] == 1


async def test_an_isolated_member_gets_no_job_of_the_global_pool(
    world: SubcloudGatewayWorld,
) -> None:
    world.publish(isolate=True)
    world.join(world.nodes[0], isolates=True)
    async with world.run() as client:
        await world.settled(client, members_qualified=1)
        for _ in range(4):
            text_of(await client.post(CHAT, json=chat()))
        assert not world.nodes[0].jobs
        text_of(await client.post(CHAT, json=in_team()))
        assert jobs_of(world) == [TEAM]
        world.join(world.nodes[1], isolates=True)
        await world.settled(client, members_qualified=2)
        error = error_of(await client.post(CHAT, json=chat()), 503)
        assert "2 work for subclouds only" in error["message"]
        assert [m["nodes"] for m in (await client.get("/status/models")).json()["models"]] == [0]
        assert (await client.get("/v1/models")).json()["data"] == []
        listed = (await client.get(f"/v1/models?subcloud={TEAM}")).json()["data"]
        assert [card["id"] for card in listed] == [f"tiny-chat@{TEAM}"]
        card = (await client.get(f"/v1/models/tiny-chat@{TEAM}")).json()
        assert card["id"] == f"tiny-chat@{TEAM}"
        world.leave(world.nodes[0])
        await world.settled(client, members_qualified=1)
        text_of(await client.post(CHAT, json=chat()))


async def test_callers_tokens_and_gateways_are_checked_before_anything_is_held(
    world: SubcloudGatewayWorld,
) -> None:
    world.publish(callers={"tokens": True, "source_networks": ["127.0.0.0/8"]})
    world.publish("far", callers={"anyone": True, "source_networks": ["10.0.0.0/8"]})
    world.publish("closed", gateways={"peers": (trust.OTHER_GATEWAY.peer_id,)})
    world.publish("mine", callers={"accounts": [ACCOUNT]})
    now_ms = world.clock_ms()
    token = CallerToken(bytes(16), TEAM, now_ms, now_ms + 60_000)
    good = token_text(DELEGATE.sign(trust.NETWORK, token))
    bad = token_text(trust.STRANGER.sign(trust.NETWORK, token))
    for label in ("team", "mine"):
        world.join(world.nodes[0], label)
    async with world.run() as client:
        await world.settled(client, members_qualified=1)
        await world.settled(client, "mine", members_qualified=1)

        async def code(body: dict[str, Any], **headers: str) -> str:
            response = await client.post(CHAT, json=body, headers=headers)
            return str(error_of(response, 403)["code"]) if response.is_error else "served"

        for label, wanted in (
            ("far", "caller_not_allowed"),
            ("closed", "gateway_not_admitted"),
            ("team", "caller_not_allowed"),
            ("mine", "served"),
        ):
            body = chat() | {"model": f"tiny-chat@{identity_of(label)}"}
            assert await code(body) == wanted
        assert world.ledger.started_holds == 1
        assert await code(in_team(resultity={"token": bad})) == "caller_token_refused"
        assert await code(in_team(resultity={"token": good})) == "served"
        assert await code(in_team(), **{"resultity-subcloud-token": good}) == "served"
        shown, network = world.ledger.callers[-1]
        assert shown is not None
        assert network == "127.0.0.0/8"
        response = await client.post(CHAT, json=in_team(resultity={"token": "rt_" + "a" * 60}))
        error = error_of(response, 400)
        assert error["param"] == "resultity.token"
        assert "aaaa" not in error["message"]


async def test_jobs_of_a_subcloud_are_paid_from_leases_of_their_own(tmp_path: Path) -> None:
    world = SubcloudGatewayWorld(tmp_path, lease_usable_s=300)
    world.publish()
    world.join(world.nodes[0])
    async with world.run() as client:
        await world.settled(client, members_qualified=1)
        for _ in range(2):
            text_of(await client.post(CHAT, json=in_team()))
        await world.leases_at_gateway(client, 1)
        text_of(await client.post(CHAT, json=in_team()))
        assert world.nodes[0].jobs[-1].leased
        assert [lease.terms.subcloud_id for lease in world.ledger.leases.values()] == [TEAM]
        text_of(await client.post(CHAT, json=chat()))
        others = [seen for node in world.nodes for seen in node.jobs]
        assert not next(s for s in others if not s.offer.terms.subcloud_id).leased


async def test_a_policys_own_model_is_served_though_the_network_does_not_know_it(
    world: SubcloudGatewayWorld,
) -> None:
    digest = bytes([55]) * 32
    world.publish(
        models={
            "own": [
                {
                    "name": "house-style",
                    "digest": digest.hex(),
                    "context_tokens": 1024,
                    "input_microcredits_per_million_tokens": 10,
                    "output_microcredits_per_million_tokens": 20,
                }
            ]
        }
    )
    node = world.nodes[0]
    node.model = replace(node.model, name="house-style", digest=digest)
    world.join(node)
    world.nodes_connected = 1
    async with world.run() as client:
        # Its statement comes by gossip before there is a session: nothing else it serves is wanted.
        await world.gossip_statement(node)
        await world.settled(client, members_qualified=1)
        await eventually(lambda: len(node.links) == 1)
        response = await client.post(CHAT, json=chat() | {"model": f"house-style@{TEAM}"})
        assert text_of(response) == ANSWER
        assert node.jobs[0].offer.terms.output_microcredits_per_million_tokens == 20
        error = error_of(await client.post(CHAT, json=chat() | {"model": "house-style"}), 404)
        assert error["code"] == "model_not_found"
        listed = (await client.get(f"/v1/models?subcloud={TEAM}")).json()["data"]
        assert [card["id"] for card in listed] == [f"house-style@{TEAM}"]
