"""Whole networks with subclouds on the in-memory network, by seeds: no job ever runs outside its
policy, whatever is told, cut off and changed meanwhile, and every job that is allowed runs once the
network is whole again. RESULTITY_SOAK=1: a hundred times as many seeds.

What is real: the node's rules and service of memberships, its judgement of offers; the gateway's
directory, evidence, placing and routing; the books of policies and how they are kept current;
gossip and streams of the in-memory network. What is not: HTTP, money, runtimes; the bootstrap's
calls go over a link of the simulation that obeys the same partitions.
"""

from __future__ import annotations

import gc
import os
from functools import lru_cache
from typing import Any

import nacl.signing
import pytest
import trio
import trio.testing
from trio._core import _run

from p2p.codec import encode_message
from p2p.subclouds import records
from p2p.subclouds.records import subcloud_topic
from tests.fakes.subcloud_gateways import Job, SimGateway
from tests.fakes.subcloud_nodes import SimNode
from tests.fakes.subcloud_owners import DIGESTS, random_fields
from tests.fakes.subcloud_reference import why_not_global, why_not_here
from tests.fakes.subcloud_world import MODEL_NAMES, SimWorld, Size, sim_clock

SOAK = os.environ.get("RESULTITY_SOAK") == "1"
SEEDS = range(2_000 if SOAK else 20)
SIZE = Size()


@pytest.fixture(autouse=True)
def _each_signature_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred peers verify the same documents: pure functions, remembered."""
    verify = nacl.signing.VerifyKey.verify

    @lru_cache(maxsize=200_000)
    def verified(key: bytes, message: bytes, signature: bytes) -> bytes:
        return verify(nacl.signing.VerifyKey(key), message, signature)

    monkeypatch.setattr(
        nacl.signing.VerifyKey,
        "verify",
        lambda self, message, signature: verified(bytes(self), message, signature),
    )
    monkeypatch.setattr("node.subclouds.service.WISHES_LOOK_INTERVAL_S", 20.0)  # there are none
    monkeypatch.setattr(records, "open_policy", lru_cache(maxsize=4096)(records.open_policy))
    monkeypatch.setattr(
        "p2p.subclouds.policy_book.verify_record", lru_cache(maxsize=4096)(records.verify_record)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_no_job_outside_its_policy(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world: list[SimWorld] = []

    async def live() -> None:
        world.append(SimWorld(seed, SIZE, sim_clock))
        await _live(world[0])

    monkeypatch.setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    _run._r.seed(seed)
    gc.disable()  # a world has millions of objects that all live as long as it does
    try:
        trio.run(live, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        gc.enable()
    assert world[0].violations == []
    assert world[0].ran > SIZE.jobs / 4, "hardly anything ran: this says nothing"
    assert world[0].refused_rubbish > 0


async def _live(world: SimWorld) -> None:
    world.attest_all()
    jobs = [world.draw_job(number) for number in range(SIZE.jobs)]
    async with world.running() as nursery:
        nursery.start_soon(_change_policies, world)
        nursery.start_soon(_cut, world)
        nursery.start_soon(_be_a_rogue, world)
        pause_s = SIZE.life_s / len(jobs)
        for job in jobs:
            nursery.start_soon(_submit, world, job)
            await trio.sleep(pause_s)
        await trio.sleep(SIZE.settle_s)
        _check_books(world)
        _check_who_qualifies(world)
        await _check_what_is_left(world, jobs)
        await _check_everything_allowed(world)


async def _submit(world: SimWorld, job: Job) -> None:
    """Ask one of the honest gateways; what is refused is asked again later."""
    for gateway in world.chance.sample(world.honest, 2):
        if await gateway.run_job(job):
            return


async def _change_policies(world: SimWorld) -> None:
    chance = world.chance
    gateways = (world.gateways[0].peer_id, world.gateways[1].peer_id)
    while trio.current_time() < SIZE.life_s:
        await trio.sleep(chance.uniform(0.8, 2))
        owner = chance.choice(world.owners[1:])
        what = chance.random()
        if what < 0.5 and not owner.newest.policy.ended:
            changed = random_fields(chance, gateways)
            del changed["join"]  # certificates stay what they are
            if owner.newest.policy.join == "private":
                changed["fallback"], changed["gateways"] = "none", {"peers": [gateways[0]]}
            await world.publish(owner, **changed)
        elif what < 0.6 and not owner.newest.policy.ended:
            await world.publish(owner, ended=True)
        elif what < 0.7:
            fork = owner.forked(world.clock_ms())
            network = world.networks[world.bootstrap.peer_id]
            await network.publish(subcloud_topic(owner.identity), encode_message(fork))
        else:
            members = [p for p, n in world.nodes.items() if owner in n.plan.wants]
            if members:
                owner.banned.update(chance.sample(members, min(3, len(members))))
                await world.publish_list(owner)


async def _cut(world: SimWorld) -> None:
    """The network falls apart, gateways and bootstrap on different sides."""
    chance = world.chance
    for _ in range(1):
        await trio.sleep(chance.uniform(2, 5))
        far = chance.sample(sorted(world.nodes), len(world.nodes) // 2)
        world.hub.partition([*far, world.gateways[chance.randrange(2)].peer_id])
        await trio.sleep(chance.uniform(3, 6))
        world.hub.heal()


async def _be_a_rogue(world: SimWorld) -> None:
    while True:
        await trio.sleep(0.5)
        await world.rogue_job()


def _check_books(world: SimWorld) -> None:
    """Whoever was cut off has the newest version of everything now; forks changed nothing."""
    for owner in world.owners:
        digests = {g.book.get(owner.identity).digest for g in world.honest}  # type: ignore[union-attr]
        assert digests == {owner.newest.digest}


def _check_who_qualifies(world: SimWorld) -> None:
    """Each gateway's index says of each node, liar or not, what the reference says."""
    for gateway in world.honest:
        for identity in ("", *(owner.identity for owner in world.owners)):
            if identity and not _admitted(world, gateway, identity):
                continue  # it may send nothing there, whoever qualifies
            for digest in DIGESTS:
                qualified = gateway.directory.qualified(identity, digest)  # type: ignore[arg-type]
                for peer_id, node in world.nodes.items():
                    why = _why_not(world, gateway, node, identity, digest)
                    told = f"{node.plan.lie or 'honest'} node, {identity or 'global pool'}: {why}"
                    if peer_id in qualified:
                        assert not why, f"qualifies: {told}"
                    elif not why and digest in node.plan.models and not _may_rest(world, identity):
                        assert gateway.registry.entry(peer_id) is None, f"does not qualify: {told}"


def _admitted(world: SimWorld, gateway: SimGateway, identity: str) -> bool:
    peers = world.owner_of(identity).newest.policy.gateways.peers
    return not peers or gateway.peer_id in peers


def _may_rest(world: SimWorld, identity: str) -> bool:
    """Whether a subcloud ever had a cooldown: who left it then may have to wait still."""
    versions = world.owner_of(identity).versions if identity else []
    return any(version.policy.cooldown_s for version in versions)


def _why_not(
    world: SimWorld, gateway: SimGateway, node: SimNode, identity: str, digest: bytes
) -> str:
    if not identity:
        return why_not_global(gateway, node, digest, world.owners)
    owner = world.owner_of(identity)
    return why_not_here(gateway, node, digest, owner.newest.digest, owner)


async def _check_what_is_left(world: SimWorld, jobs: list[Job]) -> None:
    """Jobs that found nobody are asked again: each that is allowed runs, and none ran twice."""
    for job in jobs:
        if not job.ran:
            await _submit(world, job)
        assert len(job.ran) <= 1
        if not job.ran:
            allowed = _allowed_somewhere(world, job)
            assert not allowed, f"{job} could run at {allowed}"


async def _check_everything_allowed(world: SimWorld) -> None:
    """For each subcloud and model: it runs exactly if the reference knows a node for it."""
    number = 10_000
    for identity in ("", *(owner.identity for owner in world.owners)):
        for name in MODEL_NAMES:
            number += 1
            job = Job(number, identity, name, world.clock_ms())  # type: ignore[arg-type]
            await _submit(world, job)
            allowed = _allowed_somewhere(world, job)
            assert bool(job.ran) >= bool(allowed), f"{job} could run at {allowed}"


def _allowed_somewhere(world: SimWorld, job: Job) -> list[Any]:
    """Honest nodes at which a job may run, by the reference, with the gateway that may send it."""
    model = DIGESTS[MODEL_NAMES.index(job.model)]
    found = []
    for gateway in world.honest:
        for peer_id, node in world.nodes.items():
            if model not in node.plan.models or node.plan.lie or peer_id not in world.networks:
                continue
            why = _why_not(world, gateway, node, job.subcloud, model)
            if job.subcloud:
                joined = node.manager.joined(job.subcloud)
                why = why or (joined.suspended if joined is not None else "it is no member")
            else:
                why = why or node.manager.isolated
            if not why:
                found.append((gateway.peer_id, peer_id))
    return found
