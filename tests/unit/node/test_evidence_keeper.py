"""What a node keeps and shows of what others say about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node.limits import EVIDENCE_DOCUMENTS_MAX
from node.subclouds.evidence_keeper import EvidenceKeeper, give_to_inbox
from p2p.errors import P2PError, RefusedError, StaleError, UntrustedError
from p2p.limits import EVIDENCE_BYTES_MAX
from p2p.signing import KeyPair, Signed
from p2p.subclouds.memberships import EVIDENCE_PER_NODE_MAX
from tests.fakes.clocks import FakeClock
from tests.fakes.evidence import (
    HOUR_MS,
    NEAR,
    NETWORK,
    NODE,
    NOW_MS,
    OTHER_NODE,
    a_benchmark,
    a_landmark_statement,
    an_attestation,
    gateway_chain,
)


class Network:
    """Only its ID is asked for."""

    network_id = NETWORK


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock(NOW_MS)
        self.changes = 0
        self.keeper = self.open()

    def open(self) -> EvidenceKeeper:
        configuration: Any = object()
        return EvidenceKeeper(
            Network(),  # type: ignore[arg-type]
            NODE,
            configuration,
            clock_ms=self.clock,
            folder=self.folder,
            country=lambda: "DE",
            on_change=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def many_benchmarks(count: int) -> list[Signed]:
    """Benchmarks of many gateways; each ends a second after the one before."""
    keys = (KeyPair(number.to_bytes(32, "big")) for number in range(1, count + 1))
    return [
        a_benchmark(key, chain=gateway_chain(key), expires_ms=NOW_MS + HOUR_MS + 1000 * place)
        for place, key in enumerate(keys)
    ]


def test_what_is_good_is_kept_over_a_restart(world: World) -> None:
    documents = [a_landmark_statement(), an_attestation(), a_benchmark()]
    lines = [world.keeper.add(signed) for signed in documents]
    assert ["landmark" in lines[0], "DE" in lines[1], "50.0 tokens/s" in lines[2]] == [True] * 3
    assert set(world.keeper.documents()) == set(documents)
    assert world.changes == 3
    world.keeper.add(documents[1])
    assert world.changes == 3  # nothing new
    assert set(world.open().documents()) == set(documents)


@pytest.mark.parametrize(
    "signed",
    [
        an_attestation(node=OTHER_NODE.peer_id),
        an_attestation(expires_ms=NOW_MS),
        a_landmark_statement(NEAR, OTHER_NODE),
        a_benchmark(tester=NODE),
    ],
)
def test_what_is_not_about_this_node_is_refused(world: World, signed: Signed) -> None:
    with pytest.raises(UntrustedError):
        world.keeper.add(signed)
    give_to_inbox(world.folder, signed)
    world.keeper.take_inbox()
    assert world.keeper.documents() == ()
    assert world.changes == 0


def test_the_operators_files_are_taken(world: World) -> None:
    give_to_inbox(world.folder, an_attestation())
    (world.folder / "inbox" / "bad.evidence").write_bytes(b"nonsense")
    (world.folder / "inbox" / "large.evidence").write_bytes(bytes(10**6))
    world.keeper.take_inbox()
    assert world.keeper.documents() == (an_attestation(),)
    assert list((world.folder / "inbox").iterdir()) == []


def test_newer_replaces_older_and_never_the_other_way(world: World) -> None:
    older, newer = an_attestation(), an_attestation(issued_ms=NOW_MS + 1, country="FR")
    world.keeper.add(newer)
    with pytest.raises(StaleError):
        world.keeper.add(older)
    world.keeper.add(an_attestation(country="", attestation_id=b"h" * 16))  # of another kind
    assert len(world.keeper.documents()) == 2


def test_what_is_shown_fits_a_statement(world: World) -> None:
    for signed in many_benchmarks(30):
        world.keeper.add(signed)
    world.keeper.add(a_landmark_statement())
    world.keeper.add(an_attestation())
    shown = world.keeper.documents()
    assert set(shown) >= {a_landmark_statement(), an_attestation()}  # before all benchmarks
    assert len(shown) <= EVIDENCE_PER_NODE_MAX
    assert sum(len(signed.body) + 96 for signed in shown) <= EVIDENCE_BYTES_MAX


def test_benchmarks_make_room_attestations_do_not(world: World) -> None:
    documents = many_benchmarks(EVIDENCE_DOCUMENTS_MAX)
    for signed in documents:
        world.keeper.add(signed)
    world.keeper.add(an_attestation())
    assert documents[0] not in [kept[0] for kept in world.keeper._kept.values()]
    for number in range(EVIDENCE_DOCUMENTS_MAX - 1):
        signer = KeyPair((1000 + number).to_bytes(32, "big"))
        world.keeper.add(an_attestation(signer))
    with pytest.raises(RefusedError):
        world.keeper.add(an_attestation(KeyPair(b"z" * 32)))


def test_what_is_over_is_shown_no_more(world: World) -> None:
    world.keeper.add(an_attestation())
    world.clock.now_ms += HOUR_MS
    assert world.keeper.documents() == ()
    assert world.open().documents() == ()


def test_a_damaged_file_does_not_stop_the_node(world: World) -> None:
    (world.folder / "evidence.msgpack").write_bytes(b"\xc1")
    keeper = world.open()
    assert keeper.documents() == ()
    try:
        keeper.add(an_attestation())
    except P2PError:
        pytest.fail("and goes on")
