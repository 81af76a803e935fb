"""A node among strangers who register as many names, and sign as many papers, as they like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from node.subclouds.limits import MATCHED_MAX
from node.subclouds.membership_rules import Candidate, decide, judge
from node.subclouds.service import SubcloudService
from node.subclouds.settings import SubcloudSettings
from p2p.codec import decode_message, encode_messages
from p2p.limits import MEMBERSHIPS_PER_NODE_MAX
from p2p.signing import KeyPair, Signed
from p2p.subclouds.directory_messages import SubcloudQuestion
from p2p.subclouds.evidence_messages import Attestation
from p2p.subclouds.identity import SubcloudId, label_of
from p2p.subclouds.membership_standing import SubcloudState
from tests.fakes.clocks import FakeClock
from tests.fakes.member_nodes import NODE, a_candidate, a_certificate, a_state, known_policy, own
from tests.fakes.subclouds import DELEGATE, NETWORK, NOW_MS, a_policy, identity_of


def matched(kept: set[SubcloudId], known: list[SubcloudId]) -> dict[SubcloudId, str]:
    manager: Any = SimpleNamespace(
        settings=SubcloudSettings(("*",)), kept=SimpleNamespace(memberships=kept)
    )
    by_label = {label_of(identity): identity for identity in known}
    book = SimpleNamespace(
        all=lambda: [SimpleNamespace(identity=identity) for identity in known],
        on_change=lambda listener: None,
    )
    sync: Any = SimpleNamespace(book=book, resolve=by_label.get)
    nowhere: Any = None
    service = SubcloudService(manager, sync, nowhere, Path("unused"), clock_ms=FakeClock())
    return service._matched_labels()


def test_names_that_others_register_push_no_membership_out() -> None:
    mine = identity_of("zebra")
    strangers = [identity_of(f"aaa-{number}") for number in range(2 * MATCHED_MAX)]
    assert mine not in matched(set(), [*strangers, mine])  # there is a bound
    found = matched({mine}, [*strangers, mine])
    assert found[mine] == "zebra"
    assert len(found) == MATCHED_MAX


async def test_delegates_of_other_subclouds_crowd_nothing_out() -> None:
    """Anybody may found a subcloud and hand papers for any node to the bootstraps."""
    state = a_state(join="semi-open", regions={"allow": ("DE",), "evidence": "attested"})
    mine, stranger = state.known, KeyPair(b"s" * 32)
    theirs = [identity_of(f"other-{number}") for number in range(100)]
    junk = [a_certificate(identity, key=stranger) for identity in theirs[:64]]

    def vouched(identity: SubcloudId, key: KeyPair) -> Signed:
        times = (NOW_MS, NOW_MS + 100_000)
        document = Attestation(bytes(16), identity, NODE.peer_id, *times, country="DE")
        return key.sign(NETWORK, document)

    genuine = [a_certificate(mine.identity), vouched(mine.identity, DELEGATE)]
    forged = [vouched(mine.identity, stranger), vouched(theirs[0], stranger)]

    class Link:
        async def call(self, method: str, body: bytes) -> bytes:
            name = decode_message(body, SubcloudQuestion).name
            assert name in ("", mine.identity)
            return encode_messages([*genuine, *forged] if name else junk)

    manager: Any = SimpleNamespace(
        names=SimpleNamespace(named={mine.identity}),
        kept=SimpleNamespace(memberships={}),
        certificates={},
        changed=lambda: None,
    )
    book = SimpleNamespace(get={mine.identity: mine}.get, on_change=lambda listener: None)
    anything: Any = SimpleNamespace(book=book)
    service = SubcloudService(manager, anything, anything, Path("unused"), clock_ms=lambda: NOW_MS)
    shown: list[Signed] = []
    service.on_evidence = shown.append
    link: Any = Link()
    await service._collect(link)
    assert manager.certificates == {mine.identity: (genuine[0],)}
    assert shown == [genuine[1]]


def test_what_a_pattern_matches_takes_no_place_from_what_the_operator_names() -> None:
    labels = [f"a{number:02}" for number in range(MEMBERSHIPS_PER_NODE_MAX)]
    states = [SubcloudState(known_policy(a_policy(label))) for label in labels]
    strangers = [Candidate(s.known.identity, matched=True, state=s) for s in states]
    candidates = [replace(c, kept=judge(c, own(), NOW_MS).kept) for c in strangers]
    wanted = a_candidate(SubcloudState(known_policy(a_policy("wanted"))))
    assert wanted.named
    findings = {f.identity: f for f in decide([*candidates, wanted], own(), NOW_MS)}
    assert findings[wanted.identity].kept is not None
    assert sum(f.kept is not None for f in findings.values()) == MEMBERSHIPS_PER_NODE_MAX
