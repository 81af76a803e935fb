"""The evaluation of a policy: each criterion by itself, and all of them against a reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from p2p.subclouds.evaluation import Criterion, admits_model, evaluate
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
from p2p.subclouds.grades import HardwareGrade, RegionGrade, quantisation_bits
from p2p.subclouds.policy import SubcloudPolicy
from tests.fakes.subclouds import (
    DIGESTS,
    NOW_MS,
    TIMES,
    a_model,
    a_node,
    a_policy,
    a_standing,
    an_own_model,
    facts,
    policies,
)

ATTESTED, DECLARED = RegionGrade.ATTESTED, RegionGrade.DECLARED
BENCHMARKED = HardwareGrade.BENCHMARKED
RTX = Hardware(BENCHMARKED, 64, (Gpu("NVIDIA GeForce RTX 4090", 24),))


def failing(policy: SubcloudPolicy, node: NodeFacts) -> list[Criterion]:
    evaluation = evaluate(policy, "d", node, NOW_MS)
    assert evaluation.qualifies == (not evaluation.failed)
    return [verdict.criterion for verdict in evaluation.failed]


CASES: list[tuple[str, dict[str, Any], dict[str, Any], list[Criterion]]] = [
    ("plain", {}, {}, []),
    ("expired policy", {"expires_ms": NOW_MS}, {}, [Criterion.POLICY]),
    ("ended", {"ended": True}, {}, [Criterion.POLICY]),
    ("banned", {}, {"banned": True}, [Criterion.BAN]),
    ("old version signed", {}, {"standing": a_standing("old")}, [Criterion.MEMBERSHIP]),
    ("over", {}, {"standing": a_standing(until_ms=NOW_MS)}, [Criterion.MEMBERSHIP]),
    ("certificate", {"join": "private"}, {"standing": a_standing("old")}, []),
    (
        "own signature only",
        {"join": "semi-open"},
        {"standing": a_standing(certified=False)},
        [Criterion.MEMBERSHIP],
    ),
    (
        "no consent",
        {"isolate": True},
        {"standing": a_standing(isolated=False)},
        [Criterion.ISOLATION],
    ),
    ("rests", {}, {"standing": a_standing(cooldown_until_ms=NOW_MS + 1)}, [Criterion.COOLDOWN]),
    ("rested", {}, {"standing": a_standing(cooldown_until_ms=NOW_MS)}, []),
    (
        "suspended",
        {},
        {"standing": a_standing(suspended_until_ms=NOW_MS + 1)},
        [Criterion.SUSPENSION],
    ),
    ("nowhere", {"regions": {"allow": ("DE",)}}, {}, [Criterion.REGION]),
    ("there", {"regions": {"allow": ("DE",)}}, {"regions": (Region("DE", DECLARED),)}, []),
    (
        "weak evidence",
        {"regions": {"allow": ("DE",), "evidence": "proven"}},
        {"regions": (Region("DE", RegionGrade.CONSISTENT),)},
        [Criterion.REGION],
    ),
    (
        "old evidence",
        {"regions": {"allow": ("DE",)}},
        {"regions": (Region("DE", ATTESTED, NOW_MS),)},
        [Criterion.REGION],
    ),
    (
        "contradicted",
        {"regions": {"allow": ("DE",)}},
        {"regions": (Region("DE", DECLARED), Region("US", RegionGrade.CONSISTENT))},
        [Criterion.REGION],
    ),
    ("denied", {"regions": {"deny": ("US",)}}, {"regions": (Region("US", ATTESTED),)}, ["region"]),
    ("not denied", {"regions": {"deny": ("US",)}}, {"regions": (Region("DE", DECLARED),)}, []),
    ("unknown is not elsewhere", {"regions": {"deny": ("US",)}}, {}, [Criterion.REGION]),
    ("no memory", {"hardware": {"memory_bytes_min": 1}}, {}, [Criterion.MEMORY]),
    ("memory", {"hardware": {"memory_bytes_min": 64}}, {"hardware": (RTX,)}, []),
    (
        "gpu",
        {"hardware": {"gpu": {"kind": "rtx", "memory_bytes_min": 24}}},
        {"hardware": (RTX,)},
        [],
    ),
    ("other gpu", {"hardware": {"gpu": {"kind": "a100"}}}, {"hardware": (RTX,)}, [Criterion.GPU]),
    (
        "small gpu",
        {"hardware": {"gpu": {"memory_bytes_min": 25}}},
        {"hardware": (RTX,)},
        [Criterion.GPU],
    ),
    (
        "hardware by its word",
        {"hardware": {"gpu": {}, "evidence": "attested"}},
        {"hardware": (RTX,)},
        [Criterion.GPU],
    ),
    ("no reputation", {"trust": {"jobs_min": 1}}, {}, [Criterion.REPUTATION]),
    (
        "one gateway's word",
        {"trust": {"jobs_min": 1}},
        {"standing": a_standing(reputation=Reputation(9999, 100, 1))},
        [Criterion.REPUTATION],
    ),
    (
        "reputation",
        {"trust": {"jobs_min": 1, "reputation_min": 9000}},
        {"standing": a_standing(reputation=Reputation(9000, 1, 2))},
        [],
    ),
    ("not judged yet", {"service": {"uptime_min": 9000}}, {}, []),
    (
        "too few jobs to judge",
        {"service": {"uptime_min": 9000}},
        {"standing": a_standing(service=Service(19, 1.0, 1.0, 0))},
        [],
    ),
    (
        "below the level",
        {
            "service": {
                "uptime_min": 9000,
                "first_token_ms_max": 500,
                "tokens_per_second_min": 10,
            }
        },
        {"standing": a_standing(service=Service(20, 501.0, 9.9, 8999))},
        [Criterion.FIRST_OUTPUT, Criterion.SPEED, Criterion.UPTIME],
    ),
    (
        "attested here",
        {"regions": {"allow": ("DE",), "evidence": "attested"}},
        {"standing": a_standing(regions=(Region("DE", ATTESTED),))},
        [],
    ),
    (
        "attested elsewhere",
        {"regions": {"allow": ("DE",)}},
        {
            "regions": (Region("DE", DECLARED),),
            "standing": a_standing(regions=(Region("US", ATTESTED),)),
        },
        [Criterion.REGION],
    ),
    (
        "hardware shown here",
        {"hardware": {"memory_bytes_min": 64, "evidence": "benchmarked"}},
        {"standing": a_standing(hardware=(RTX,))},
        [],
    ),
    (
        "shown too long ago",
        {"hardware": {"memory_bytes_min": 64}},
        {"hardware": (replace(RTX, until_ms=NOW_MS),)},
        [Criterion.MEMORY],
    ),
    (
        "certificate for fewer slots",
        {"service": {"capacity_slots_min": 2}},
        {"models": (a_model(slots=4),), "standing": a_standing(slots_max=1)},
        [Criterion.CAPACITY],
    ),
    (
        "certificate for another model",
        {},
        {"standing": a_standing(models=(DIGESTS[1],))},
        [Criterion.MODELS],
    ),
    (
        "measured too slow",
        {"hardware": {"tokens_per_second_min": 20}},
        {
            "models": (a_model(tokens_per_second=50.0),),
            "standing": a_standing(speeds=(Speed(DIGESTS[0], 19.0, BENCHMARKED),)),
        },
        [Criterion.MODELS],
    ),
    ("too few slots", {"service": {"capacity_slots_min": 2}}, {}, [Criterion.CAPACITY]),
    ("stores", {"data": {"no_content_storage": True}}, {}, [Criterion.DATA]),
    ("no models", {}, {"models": ()}, [Criterion.MODELS]),
    ("not the network's", {}, {"models": (a_model(name=""),)}, [Criterion.MODELS]),
    ("too dear", {"price": {"input_microcredits_per_million_tokens_max": 99}}, {}, ["models"]),
]


@pytest.mark.parametrize(
    ("policy", "node", "failed"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_each_criterion(policy: dict[str, Any], node: dict[str, Any], failed: list[Any]) -> None:
    assert failing(a_policy(**policy), a_node(**node)) == failed


@pytest.mark.parametrize(
    ("rules", "model", "admitted"),
    [
        ({}, {}, True),
        ({}, {"verified": False}, False),
        ({"verified_only": False}, {"verified": False}, True),
        ({"digests": (DIGESTS[0].hex(),)}, {}, True),
        ({"digests": (DIGESTS[1].hex(),)}, {}, False),
        ({"names": ({"name": "model-0"},)}, {"version": "7"}, True),
        ({"names": ({"name": "model-0", "versions": ("1",)},)}, {"version": "7"}, False),
        ({"families": ("llama",)}, {}, True),
        ({"families": ("llama",)}, {"family": ""}, False),
        ({"minimum_quantisation": "Q4_K_M"}, {"quantisation": "Q4_0"}, True),
        ({"minimum_quantisation": "Q5_0"}, {"quantisation": "Q4_K_M"}, False),
        ({"minimum_quantisation": "Q4_0"}, {"quantisation": ""}, False),
        ({"modalities": ("image",)}, {}, False),
        ({"modalities": ("image",)}, {"modalities": ("text", "image")}, True),
        ({"own": (an_own_model(0),)}, {"name": "", "input_price": None}, True),
        ({"own": (an_own_model(1),)}, {}, False),
    ],
)
def test_which_models_are_admitted(
    rules: dict[str, Any], model: dict[str, Any], admitted: bool
) -> None:
    assert admits_model(a_policy(models=rules), a_model(**model)) is admitted


def test_mixtures_count_as_their_format() -> None:
    assert quantisation_bits("Q4_K_M") == quantisation_bits("q4_k") == 4.5
    assert quantisation_bits("IQ4_NL") == 4.5
    assert quantisation_bits("made-up") is None


# --- the reference: as slow and obvious as can be ----------------------------------------
def reference(policy: SubcloudPolicy, digest: str, node: NodeFacts, now_ms: int) -> set[bytes]:
    if policy.ended or now_ms >= policy.expires_ms or node.banned:
        return set()
    member = node.standing
    if now_ms >= member.until_ms:
        return set()
    if policy.join == "open" and member.policy_digest != digest:
        return set()
    if policy.join != "open" and not member.certified:
        return set()
    if policy.isolate and not member.isolated:
        return set()
    if now_ms < member.cooldown_until_ms or now_ms < member.suspended_until_ms:
        return set()
    grade = ["declared", "consistent", "proven", "attested"].index(policy.regions.evidence) + 1
    known = [
        region.country
        for region in list(node.regions) + list(member.regions)
        if region.grade.value >= grade and now_ms < region.until_ms
    ]
    if (policy.regions.allow or policy.regions.deny) and not known:
        return set()
    for country in known:
        if policy.regions.allow and country not in policy.regions.allow:
            return set()
        if country in policy.regions.deny:
            return set()
    least = ["declared", "benchmarked", "attested"].index(policy.hardware.evidence) + 1
    shown = [
        hardware
        for hardware in list(node.hardware) + list(member.hardware)
        if hardware.grade.value >= least and now_ms < hardware.until_ms
    ]
    if policy.hardware.memory_bytes_min and not any(
        hardware.memory_bytes >= policy.hardware.memory_bytes_min for hardware in shown
    ):
        return set()
    gpu = policy.hardware.gpu
    if gpu is not None and not any(
        gpu.kind.lower() in one.name.lower() and one.memory_bytes >= gpu.memory_bytes_min
        for hardware in shown
        for one in hardware.gpus
    ):
        return set()
    if not _conduct_is_good(policy, node):
        return set()
    good = [model for model in node.models if _model_is_good(policy, model, member, least, now_ms)]
    slots = sum(model.slots for model in good)
    if member.slots_max and slots > member.slots_max:
        slots = member.slots_max
    if slots < policy.service.capacity_slots_min:
        return set()
    return {model.digest for model in good}


def _conduct_is_good(policy: SubcloudPolicy, node: NodeFacts) -> bool:
    trust, level = policy.trust, policy.service
    if trust.reputation_min > 0 or trust.jobs_min > 0:
        word = node.standing.reputation
        if word is None or word.gateways < 2:
            return False
        if word.share < trust.reputation_min or word.jobs < trust.jobs_min:
            return False
    seen = node.standing.service
    if seen is not None and seen.jobs >= level.jobs_judged_min:
        if level.first_token_ms_max and seen.first_token_ms > level.first_token_ms_max:
            return False
        if seen.tokens_per_second < level.tokens_per_second_min:
            return False
        if seen.uptime < level.uptime_min:
            return False
    return node.stores_no_content or not policy.data.no_content_storage


def _model_is_good(
    policy: SubcloudPolicy, model: OfferedModel, member: Standing, least: int, now_ms: int
) -> bool:
    rules = policy.models
    if member.models and model.digest not in member.models:
        return False
    own = [entry for entry in rules.own if entry.digest == model.digest.hex()]
    if not own:
        if not model.name:
            return False
        named = (
            model.digest.hex() in rules.digests
            or (model.family != "" and model.family in rules.families)
            or any(
                entry.name == model.name and (not entry.versions or model.version in entry.versions)
                for entry in rules.names
            )
        )
        everything = not (rules.digests or rules.names or rules.families or rules.own)
        if not named and not everything:
            return False
    if rules.verified_only and not model.verified:
        return False
    for modality in rules.modalities or ("text",):
        if modality not in model.modalities:
            return False
    if rules.minimum_quantisation:
        bits = quantisation_bits(model.quantisation) or 0.0
        if bits < (quantisation_bits(rules.minimum_quantisation) or 0.0):
            return False
    if policy.hardware.tokens_per_second_min > 0:
        said = [
            (speed.grade.value, speed.tokens_per_second)
            for speed in member.speeds
            if speed.digest == model.digest and now_ms < speed.until_ms
        ]
        if model.tokens_per_second is not None:
            said.append((model.tokens_per_second_grade.value, model.tokens_per_second))
        best = max((grade for grade, _ in said), default=0)
        if best < least:
            return False
        slowest = min(speed for grade, speed in said if grade == best)
        if slowest < policy.hardware.tokens_per_second_min:
            return False
    input_price = own[0].input_microcredits_per_million_tokens if own else model.input_price
    output_price = own[0].output_microcredits_per_million_tokens if own else model.output_price
    for price, most in (
        (input_price, policy.price.input_microcredits_per_million_tokens_max),
        (output_price, policy.price.output_microcredits_per_million_tokens_max),
    ):
        if most is not None and (price is None or price > most):
            return False
    return True


@settings(max_examples=150)
@given(policies(), facts, TIMES)
def test_evaluation_equals_the_reference(
    policy: SubcloudPolicy, node: NodeFacts, now_ms: int
) -> None:
    evaluation = evaluate(policy, "d1", node, now_ms)
    assert set(evaluation.models) == reference(policy, "d1", node, now_ms)


@given(policies(), facts, TIMES, TIMES)
def test_nothing_changes_before_the_next_change(
    policy: SubcloudPolicy, node: NodeFacts, now_ms: int, later_ms: int
) -> None:
    first = evaluate(policy, "d1", node, now_ms)
    assert first.until_ms > now_ms
    if now_ms <= later_ms < first.until_ms:
        assert evaluate(policy, "d1", node, later_ms).models == first.models
