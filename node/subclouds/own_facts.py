"""Owns what a node takes for true of itself when it judges whether it qualifies.

How well its word is supported only others can tell: for its own judgement a node takes its country,
its hardware and its speed as if they were attested, so that a policy that wants proof does not keep
it from joining and being tested. Gateways judge by evidence (`p2p.subclouds.evidence`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from node.agent.runtime_port import ModelState, Served
from p2p.adverts import Advert, KnownAdvert, ModelAdvert
from p2p.certificates import Certificate
from p2p.codec import decode_message
from p2p.hardware import Hardware
from p2p.limits import MODELS_PER_NODE_MAX
from p2p.membership import Membership
from p2p.network_configuration import NetworkConfiguration
from p2p.subclouds.evidence import facts_of
from p2p.subclouds.facts import NodeFacts, Region
from p2p.subclouds.grades import HardwareGrade, RegionGrade


def offered_adverts(models: Iterable[Served]) -> tuple[ModelAdvert, ...]:
    """The adverts of all models that are active, whatever the hour."""
    adverts = (model.advert() for model in models if model.state is ModelState.ACTIVE)
    return tuple(advert for advert in adverts if advert is not None)[:MODELS_PER_NODE_MAX]


def own_facts(
    membership: Membership,
    models: tuple[ModelAdvert, ...],
    configuration: NetworkConfiguration,
    hardware: Hardware | None,
    *,
    country: str,
    stores_no_content: bool,
    now_ms: int,
) -> NodeFacts:
    """Give the facts by which the node judges itself; nothing while it has no certificate."""
    peer_id = membership.key_pair.peer_id
    if not membership.chain:
        return NodeFacts(peer_id)
    advert = Advert(peer_id, 0, now_ms, now_ms, membership.chain, (), models, "", hardware=hardware)
    certificate = decode_message(membership.chain[0].body, Certificate)
    signed = membership.key_pair.sign(membership.network, advert)
    found = facts_of(KnownAdvert(advert, signed, certificate), None, configuration, now_ms)
    return replace(
        found,
        models=tuple(
            replace(
                model,
                tokens_per_second=math.inf,
                tokens_per_second_grade=HardwareGrade.ATTESTED,
            )
            for model in found.models
        ),
        regions=(Region(country, RegionGrade.ATTESTED),) if country else (),
        hardware=tuple(replace(h, grade=HardwareGrade.ATTESTED) for h in found.hardware),
        stores_no_content=stores_no_content,
    )
