"""Owns what makes facts of evidence: which documents about a node count, for whom, how long. Pure.

Theory of operation. A node shows documents of others with its memberships. Each is checked by
itself, once (`p2p.subclouds.evidence_documents`). `facts_of` makes of them what holds in all
subclouds: the declared country, GeoIP's, and that of landmarks, which the configuration names.
`with_evidence` adds what holds in one subcloud: attestations of its delegates, and measurements of
testers that its policy admits. The node calls the same functions for itself. What does not count is
left out, and what a policy misses it refuses.

A benchmark supports the speed of one model. It shows no GPU and no memory; it lifts the node's own
word on these to `BENCHMARKED` only where the policy asks for a speed, the owner having chosen one
that lesser machines do not reach, and the measurement reached it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from p2p.adverts import KnownAdvert, ModelAdvert
from p2p.certificates import Certificate
from p2p.network_configuration import ApprovedModel, NetworkConfiguration
from p2p.subclouds.evaluation import admits_model
from p2p.subclouds.evidence_documents import (
    KnownAttestation,
    KnownBenchmark,
    NodeEvidence,
    is_country,
)
from p2p.subclouds.evidence_messages import Attestation, BenchmarkStatement, LandmarkStatement
from p2p.subclouds.facts import Gpu, Hardware, NodeFacts, OfferedModel, Region, Speed, Standing
from p2p.subclouds.grades import HardwareGrade, RegionGrade
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.policy import SubcloudPolicy
from p2p.types import PeerId

LANDMARKS_MIN = 2
"""One could be mistaken or lie; two in one region bound the place better."""


# --- what holds everywhere ----------------------------------------------------------------------
def facts_of(
    known: KnownAdvert,
    evidence: NodeEvidence | None,
    configuration: NetworkConfiguration,
    now_ms: int,
    geo_country: str = "",
) -> NodeFacts:
    """Give what is known of a node, from its advert and its evidence (None: no statement).

    Args: geo_country: what the judging peer's GeoIP file says of its direct address, or empty.
    """
    advert = known.advert
    table = _models_of(configuration)
    speeds: dict[bytes, float] = {}
    if evidence is not None:
        statement = evidence.known.statement
        speeds = {speed.digest: speed.tokens_per_second for speed in statement.speeds}
    models = tuple(
        _offered(model, table.get(model.digest), speeds.get(model.digest))
        for model in advert.models
    )
    hardware: tuple[Hardware, ...] = ()
    if advert.hardware is not None:
        gpus = tuple(Gpu(gpu.name, gpu.memory_bytes) for gpu in advert.hardware.gpus)
        hardware = (Hardware(HardwareGrade.DECLARED, advert.hardware.memory_bytes, gpus),)
    issuers = (signed.peer_id for signed in advert.chain)
    banned = any(configuration.is_banned(peer_id) for peer_id in (advert.peer_id, *issuers))
    return NodeFacts(
        advert.peer_id,
        models,
        _regions(evidence, configuration, now_ms, geo_country) if evidence is not None else (),
        hardware,
        evidence is not None and evidence.known.statement.stores_no_content,
        banned,
    )


def _offered(
    advert: ModelAdvert, approved: ApprovedModel | None, declared: float | None
) -> OfferedModel:
    speed = declared if declared is not None and math.isfinite(declared) else None
    if approved is None:
        return OfferedModel(
            advert.digest,
            quantisation=advert.quantisation,
            modalities=advert.modalities or ("text",),
            verified=advert.verified,
            slots=advert.slots,
            tokens_per_second=speed,
        )
    return OfferedModel(
        advert.digest,
        approved.name,
        approved.version,
        approved.family,
        approved.quantisation or advert.quantisation,
        tuple(m for m in approved.modalities if m in (advert.modalities or ("text",))),
        advert.verified and approved.verified,
        advert.slots,
        speed,
        input_price=approved.input_microcredits_per_million_tokens,
        output_price=approved.output_microcredits_per_million_tokens,
    )


_newest: list[tuple[NetworkConfiguration, dict[bytes, ApprovedModel]]] = []


def _models_of(configuration: NetworkConfiguration) -> Mapping[bytes, ApprovedModel]:
    """The models of a configuration by digest; those of the last one asked for are kept."""
    entry = _newest[0] if _newest else None
    if entry is None or entry[0] is not configuration:
        table = {bytes.fromhex(model.digest): model for model in configuration.all_models}
        entry = (configuration, table)
        _newest[:] = [entry]
    return entry[1]


def _regions(
    evidence: NodeEvidence, configuration: NetworkConfiguration, now_ms: int, geo_country: str
) -> tuple[Region, ...]:
    statement = evidence.known.statement
    country = statement.country
    if not is_country(country):
        return ()
    regions = [Region(country, RegionGrade.DECLARED, statement.expires_ms)]
    if geo_country == country:
        regions.append(Region(country, RegionGrade.CONSISTENT, statement.expires_ms))
    elif geo_country:
        # Weak as it is, it contradicts: a policy that takes the node's word takes both or neither.
        regions.append(Region(geo_country, RegionGrade.DECLARED, statement.expires_ms))
    until_ms = _proven_until_ms(evidence.landmarks, country, configuration, now_ms)
    if until_ms > now_ms:
        regions.append(Region(country, RegionGrade.PROVEN, until_ms))
    return tuple(regions)


def _proven_until_ms(
    statements: Iterable[LandmarkStatement],
    country: str,
    configuration: NetworkConfiguration,
    now_ms: int,
) -> int:
    """Until when at least LANDMARKS_MIN different landmarks saw a node near; 0 if they do not."""
    bounds_us = {
        landmark.peer_id: landmark.round_trip_ms_max * 1000
        for landmark in configuration.landmarks
        if country in landmark.countries and not configuration.is_banned(PeerId(landmark.peer_id))
    }
    ends: dict[PeerId, int] = {}
    for statement in statements:
        bound_us = bounds_us.get(statement.landmark)
        if bound_us is None or statement.round_trip_us > bound_us:
            continue
        if statement.expires_ms > now_ms:
            ends[statement.landmark] = max(ends.get(statement.landmark, 0), statement.expires_ms)
    if len(ends) < LANDMARKS_MIN:
        return 0
    return sorted(ends.values(), reverse=True)[LANDMARKS_MIN - 1]


# --- what holds in one subcloud -------------------------------------------------------------------
def with_evidence(
    standing: Standing,
    policy: SubcloudPolicy,
    facts: NodeFacts,
    evidence: NodeEvidence | None,
    configuration: NetworkConfiguration,
    now_ms: int,
    revocations: RevocationList | None = None,
) -> Standing:
    """Add the evidence that counts in one subcloud to a node's standing there."""
    if evidence is None:
        return standing
    if evidence.attestations:
        standing = with_attestations(standing, policy, evidence.attestations, now_ms, revocations)
    if evidence.benchmarks:
        measured = _measured(policy, evidence, configuration, now_ms)
        lifted = _lifted_hardware(policy, facts, measured)
        standing = replace(
            standing, hardware=standing.hardware + lifted, speeds=standing.speeds + measured
        )
    return standing


def with_attestations(
    standing: Standing,
    policy: SubcloudPolicy,
    attestations: Iterable[KnownAttestation],
    now_ms: int,
    revocations: RevocationList | None = None,
) -> Standing:
    """Add what a policy's delegates attested of a node to its standing there."""
    revoked = frozenset(revocations.revoked_certificates) if revocations is not None else ()
    delegates = policy.delegate_public_keys
    attested = [
        known.document
        for known in attestations
        if known.signer in delegates
        and known.document.subcloud_id == policy.subcloud_id
        and known.document.attestation_id not in revoked
        and known.document.expires_ms > now_ms
    ]
    return replace(
        standing,
        regions=standing.regions + _attested_region(attested),
        hardware=standing.hardware + _attested_hardware(attested),
        speeds=standing.speeds + _attested_speeds(attested),
    )


def _attested_region(attested: Iterable[Attestation]) -> tuple[Region, ...]:
    """What the newest attestation of a country says: a node may have moved."""
    found = [document for document in attested if is_country(document.country)]
    if not found:
        return ()
    newest = max(found, key=lambda document: document.issued_ms)
    return (Region(newest.country, RegionGrade.ATTESTED, newest.expires_ms),)


def _attested_hardware(attested: Iterable[Attestation]) -> tuple[Hardware, ...]:
    found = [document for document in attested if document.memory_bytes or document.gpus]
    if not found:
        return ()
    newest = max(found, key=lambda document: document.issued_ms)
    gpus = tuple(Gpu(gpu.name, gpu.memory_bytes) for gpu in newest.gpus)
    return (Hardware(HardwareGrade.ATTESTED, newest.memory_bytes, gpus, newest.expires_ms),)


def _attested_speeds(attested: Iterable[Attestation]) -> tuple[Speed, ...]:
    """What the newest attestation of each model's speed says."""
    newest: dict[bytes, tuple[int, Speed]] = {}
    for document in attested:
        for said in document.speeds:
            before = newest.get(said.digest)
            if math.isfinite(said.tokens_per_second) and (
                before is None or document.issued_ms > before[0]
            ):
                speed = Speed(
                    said.digest,
                    said.tokens_per_second,
                    HardwareGrade.ATTESTED,
                    document.expires_ms,
                )
                newest[said.digest] = (document.issued_ms, speed)
    return tuple(speed for _, speed in newest.values())


def _measured(
    policy: SubcloudPolicy,
    evidence: NodeEvidence,
    configuration: NetworkConfiguration,
    now_ms: int,
) -> tuple[Speed, ...]:
    """The newest measurement of each model by each tester that counts."""
    newest: dict[tuple[bytes, PeerId], BenchmarkStatement] = {}
    for known in evidence.benchmarks:
        document = known.document
        issuers = (signed.peer_id for signed in document.chain)
        if document.expires_ms <= now_ms or any(
            configuration.is_banned(peer_id) for peer_id in (document.tester, *issuers)
        ):
            continue
        if not counts_for(policy, known, evidence.known.certificate, now_ms):
            continue
        key = (document.model_digest, document.tester)
        before = newest.get(key)
        if before is None or document.issued_ms > before.issued_ms:
            newest[key] = document
    return tuple(
        Speed(
            document.model_digest,
            document.tokens_per_second,
            HardwareGrade.BENCHMARKED,
            document.expires_ms,
        )
        for document in newest.values()
    )


def counts_for(
    policy: SubcloudPolicy, known: KnownBenchmark, node: Certificate, now_ms: int
) -> bool:
    """Tell whether a policy counts a tester: its delegates, and the gateways that it admits.

    A gateway of the node's own account is the node's own word, unless the account owns the
    subcloud. An account's own gateway, which nobody but the account vouches for, counts where the
    policy names it or its owner runs it.
    """
    if known.signer in policy.delegate_public_keys:
        return True
    gateway = known.gateway
    if gateway is None or gateway.expires_ms <= now_ms:
        return False
    if gateway.account_id == policy.owner:
        return policy.admits_gateway(gateway.peer_id, gateway.account_id)
    if gateway.account_id == node.account_id:
        return False
    rules = policy.gateways
    named = gateway.peer_id in rules.peers or gateway.account_id in rules.accounts
    if gateway.own_namespaces_only and not named:
        return False
    return policy.admits_gateway(gateway.peer_id, gateway.account_id)


def _lifted_hardware(
    policy: SubcloudPolicy, facts: NodeFacts, speeds: Iterable[Speed]
) -> tuple[Hardware, ...]:
    """The node's own word on its hardware, where a measured speed supports it (see above)."""
    least = policy.hardware.tokens_per_second_min
    if not least or not facts.hardware:
        return ()
    admitted = {model.digest for model in facts.models if admits_model(policy, model)}
    slowest: dict[bytes, Speed] = {}
    for speed in speeds:
        before = slowest.get(speed.digest)
        if speed.digest in admitted and (
            before is None or speed.tokens_per_second < before.tokens_per_second
        ):
            slowest[speed.digest] = speed
    ends = [speed.until_ms for speed in slowest.values() if speed.tokens_per_second >= least]
    if not ends:
        return ()
    return tuple(
        replace(hardware, grade=HardwareGrade.BENCHMARKED, until_ms=max(ends))
        for hardware in facts.hardware
        if hardware.grade is HardwareGrade.DECLARED
    )
