"""Policies and nodes of subclouds for tests, and Hypothesis strategies of small worlds."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from p2p.signing import KeyPair
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
from p2p.subclouds.policy import SubcloudPolicy
from p2p.types import AccountId, NetworkId, PeerId

NETWORK = NetworkId("testing-" + "0" * 32)
OWNER = AccountId("acct-" + "1" * 40)
DELEGATE = KeyPair(b"d" * 32)
DIGESTS = tuple(bytes([number]) * 32 for number in range(1, 5))
NOW_MS = 1_000_000


def a_policy(label: str = "team", **fields: Any) -> SubcloudPolicy:
    """A policy that asks for nothing, but for the given fields."""
    content: dict[str, Any] = {
        "network_id": NETWORK,
        "subcloud_id": subcloud_id(NETWORK, OWNER, label),
        "version": 1,
        "issued_ms": 0,
        "expires_ms": 2 * NOW_MS,
        "owner": OWNER,
    }
    if fields.get("join", "open") != "open":
        content["delegate_keys"] = (DELEGATE.public_key.hex(),)
    return SubcloudPolicy.model_validate(content | fields)


def a_model(number: int = 0, **fields: Any) -> OfferedModel:
    """A model of the network."""
    content: dict[str, Any] = {
        "digest": DIGESTS[number],
        "name": f"model-{number}",
        "version": "1",
        "family": "llama",
        "quantisation": "Q8_0",
        "input_price": 100,
        "output_price": 200,
    }
    return OfferedModel(**content | fields)


def a_standing(digest: str = "d", **fields: Any) -> Standing:
    """A membership that is good for an open policy with that digest, and for the others."""
    content: dict[str, Any] = {
        "policy_digest": digest,
        "certified": True,
        "until_ms": 2 * NOW_MS,
        "isolated": True,
    }
    return Standing(**content | fields)


def a_node(name: str = "node", **fields: Any) -> NodeFacts:
    """A node with one model and a good membership."""
    content: dict[str, Any] = {"models": (a_model(),), "standing": a_standing()}
    return NodeFacts(PeerId(name), **content | fields)


# --- strategies -------------------------------------------------------------------------------
TIMES = st.sampled_from([0, 50, 100, 150, 200, 250, 300])
_COUNTRIES = st.sampled_from(["DE", "FR", "US"])
_SMALL = st.integers(0, 3)

models = st.builds(
    a_model,
    st.integers(0, 3),
    name=st.sampled_from(["", "model-0", "model-1", "model-2"]),
    version=st.sampled_from(["1", "2"]),
    family=st.sampled_from(["", "llama", "qwen2"]),
    quantisation=st.sampled_from(["", "Q4_0", "Q4_K_M", "Q8_0", "F16", "odd"]),
    modalities=st.sampled_from([("text",), ("text", "image")]),
    verified=st.booleans(),
    slots=st.integers(1, 4),
    tokens_per_second=st.sampled_from([None, 5.0, 50.0]),
    tokens_per_second_grade=st.sampled_from(list(HardwareGrade)),
    input_price=st.sampled_from([None, 100, 300]),
    output_price=st.sampled_from([None, 200, 600]),
)
_regions = st.lists(
    st.builds(Region, _COUNTRIES, st.sampled_from(list(RegionGrade)), TIMES), max_size=3
).map(tuple)
_gpus = st.lists(st.builds(Gpu, st.sampled_from(["RTX 4090", "A100"]), _SMALL), max_size=2)
_hardware = st.lists(
    st.builds(Hardware, st.sampled_from(list(HardwareGrade)), _SMALL, _gpus.map(tuple), TIMES),
    max_size=2,
).map(tuple)
_speeds = st.lists(
    st.builds(
        Speed,
        st.sampled_from(DIGESTS),
        st.sampled_from([5.0, 15.0, 50.0]),
        st.sampled_from(list(HardwareGrade)),
        TIMES,
    ),
    max_size=3,
).map(tuple)
_reputations = st.none() | st.builds(Reputation, st.integers(0, 10_000), _SMALL, _SMALL)
_services = st.none() | st.builds(
    Service, st.integers(0, 40), st.floats(0, 900), st.floats(0, 90), st.integers(0, 10_000)
)
standings = st.builds(
    Standing,
    policy_digest=st.sampled_from(["", "d1", "d2"]),
    certified=st.booleans(),
    until_ms=TIMES,
    suspended_until_ms=TIMES,
    cooldown_until_ms=TIMES,
    isolated=st.booleans(),
    models=st.sampled_from([(), (), (DIGESTS[0], DIGESTS[2])]),
    slots_max=st.sampled_from([0, 0, 1, 5]),
    regions=_regions,
    hardware=_hardware,
    speeds=_speeds,
    reputation=_reputations,
    service=_services,
)
facts = st.builds(
    NodeFacts,
    peer_id=st.just(PeerId("node")),
    models=st.lists(models, max_size=3, unique_by=lambda model: model.digest).map(tuple),
    regions=_regions,
    hardware=_hardware,
    stores_no_content=st.booleans(),
    banned=st.booleans(),
    standing=standings,
)


@st.composite
def policies(draw: st.DrawFn, label: str = "team") -> SubcloudPolicy:
    """Any policy over the small world of these strategies."""
    join = draw(st.sampled_from(["open", "semi-open", "private"]))
    fields: dict[str, Any] = {
        "expires_ms": draw(TIMES.filter(bool)),
        "join": join,
        "models": {
            "digests": draw(st.sampled_from([(), (DIGESTS[0].hex(),)])),
            "names": draw(
                st.sampled_from(
                    [(), ({"name": "model-1"},), ({"name": "model-2", "versions": ("2",)},)]
                )
            ),
            "families": draw(st.sampled_from([(), ("llama",)])),
            "minimum_quantisation": draw(st.sampled_from([None, "Q4_K", "Q8_0"])),
            "modalities": draw(st.sampled_from([(), ("image",)])),
            "verified_only": draw(st.booleans()),
            "own": draw(st.sampled_from([(), (an_own_model(3),)])),
        },
        "regions": {
            "allow": draw(st.sampled_from([(), ("DE", "FR")])),
            "deny": draw(st.sampled_from([(), ("US",)])),
            "evidence": draw(st.sampled_from(["declared", "consistent", "proven", "attested"])),
        },
        "hardware": {
            "gpu": draw(st.sampled_from([None, {"kind": "rtx", "memory_bytes_min": 2}])),
            "memory_bytes_min": draw(_SMALL),
            "tokens_per_second_min": draw(st.sampled_from([0.0, 20.0])),
            "evidence": draw(st.sampled_from(["declared", "benchmarked", "attested"])),
        },
        "trust": {"reputation_min": draw(st.sampled_from([0, 5000])), "jobs_min": draw(_SMALL)},
        "service": {
            "first_token_ms_max": draw(st.sampled_from([0, 400])),
            "tokens_per_second_min": draw(st.sampled_from([0.0, 30.0])),
            "uptime_min": draw(st.sampled_from([0, 5000])),
            "capacity_slots_min": draw(st.sampled_from([0, 2])),
        },
        "price": {
            "input_microcredits_per_million_tokens_max": draw(st.sampled_from([None, 200])),
            "output_microcredits_per_million_tokens_max": draw(st.sampled_from([None, 400])),
        },
        "isolate": draw(st.booleans()),
        "data": {"no_content_storage": draw(st.booleans())},
        "ended": draw(st.sampled_from([False, False, False, True])),
    }
    return a_policy(label, **fields)


def an_own_model(number: int) -> dict[str, Any]:
    """A model that a policy approves by itself."""
    return {
        "name": f"own-{number}",
        "digest": DIGESTS[number].hex(),
        "context_tokens": 1024,
        "input_microcredits_per_million_tokens": 150,
        "output_microcredits_per_million_tokens": 350,
    }


def identity_of(label: str) -> SubcloudId:
    """The ID of the subcloud with that label in these tests."""
    return subcloud_id(NETWORK, OWNER, label)
