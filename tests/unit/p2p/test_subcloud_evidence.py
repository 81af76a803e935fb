"""Evidence about nodes: what counts, for whom, for how long, and what is worth nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.certificates import Certificate
from p2p.errors import MalformedError, P2PError, StaleError, UntrustedError
from p2p.hardware import GpuHardware
from p2p.signing import KeyPair, Signed
from p2p.subclouds.evaluation import evaluate
from p2p.subclouds.evidence import counts_for, facts_of, with_evidence
from p2p.subclouds.evidence_documents import KnownBenchmark, open_document, open_evidence
from p2p.subclouds.evidence_messages import BenchmarkStatement, DeclaredSpeed
from p2p.subclouds.facts import Gpu, NodeFacts, Standing
from p2p.subclouds.grades import HardwareGrade, RegionGrade
from p2p.subclouds.memberships import RevocationList
from p2p.types import PeerId, Role
from tests.fakes import subclouds
from tests.fakes.evidence import (
    AUTHORITY,
    DIGEST,
    FAR,
    GATEWAY,
    GATEWAY_ACCOUNT,
    HOUR_MS,
    NEAR,
    NEARER,
    NETWORK,
    NODE,
    NODE_ACCOUNT,
    NOW_MS,
    OTHER_NODE,
    POLICY,
    a_benchmark,
    a_configuration,
    a_landmark_statement,
    a_statement,
    an_advert,
    an_attestation,
    gateway_chain,
    node_certificate,
)
from tests.fakes.subclouds import DELEGATE, OWNER, a_standing

CONFIGURATION = a_configuration()
STRANGER = KeyPair(b"s" * 32)


def grades(*evidence: Signed, country: str = "DE", geo: str = "", now_ms: int = NOW_MS) -> Any:
    known = a_statement(*evidence, country=country)
    opened = open_evidence(known, NETWORK, now_ms)
    facts = facts_of(an_advert(), opened, CONFIGURATION, now_ms, geo)
    return {(region.country, region.grade.name.lower()) for region in facts.regions}


# --- documents by themselves ------------------------------------------------------------------
FOREIGN = [
    ("landmark of another node", a_landmark_statement(node=OTHER_NODE.peer_id), UntrustedError),
    ("landmark forged", a_landmark_statement(NEAR, STRANGER), UntrustedError),
    ("landmark over", a_landmark_statement(expires_ms=NOW_MS), StaleError),
    ("landmark for days", a_landmark_statement(expires_ms=NOW_MS + 48 * HOUR_MS), UntrustedError),
    ("itself a landmark", a_landmark_statement(NODE), UntrustedError),
    ("landmark to come", a_landmark_statement(issued_ms=NOW_MS + 10**6), StaleError),
    ("attests another node", an_attestation(node=OTHER_NODE.peer_id), UntrustedError),
    ("attestation over", an_attestation(expires_ms=NOW_MS), StaleError),
    ("attests for ever", an_attestation(expires_ms=NOW_MS + 9999 * HOUR_MS), UntrustedError),
    ("benchmark of another", a_benchmark(node=OTHER_NODE.peer_id), UntrustedError),
    ("benchmark forged", a_benchmark(GATEWAY, STRANGER), UntrustedError),
    ("benchmark over", a_benchmark(expires_ms=NOW_MS), StaleError),
    ("benchmarks itself", a_benchmark(NODE), UntrustedError),
    ("no speed", a_benchmark(tokens_per_second=0.0), MalformedError),
    ("another's certificate", a_benchmark(STRANGER, chain=gateway_chain()), UntrustedError),
    (
        "a bootstrap tests",
        a_benchmark(chain=gateway_chain(role=Role.BOOTSTRAP)),
        UntrustedError,
    ),
    ("no evidence", a_statement().signed, MalformedError),
]


@pytest.mark.parametrize(("signed", "error"), [c[1:] for c in FOREIGN], ids=[c[0] for c in FOREIGN])
def test_what_is_worth_nothing_is_refused(signed: Signed, error: type[P2PError]) -> None:
    with pytest.raises(error):
        open_document(signed, NETWORK, NODE.peer_id, NOW_MS)
    opened = open_evidence(a_statement(signed), NETWORK, NOW_MS)
    assert (opened.landmarks, opened.attestations, opened.benchmarks) == ((), (), ())


@given(st.data())
def test_a_changed_document_counts_no_more(data: st.DataObject) -> None:
    signed = data.draw(st.sampled_from([a_landmark_statement(), an_attestation(), a_benchmark()]))
    place = data.draw(st.integers(0, len(signed.body) - 1))
    flip = data.draw(st.integers(1, 255))
    body = bytearray(signed.body)
    body[place] ^= flip
    with pytest.raises(P2PError):
        open_document(replace(signed, body=bytes(body)), NETWORK, NODE.peer_id, NOW_MS)


# --- regions ------------------------------------------------------------------------------------
def test_the_grades_of_a_country() -> None:
    declared = ("DE", "declared")
    assert grades() == {declared}
    assert grades(country="") == set()
    assert grades(country="Germany"[:2]) == set()  # "Ge" is no code
    assert grades(geo="DE") == {declared, ("DE", "consistent")}
    assert grades(geo="US") == {declared, ("US", "declared")}
    both = (a_landmark_statement(NEAR), a_landmark_statement(NEARER))
    assert grades(*both) == {declared, ("DE", "proven")}
    assert grades(*both, geo="US") == {declared, ("US", "declared"), ("DE", "proven")}


@pytest.mark.parametrize(
    "statements",
    [
        (a_landmark_statement(NEAR),),
        (a_landmark_statement(NEAR), a_landmark_statement(NEAR, round_trip_us=3000)),
        (a_landmark_statement(NEAR), a_landmark_statement(FAR)),
        (a_landmark_statement(NEAR), a_landmark_statement(NEARER, round_trip_us=5001)),
        (a_landmark_statement(NEAR), a_landmark_statement(NEARER, expires_ms=NOW_MS + 1)),
        (a_landmark_statement(NEAR), a_landmark_statement(STRANGER)),
    ],
    ids=["one", "one twice", "other country", "too far", "one over", "no landmark"],
)
def test_less_than_two_landmarks_prove_nothing(statements: tuple[Signed, ...]) -> None:
    found = grades(*statements, now_ms=NOW_MS + 1)
    assert ("DE", "proven") not in found


def test_a_banned_landmark_does_not_count() -> None:
    opened = open_evidence(
        a_statement(a_landmark_statement(NEAR), a_landmark_statement(NEARER)), NETWORK, NOW_MS
    )
    configuration = a_configuration(banned_peers=[NEAR.peer_id])
    facts = facts_of(an_advert(), opened, configuration, NOW_MS)
    assert {region.grade for region in facts.regions} == {RegionGrade.DECLARED}


def test_proof_ends_with_the_second_landmark() -> None:
    end_ms = NOW_MS + 1000
    statements = (
        a_landmark_statement(NEAR),
        a_landmark_statement(NEARER, expires_ms=end_ms),
    )
    facts = facts_of(
        an_advert(), open_evidence(a_statement(*statements), NETWORK, NOW_MS), CONFIGURATION, NOW_MS
    )
    proven = [region for region in facts.regions if region.grade is RegionGrade.PROVEN]
    assert [region.until_ms for region in proven] == [end_ms]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([NEAR, NEARER, FAR, STRANGER]),
            st.sampled_from([3000, 5000, 5001]),
            st.sampled_from([1, HOUR_MS]),
        ),
        max_size=5,
    ),
    st.sampled_from(["DE", "FR", "US"]),
)
def test_proof_equals_the_obvious(seen: list[tuple[KeyPair, int, int]], country: str) -> None:
    statements = [
        a_landmark_statement(landmark, round_trip_us=trip_us, expires_ms=NOW_MS + left_ms)
        for landmark, trip_us, left_ms in seen
    ]
    now_ms = NOW_MS + 1
    places = {"DE": {NEAR, NEARER}, "FR": {NEAR, FAR}, "US": set()}[country]
    good = {
        landmark.peer_id
        for landmark, trip_us, left_ms in seen
        if landmark in places and trip_us <= 5000 and left_ms > 1
    }
    found = grades(*statements, country=country, now_ms=now_ms)
    assert ((country, "proven") in found) == (len(good) >= 2)


# --- models and machines --------------------------------------------------------------------------
def test_names_come_from_the_configuration_and_speed_from_the_node() -> None:
    opened = open_evidence(a_statement(stores_no_content=True), NETWORK, NOW_MS)
    facts = facts_of(an_advert(), opened, CONFIGURATION, NOW_MS)
    (model,) = facts.models
    assert (model.name, model.version, model.family) == ("model", "2", "llama")
    assert (model.quantisation, model.input_price, model.output_price) == ("Q8_0", 100, 200)
    assert model.tokens_per_second == 70.0
    assert model.tokens_per_second_grade is HardwareGrade.DECLARED
    assert facts.hardware[0].gpus == (Gpu("RTX 4090", 24),)
    assert facts.stores_no_content
    unknown = facts_of(an_advert(), None, a_configuration(models=[]), NOW_MS)
    assert unknown.models[0].name == ""
    assert unknown.models[0].input_price is None
    assert not unknown.regions
    lower = a_configuration().models[0].model_copy(update={"quantisation": "Q4_K_M"})
    told = facts_of(an_advert(), None, a_configuration(models=[lower.model_dump()]), NOW_MS)
    assert told.models[0].quantisation == "Q4_K_M"  # the authority's word goes before the node's


@pytest.mark.parametrize("banned", [NODE.peer_id, KeyPair(b"a" * 32).peer_id])
def test_a_banned_node_or_issuer(banned: PeerId) -> None:
    configuration = a_configuration(banned_peers=[banned])
    assert facts_of(an_advert(), None, configuration, NOW_MS).banned


# --- in one subcloud ------------------------------------------------------------------------------
def standing_with(*evidence: Signed, policy: Any = POLICY, **more: Any) -> Standing:
    opened = open_evidence(a_statement(*evidence), NETWORK, NOW_MS)
    facts = facts_of(an_advert(), opened, CONFIGURATION, NOW_MS)
    return with_evidence(Standing(), policy, facts, opened, CONFIGURATION, NOW_MS, **more)


def test_a_delegate_attests_for_its_own_subcloud() -> None:
    standing = standing_with(an_attestation())
    assert [(r.country, r.grade) for r in standing.regions] == [("DE", RegionGrade.ATTESTED)]
    assert standing.hardware[0].grade is HardwareGrade.ATTESTED
    assert standing.hardware[0].gpus == (Gpu("A100", 80),)
    other = subclouds.a_policy("other").subcloud_id
    for worthless in (an_attestation(STRANGER), an_attestation(subcloud_id=other)):
        assert standing_with(worthless) == Standing()
    revoked = RevocationList(POLICY.identity, 1, NOW_MS, revoked_certificates=(b"i" * 16,))
    assert standing_with(an_attestation(), revocations=revoked) == Standing()


def test_the_newest_attestation_counts() -> None:
    older = an_attestation(country="US", issued_ms=NOW_MS - 1, gpus=())
    newer = an_attestation(attestation_id=b"j" * 16, country="FR", gpus=())
    standing = standing_with(newer, older)
    assert [region.country for region in standing.regions] == ["FR"]
    assert standing.hardware == ()
    hardware = an_attestation(country="", gpus=(GpuHardware("H100", 80),), attestation_id=b"k" * 16)
    both = standing_with(newer, hardware)
    assert [region.country for region in both.regions] == ["FR"]
    assert both.hardware[0].gpus == (Gpu("H100", 80),)


def test_attested_speeds() -> None:
    older = an_attestation(issued_ms=NOW_MS - 1, speeds=(DeclaredSpeed(DIGEST, 90.0),))
    newer = an_attestation(attestation_id=b"j" * 16, speeds=(DeclaredSpeed(DIGEST, 30.0),))
    standing = standing_with(older, newer, a_benchmark())
    assert {(s.tokens_per_second, s.grade) for s in standing.speeds} == {
        (50.0, HardwareGrade.BENCHMARKED),
        (30.0, HardwareGrade.ATTESTED),
    }


def test_who_may_test() -> None:
    def known(signer: KeyPair, certificate: Certificate | None) -> KnownBenchmark:
        document = BenchmarkStatement(
            b"b" * 16, signer.peer_id, NODE.peer_id, DIGEST, 5.0, 1, 20, NOW_MS, NOW_MS + 1
        )
        return KnownBenchmark(document, signer.public_key, certificate)

    def gateway(account: Any = GATEWAY_ACCOUNT, *, own: bool = False) -> Certificate:
        return Certificate(
            NETWORK, GATEWAY.peer_id, Role.GATEWAY, account, 0, NOW_MS + HOUR_MS, own
        )

    def counts(policy: Any, signer: KeyPair, certificate: Certificate | None) -> bool:
        return counts_for(policy, known(signer, certificate), node_certificate(), NOW_MS)

    named = POLICY.model_copy(
        update={"gateways": POLICY.gateways.model_copy(update={"peers": (GATEWAY.peer_id,)})}
    )
    others = POLICY.model_copy(
        update={"gateways": POLICY.gateways.model_copy(update={"peers": (NEAR.peer_id,)})}
    )
    private = POLICY.model_copy(update={"join": "private"})
    assert counts(POLICY, DELEGATE, None)
    assert not counts(POLICY, STRANGER, None)
    assert counts(POLICY, GATEWAY, gateway())
    assert counts(named, GATEWAY, gateway(own=True))
    assert not counts(POLICY, GATEWAY, gateway(own=True))
    assert not counts(others, GATEWAY, gateway())
    assert not counts(POLICY, GATEWAY, gateway(NODE_ACCOUNT))  # the node's own word
    assert not counts(private, GATEWAY, gateway())
    assert counts(private, GATEWAY, gateway(OWNER, own=True))
    assert not counts(POLICY, GATEWAY, replace(gateway(), expires_ms=NOW_MS))


def asking(**floor: Any) -> Any:
    return subclouds.a_policy(
        delegate_keys=(DELEGATE.public_key.hex(),),
        expires_ms=2 * NOW_MS,
        hardware={"evidence": "benchmarked", **floor},
    )


def test_a_benchmark_supports_the_speed_and_lifts_the_word_on_hardware() -> None:
    policy = asking(tokens_per_second_min=40, gpu={"kind": "4090"})
    standing = standing_with(a_benchmark(), policy=policy)
    assert [(s.digest, s.tokens_per_second, s.grade) for s in standing.speeds] == [
        (DIGEST, 50.0, HardwareGrade.BENCHMARKED)
    ]
    assert [h.grade for h in standing.hardware] == [HardwareGrade.BENCHMARKED]
    assert standing.hardware[0].until_ms == NOW_MS + HOUR_MS
    # Without a speed that the owner chose, a benchmark says nothing about the machine.
    assert standing_with(a_benchmark(), policy=asking(gpu={"kind": "4090"})).hardware == ()
    too_fast = asking(tokens_per_second_min=60, gpu={})
    assert standing_with(a_benchmark(), policy=too_fast).hardware == ()
    other_model = a_benchmark(model_digest=b"\x08" * 32)
    assert standing_with(other_model, policy=policy).hardware == ()


def test_the_slower_of_two_testers_counts_and_the_newer_of_one() -> None:
    policy = asking(tokens_per_second_min=40, gpu={})
    delegate = a_benchmark(DELEGATE, tokens_per_second=30.0, chain=())
    assert standing_with(a_benchmark(), delegate, policy=policy).hardware == ()
    again = a_benchmark(tokens_per_second=80.0, issued_ms=NOW_MS + 1, expires_ms=NOW_MS + HOUR_MS)
    standing = standing_with(again, a_benchmark(), policy=policy)
    assert [speed.tokens_per_second for speed in standing.speeds] == [80.0]


@pytest.mark.parametrize("banned", [GATEWAY.peer_id, AUTHORITY.peer_id])
def test_a_banned_tester_or_issuer_does_not_count(banned: PeerId) -> None:
    opened = open_evidence(a_statement(a_benchmark()), NETWORK, NOW_MS)
    configuration = a_configuration(banned_peers=[banned])
    facts = facts_of(an_advert(), opened, configuration, NOW_MS)
    assert with_evidence(Standing(), POLICY, facts, opened, configuration, NOW_MS) == Standing()


def test_own_measurements_count_at_once() -> None:
    opened = open_evidence(a_statement(), NETWORK, NOW_MS, own=(a_benchmark(),))
    assert [known.document.tester for known in opened.benchmarks] == [GATEWAY.peer_id]


@pytest.mark.parametrize("country", ["DE", "FR", "US"])
@pytest.mark.parametrize("evidence", ["declared", "consistent", "proven", "attested"])
def test_evidence_decides_who_qualifies(country: str, evidence: str) -> None:
    """From documents to the verdict: only what was shown well enough, of the right country."""
    shown = (a_landmark_statement(NEAR), a_landmark_statement(NEARER))
    opened = open_evidence(a_statement(*shown), NETWORK, NOW_MS)
    facts = facts_of(an_advert(), opened, CONFIGURATION, NOW_MS)
    policy = subclouds.a_policy(
        delegate_keys=(DELEGATE.public_key.hex(),),
        expires_ms=2 * NOW_MS,
        regions={"allow": (country,), "evidence": evidence},
    )
    member = a_standing(until_ms=2 * NOW_MS)
    standing = with_evidence(member, policy, facts, opened, CONFIGURATION, NOW_MS)
    verdict = evaluate(policy, "d", judged(facts, standing), NOW_MS)
    assert verdict.qualifies == (country == "DE" and evidence != "attested")


def judged(facts: NodeFacts, standing: Standing) -> NodeFacts:
    return replace(facts, standing=standing)
