"""What a gateway knows of nodes: GeoIP by the direct address, own benchmarks at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.subclouds.evidence import EvidenceDesk
from p2p.adverts import KnownAdvert
from p2p.subclouds.facts import Standing
from p2p.subclouds.grades import HardwareGrade, RegionGrade
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.records import KnownPolicy
from tests.fakes.clocks import FakeClock
from tests.fakes.evidence import (
    DIGEST,
    NETWORK,
    NODE,
    NOW_MS,
    POLICY,
    a_benchmark,
    a_configuration,
    a_statement,
    an_advert,
    an_attestation,
)

KNOWN: Any = KnownPolicy(POLICY, "d", None, None)  # type: ignore[arg-type]


class Book:
    """A configuration book that knows one."""

    known = True
    current = a_configuration()


class Geo:
    """A GeoIP file of one address."""

    def country_of(self, address: str) -> str:
        return "DE" if address == "192.0.2.1" else ""


class World:
    def __init__(self) -> None:
        self.advert: KnownAdvert | None = an_advert()
        self.address = "192.0.2.1"
        self.clock = FakeClock(NOW_MS)
        self.revocations: RevocationList | None = None
        self.desk = EvidenceDesk(
            NETWORK,
            Book(),  # type: ignore[arg-type]
            advert_of=lambda peer_id: self.advert,
            address_of=lambda peer_id: self.address,
            revocations_of=lambda known: self.revocations,
            clock_ms=self.clock,
            geo=Geo(),  # type: ignore[arg-type]
        )

    def grades(self) -> set[RegionGrade]:
        facts = self.desk.facts_of(NODE.peer_id, self.clock())
        assert facts is not None
        return {region.grade for region in facts.regions}

    def standing(self) -> Standing:
        facts = self.desk.facts_of(NODE.peer_id, self.clock())
        assert facts is not None
        return self.desk.complete(KNOWN, Standing(), facts, self.clock())


def test_the_direct_address_makes_a_country_consistent() -> None:
    world = World()
    assert world.grades() == set()  # no statement yet
    world.desk.stated(a_statement())
    assert world.grades() == {RegionGrade.DECLARED, RegionGrade.CONSISTENT}
    world.address = ""  # relayed, or no connection
    assert world.grades() == {RegionGrade.DECLARED}
    world.address = "10.0.0.1"
    assert world.grades() == {RegionGrade.DECLARED}


def test_a_statement_that_is_over_brings_nothing() -> None:
    world = World()
    world.desk.stated(a_statement())
    world.clock.now_ms = a_statement().statement.expires_ms
    assert world.grades() == set()


def test_a_node_that_is_gone_is_forgotten() -> None:
    world = World()
    world.desk.stated(a_statement())
    world.advert = None
    world.clock.now_ms = a_statement().statement.expires_ms
    assert world.desk.facts_of(NODE.peer_id, world.clock()) is None
    assert world.desk.evidence_of(NODE.peer_id) is None


def test_a_statement_may_come_before_the_advert() -> None:
    world = World()
    advert, world.advert = world.advert, None
    world.desk.stated(a_statement())
    assert world.desk.facts_of(NODE.peer_id, NOW_MS) is None
    world.advert = advert
    assert world.grades() == {RegionGrade.DECLARED, RegionGrade.CONSISTENT}


def test_attestations_and_their_revocation() -> None:
    world = World()
    world.desk.stated(a_statement(an_attestation()))
    assert [region.country for region in world.standing().regions] == ["DE"]
    world.revocations = RevocationList(
        POLICY.identity, 1, NOW_MS, revoked_certificates=(b"i" * 16,)
    )
    assert world.standing() == Standing()


def test_own_measurements_count_before_the_node_shows_them() -> None:
    world = World()
    world.desk.stated(a_statement())
    assert world.standing().speeds == ()
    world.desk.add_own(NODE.peer_id, DIGEST, a_benchmark())
    assert [speed.grade for speed in world.standing().speeds] == [HardwareGrade.BENCHMARKED]
    world.desk.stated(a_statement(sequence=2))  # also with the next statement
    assert world.standing().speeds


def test_evidence_is_opened_once_while_it_stays_the_same() -> None:
    world = World()
    world.desk.stated(a_statement(an_attestation()))
    first = world.desk.evidence_of(NODE.peer_id)
    world.desk.stated(a_statement(an_attestation(), sequence=2, country="FR"))
    second = world.desk.evidence_of(NODE.peer_id)
    assert first is not None
    assert second is not None
    assert second.attestations is first.attestations
    assert second.known.statement.country == "FR"
    world.desk.stated(a_statement(sequence=3))
    third = world.desk.evidence_of(NODE.peer_id)
    assert third is not None
    assert third.attestations == ()


def test_conduct_is_added(tmp_path: Path) -> None:
    world = World()
    world.desk._conduct = lambda known, standing, facts, now_ms: Standing(suspended_until_ms=7)
    assert world.standing().suspended_until_ms == 7
