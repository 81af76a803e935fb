"""The five example policies, as their how-to pages show them, and the nodes that they let in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2p.approved_models import unverified_digest
from p2p.subclouds.evaluation import Criterion, evaluate
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
from p2p.subclouds.policy import SubcloudPolicy
from p2p.types import PeerId
from resultity.subclouds.notes import notes_about
from resultity.subclouds.policy_file import Origin, read_policy_file
from resultity.subclouds.template import EXAMPLES, example
from tests.fakes.subclouds import DELEGATE, DIGESTS, NETWORK, NOW_MS, OWNER

HOW_TO = Path(__file__).resolve().parents[3] / "docs/how-to"
CLINIC = "acct-" + "c" * 40
GIB = 2**30
DAY_MS = 86_400_000
FILLED_IN = {
    "<SHA-256 of the GGUF file>": DIGESTS[0].hex(),
    "<SHA-256 of an audited file>": DIGESTS[0].hex(),
    "<account ID>": OWNER,
    "<account ID of a clinic>": CLINIC,
    "<public key of a delegate>": DELEGATE.public_key.hex(),
}


def shown(which: str) -> str:
    """The YAML in a how-to page."""
    page = (HOW_TO / f"subcloud-{which}.md").read_text()
    return page.split("```yaml\n")[1].split("```")[0]


def policy_of(which: str) -> SubcloudPolicy:
    text = shown(which)
    for placeholder, value in FILLED_IN.items():
        text = text.replace(placeholder, f'"{value}"' if len(value) == 64 else value)
    return read_policy_file(text).policy(Origin(NETWORK, OWNER, NOW_MS))


MODEL = OfferedModel(
    DIGESTS[0],
    "llama-8b",
    "1",
    "llama",
    "Q8_0",
    slots=4,
    input_price=500_000,
    output_price=1_000_000,
)
OF_THE_TEAM = OfferedModel(DIGESTS[0], quantisation="Q4_K_M")
PICTURES = OfferedModel(
    unverified_digest(NETWORK, "qwen2.5-vl-7b"), modalities=("text", "image"), verified=False
)
RTX = Hardware(HardwareGrade.BENCHMARKED, 64 * GIB, (Gpu("NVIDIA GeForce RTX 4090", 24 * GIB),))
STANDING = Standing("digest", certified=True, until_ms=NOW_MS + DAY_MS)
FAST = Speed(DIGESTS[0], 55.0, HardwareGrade.BENCHMARKED)
GOOD: dict[str, NodeFacts] = {
    "team-model": NodeFacts(PeerId("node"), (OF_THE_TEAM,), standing=STANDING),
    "eu-only": NodeFacts(
        PeerId("node"),
        (MODEL,),
        (Region("SE", RegionGrade.PROVEN),),
        stores_no_content=True,
        standing=STANDING,
    ),
    "healthcare": NodeFacts(
        PeerId("node"),
        (MODEL,),
        stores_no_content=True,
        standing=replace(
            STANDING,
            regions=(Region("NO", RegionGrade.ATTESTED),),
            reputation=Reputation(9950, 140, 3),
        ),
    ),
    "high-sla": NodeFacts(
        PeerId("node"),
        (MODEL,),
        hardware=(RTX,),
        standing=replace(
            STANDING,
            speeds=(FAST,),
            reputation=Reputation(9990, 900, 5),
            service=Service(300, 420.0, 48.0, 9980),
        ),
    ),
    "multimodal": NodeFacts(PeerId("node"), (PICTURES,), standing=STANDING),
}


def node(which: str, **fields: Any) -> NodeFacts:
    return replace(GOOD[which], **fields)


def standing(which: str, **fields: Any) -> NodeFacts:
    return replace(GOOD[which], standing=replace(GOOD[which].standing, **fields))


BAD: list[tuple[str, NodeFacts, Criterion]] = [
    ("team-model", standing("team-model", certified=False), Criterion.MEMBERSHIP),
    ("team-model", node("team-model", models=(replace(MODEL, digest=DIGESTS[1]),)),
     Criterion.MODELS),
    ("team-model", standing("team-model", cooldown_until_ms=NOW_MS + 5), Criterion.COOLDOWN),
    ("eu-only", node("eu-only", regions=(Region("US", RegionGrade.PROVEN),)), Criterion.REGION),
    ("eu-only", node("eu-only", regions=(Region("NO", RegionGrade.PROVEN),)), Criterion.REGION),
    ("eu-only", node("eu-only", regions=(Region("SE", RegionGrade.CONSISTENT),)),
     Criterion.REGION),
    ("eu-only", node("eu-only", regions=(Region("SE", RegionGrade.PROVEN, NOW_MS),)),
     Criterion.REGION),
    ("eu-only", node("eu-only", stores_no_content=False), Criterion.DATA),
    ("eu-only", node("eu-only", models=(replace(MODEL, verified=False),)), Criterion.MODELS),
    ("eu-only", standing("eu-only", policy_digest="an older version"), Criterion.MEMBERSHIP),
    ("healthcare", node("healthcare", models=(replace(MODEL, digest=DIGESTS[1]),)),
     Criterion.MODELS),
    ("healthcare", node("healthcare", models=(replace(MODEL, quantisation="Q4_K_M"),)),
     Criterion.MODELS),
    ("healthcare", standing("healthcare", regions=(Region("NO", RegionGrade.PROVEN),)),
     Criterion.REGION),
    ("healthcare", standing("healthcare", reputation=Reputation(9950, 99, 3)),
     Criterion.REPUTATION),
    ("healthcare", standing("healthcare", certified=False, problem="revoked"),
     Criterion.MEMBERSHIP),
    ("healthcare", node("healthcare", stores_no_content=False), Criterion.DATA),
    ("high-sla", node("high-sla", hardware=(replace(RTX, grade=HardwareGrade.DECLARED),)),
     Criterion.GPU),
    ("high-sla", node("high-sla", hardware=(replace(RTX, gpus=(Gpu("RTX 4060", 8 * GIB),)),)),
     Criterion.GPU),
    ("high-sla", standing("high-sla", speeds=(replace(FAST, tokens_per_second=39.0),)),
     Criterion.MODELS),
    ("high-sla", standing("high-sla", reputation=None), Criterion.REPUTATION),
    ("high-sla", standing("high-sla", service=Service(300, 900.0, 48.0, 9980)),
     Criterion.FIRST_OUTPUT),
    ("high-sla", standing("high-sla", service=Service(300, 420.0, 20.0, 9980)), Criterion.SPEED),
    ("high-sla", standing("high-sla", service=Service(300, 420.0, 48.0, 9900)), Criterion.UPTIME),
    ("high-sla", node("high-sla", models=(replace(MODEL, slots=1),)), Criterion.CAPACITY),
    ("high-sla", node("high-sla", models=(replace(MODEL, output_price=5_000_000),)),
     Criterion.MODELS),
    ("multimodal", node("multimodal", models=(replace(PICTURES, modalities=("text",)),)),
     Criterion.MODELS),
    ("multimodal", node("multimodal", models=(MODEL,)), Criterion.MODELS),
]  # fmt: skip


@pytest.mark.parametrize("which", EXAMPLES)
def test_an_example_is_what_its_page_shows_and_lets_its_node_in(which: str) -> None:
    assert example(which, None) == shown(which)
    policy = policy_of(which)
    assert not list(notes_about(policy))
    evaluation = evaluate(policy, "digest", GOOD[which], NOW_MS)
    assert evaluation.qualifies, evaluation.failed
    assert evaluate(policy, "digest", replace(GOOD[which], banned=True), NOW_MS).failed


@pytest.mark.parametrize(
    ("which", "facts", "criterion"), BAD, ids=[f"{which}-{c}" for which, _, c in BAD]
)
def test_an_example_keeps_a_node_out_by_its_criterion(
    which: str, facts: NodeFacts, criterion: Criterion
) -> None:
    evaluation = evaluate(policy_of(which), "digest", facts, NOW_MS)
    assert not evaluation.qualifies
    assert criterion in [verdict.criterion for verdict in evaluation.failed]


def test_a_newcomer_is_not_judged_by_service_that_nobody_saw() -> None:
    newcomer = standing("high-sla", service=Service(5, 5000.0, 1.0, 0))
    assert evaluate(policy_of("high-sla"), "digest", newcomer, NOW_MS).qualifies


def test_the_callers_and_gateways_of_the_examples() -> None:
    team, clinics = policy_of("team-model"), policy_of("healthcare")
    assert team.callers.namespaces == (f"{OWNER}/support",)
    assert team.admits_gateway("any", OWNER)
    assert not team.admits_gateway("any", CLINIC)
    assert clinics.callers.accounts == (CLINIC,)
    assert clinics.callers.source_networks == ("192.0.2.0/24",)
    assert policy_of("high-sla").fallback == "global"
    assert policy_of("eu-only").fallback == "none"
