"""Owns the figures of "who qualifies": judging one node by one policy, and asking the index.

A policy that asks for everything that can be asked, nodes that pass and nodes that fail, judged by
the function that every peer uses; then the gateway's index with 1,000 nodes and 50 subclouds, and
with 10,000 and 1,000, five memberships for each node: what a request asks, what a change costs, and
how much memory it takes. The first figure is a gate: `make bench` fails if it is missed.
"""

from __future__ import annotations

import gc
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from report import Figure, print_table

from p2p.subclouds.evaluation import evaluate
from p2p.subclouds.facts import (
    Gpu,
    Hardware,
    NodeFacts,
    OfferedModel,
    Region,
    Reputation,
    Service,
    Speed,
    Standing,
)
from p2p.subclouds.grades import HardwareGrade, RegionGrade
from p2p.subclouds.identity import SubcloudId, subcloud_id
from p2p.subclouds.index import GLOBAL_POOL, QualificationIndex
from p2p.subclouds.policy import SubcloudPolicy
from p2p.types import PeerId
from tests.fakes.subclouds import DELEGATE, NETWORK, NOW_MS, OWNER

EVALUATION_US_MAX = 100.0
QUESTION_US_MAX = 100.0
SIZES = ((1_000, 50), (10_000, 1_000))
MEMBERSHIPS = 5
MODELS = tuple(bytes([number]) * 32 for number in range(20))
MB = 1 << 20


def a_policy(label: str, **fields: Any) -> SubcloudPolicy:
    """A policy that asks for everything."""
    content: dict[str, Any] = {
        "network_id": NETWORK,
        "subcloud_id": subcloud_id(NETWORK, OWNER, label),
        "version": 1,
        "issued_ms": 0,
        "expires_ms": 10**12,
        "owner": OWNER,
        "join": "semi-open",
        "delegate_keys": (DELEGATE.public_key.hex(),),
        "models": {
            "names": [{"name": f"model-{number}", "versions": ["1"]} for number in range(10)],
            "minimum_quantisation": "Q4_K",
        },
        "regions": {"allow": ["AT", "DE", "FR", "IT"], "evidence": "proven"},
        "hardware": {
            "gpu": {"kind": "RTX", "memory_bytes_min": 16 << 30},
            "memory_bytes_min": 32 << 30,
            "tokens_per_second_min": 20,
            "evidence": "benchmarked",
        },
        "trust": {"reputation_min": 9000, "jobs_min": 100},
        "service": {
            "first_token_ms_max": 2000,
            "tokens_per_second_min": 10,
            "uptime_min": 9000,
            "capacity_slots_min": 2,
        },
        "price": {"output_microcredits_per_million_tokens_max": 10**6},
        "data": {"no_content_storage": True},
    }
    return SubcloudPolicy.model_validate(content | fields)


def a_node(name: str, models: tuple[bytes, ...]) -> NodeFacts:
    """A node with four models and evidence of everything."""
    offered = tuple(
        OfferedModel(
            digest,
            f"model-{MODELS.index(digest)}",
            "1",
            "llama",
            "Q8_0",
            slots=4,
            input_price=10,
            output_price=20,
        )
        for digest in models
    )
    machine = (Gpu("NVIDIA GeForce RTX 4090", 24 << 30),)
    return NodeFacts(
        PeerId(name),
        offered,
        (Region("DE", RegionGrade.DECLARED), Region("DE", RegionGrade.PROVEN, 10**11)),
        (Hardware(HardwareGrade.DECLARED, 64 << 30, machine),),
        stores_no_content=True,
    )


def a_standing(models: tuple[bytes, ...]) -> Standing:
    """A membership with all that counts in its subcloud."""
    machine = (Gpu("NVIDIA GeForce RTX 4090", 24 << 30),)
    return Standing(
        certified=True,
        until_ms=10**11,
        hardware=(Hardware(HardwareGrade.BENCHMARKED, 64 << 30, machine, 10**11),),
        speeds=tuple(Speed(m, 50.0, HardwareGrade.BENCHMARKED, 10**11) for m in models),
        reputation=Reputation(9900, 1000, 3),
        service=Service(500, 300.0, 45.0, 9990),
    )


def index_figures() -> list[Figure]:
    """Measure judging, asking, changing."""
    lines = [evaluation_figure()]
    for nodes, subclouds in SIZES:
        lines += size_figures(nodes, subclouds)
    return lines


def evaluation_figure() -> Figure:
    policy, models = a_policy("gate"), MODELS[:4]
    good = replace(a_node("node", models), standing=a_standing(models))
    worse = replace(good, regions=(), standing=replace(good.standing, reputation=None))
    assert evaluate(policy, "d", good, NOW_MS).qualifies
    assert not evaluate(policy, "d", worse, NOW_MS).qualifies
    took = [
        timed_us(lambda node=node: evaluate(policy, "d", node, NOW_MS), 2000)  # type: ignore[misc]
        for node in (good, worse)
    ]
    return Figure(
        "one policy that asks for everything, judged for one node (gate)",
        max(took),
        "µs",
        EVALUATION_US_MAX,
    )


def size_figures(nodes: int, subclouds: int) -> list[Figure]:
    """Figures of an index of that size."""
    chance = random.Random(1)
    policies = [a_policy(f"s{number}") for number in range(subclouds)]
    gc.collect()
    before_bytes = resident_bytes()
    index = QualificationIndex()
    for policy in policies:
        index.set_policy(policy, "d", NOW_MS)
    known: list[tuple[NodeFacts, dict[SubcloudId, Standing]]] = []
    began_s = time.process_time()
    for number in range(nodes):
        models = tuple(chance.sample(MODELS[:10], 4))
        chosen = chance.sample(policies, MEMBERSHIPS)
        standings = {policy.identity: a_standing(models) for policy in chosen}
        known.append((a_node(f"node-{number}", models), standings))
        index.set_node(*known[-1], NOW_MS)
    built_s = time.process_time() - began_s
    gc.collect()
    took_mb = (resident_bytes() - before_bytes) / MB
    identities = [policy.identity for policy in policies] + [GLOBAL_POOL]

    def ask() -> None:
        index.qualified(chance.choice(identities), chance.choice(MODELS), NOW_MS)

    facts, standings = known[0]
    name = f"{nodes:,} nodes, {subclouds:,} subclouds"
    members = nodes * MEMBERSHIPS // subclouds
    change_us = timed_us(lambda: index.set_node(facts, standings, NOW_MS), 200)
    policy_us = timed_us(lambda: index.set_policy(policies[0], "d", NOW_MS), 5)
    return [
        Figure(f"who qualifies, {name}", timed_us(ask, 5000), "µs", QUESTION_US_MAX),
        Figure(f"  a node is new or changes (in {MEMBERSHIPS} subclouds)", change_us, "µs"),
        Figure(f"  a policy with about {members} members changes", policy_us / 1000, "ms"),
        Figure("  memory", took_mb, "MB", beside=f"built in {built_s:.1f} s"),
    ]


def timed_us(work: Callable[[], object], times: int) -> float:
    """The median of seven runs, in microseconds of processor time for one: others' work on this
    machine does not count."""
    runs = []
    for _ in range(7):
        began_s = time.process_time()
        for _ in range(times):
            work()
        runs.append((time.process_time() - began_s) / times * 1e6)
    return statistics.median(runs)


def resident_bytes() -> int:
    """What this process occupies now (Linux), or occupied at most."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def gate_is_missed(lines: list[Figure]) -> bool:
    """Whether a figure that must hold does not."""
    return any(line.reached is False for line in lines)


if __name__ == "__main__":
    from measuring import Measurements

    found = index_figures()
    print_table(found, Measurements(), "Who qualifies")
    sys.exit(1 if gate_is_missed(found[:1]) else 0)
