"""What a node joins, keeps, asks for and leaves: the rules, by example and by property."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.subclouds.limits import UNMET_GRACE_S
from node.subclouds.membership_changes import changes_between
from node.subclouds.membership_rules import (
    OTHERS_JUDGE,
    Candidate,
    Kept,
    State,
    decide,
    judge,
)
from p2p.limits import MEMBERSHIPS_PER_NODE_MAX
from p2p.signing import KeyPair
from p2p.subclouds.evaluation import evaluate
from p2p.subclouds.facts import NodeFacts, Region
from p2p.subclouds.grades import RegionGrade
from p2p.subclouds.membership_standing import SubcloudState, isolates_now, membership_standing
from p2p.subclouds.memberships import Membership, RevocationList
from p2p.types import PeerId
from tests.fakes import subclouds
from tests.fakes.member_nodes import (
    NODE,
    a_candidate,
    a_certificate,
    a_member,
    a_state,
    known_policy,
    own,
)
from tests.fakes.subclouds import NOW_MS, a_model, a_policy, identity_of

GRACE_MS = int(UNMET_GRACE_S * 1000)


# --- open ---------------------------------------------------------------------------------------
def test_joins_an_open_subcloud_under_the_policy_in_force() -> None:
    candidate = a_candidate()
    found = judge(candidate, own(), NOW_MS)
    assert found.state is State.MEMBER
    assert found.kept is not None
    assert candidate.state is not None
    assert found.kept.membership.policy_digest.hex() == candidate.state.known.digest
    assert found.models == {a_model().digest}
    assert not found.kept.membership.isolates


def test_joins_by_a_pattern_what_is_open_only() -> None:
    matched: dict[str, Any] = {"named": False, "matched": True}
    assert judge(a_candidate(**matched), own(), NOW_MS).state is State.MEMBER
    semi_open = judge(a_candidate(a_state(join="semi-open"), **matched), own(), NOW_MS)
    assert (semi_open.state, semi_open.ask) == (State.OUT, False)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"unwanted": True}, "the operator left it"),
        ({"named": False}, "the settings do not name it (any more)"),
        ({"closed": "the network's authority has banned it"}, "the network's authority"),
    ],
)
def test_leaves_what_is_not_wanted_or_not_allowed(fields: dict[str, Any], reason: str) -> None:
    member = a_member(a_state())
    found = judge(replace(member, **fields), own(), NOW_MS)
    assert (found.state, found.kept) == (State.OUT, None)
    assert found.reason.startswith(reason)


def test_leaves_at_once_what_has_ended_and_later_what_has_expired() -> None:
    member = a_member(a_state())
    ended = replace(member, state=a_state(ended=True))
    assert judge(ended, own(), NOW_MS).kept is None
    later_ms = 3 * NOW_MS  # the policy has expired
    found = judge(member, own(), later_ms)
    assert found.state is State.SUSPENDED
    assert found.kept is not None
    waiting = replace(member, kept=found.kept)
    assert judge(waiting, own(), later_ms + GRACE_MS - 1).state is State.SUSPENDED
    assert judge(waiting, own(), later_ms + GRACE_MS).kept is None


def test_keeps_the_membership_without_its_policy_but_takes_nothing() -> None:
    member = a_member(a_state())
    found = judge(replace(member, state=None), own(), NOW_MS)
    assert (found.state, found.kept, found.models) == (State.SUSPENDED, member.kept, frozenset())
    fresh = judge(replace(member, state=None, kept=None), own(), NOW_MS)
    assert (fresh.state, fresh.kept) == (State.WAITING, None)


def test_agrees_to_a_new_version_only_if_it_meets_it() -> None:
    member = a_member(a_state())
    assert member.kept is not None
    agreed = judge(replace(member, state=a_state(version=2, **_after())), own(), NOW_MS)
    assert agreed.kept is not None
    assert agreed.kept.membership.policy_digest != member.kept.membership.policy_digest
    wants = {"digests": (subclouds.DIGESTS[1].hex(),)}
    unmet = judge(
        replace(member, state=a_state(version=2, models=wants, **_after())), own(), NOW_MS
    )
    assert unmet.state is State.SUSPENDED
    assert unmet.kept is not None
    assert unmet.kept.membership.policy_digest == member.kept.membership.policy_digest


def _after() -> dict[str, Any]:
    return {"predecessor_digest": "0" * 64}


def test_leaves_at_once_for_what_does_not_pass_by_itself() -> None:
    state = a_state(regions={"allow": ("DE",)})
    at_home = own(regions=(Region("DE", RegionGrade.ATTESTED),))
    candidate = a_candidate(state)
    kept = judge(candidate, at_home, NOW_MS).kept
    assert kept is not None
    abroad = own(regions=(Region("US", RegionGrade.ATTESTED),))
    found = judge(replace(candidate, kept=kept), abroad, NOW_MS)
    assert found.state is State.OUT
    assert found.reason == "region: wanted ((DE), (), declared), found ((US, attested))"


def test_comes_back_when_a_model_does_within_the_grace() -> None:
    member = a_member(a_state())
    gone = judge(member, own(models=()), NOW_MS)
    assert gone.state is State.SUSPENDED
    assert gone.kept is not None
    assert gone.kept.unmet_ms == NOW_MS
    back = judge(replace(member, kept=gone.kept), own(), NOW_MS + 1000)
    assert back.state is State.MEMBER
    assert back.kept is not None
    assert back.kept.unmet_ms == 0


def test_what_others_judge_keeps_nobody_from_joining() -> None:
    state = a_state(
        trust={"reputation_min": 9000, "jobs_min": 10}, service={"first_token_ms_max": 100}
    )
    found = judge(a_candidate(state), own(), NOW_MS)
    assert (found.state, found.models) == (State.MEMBER, frozenset({a_model().digest}))


def test_stays_out_for_the_cooldown() -> None:
    state = a_state(cooldown_s=100)
    candidate = a_candidate(state, left_ms=NOW_MS)
    found = judge(candidate, own(), NOW_MS + 99_999)
    assert found.kept is None
    assert found.reason == "its cooldown of 100 s lasts until 1970-01-01 00:18 UTC"
    assert found.until_ms == NOW_MS + 100_000
    assert judge(candidate, own(), NOW_MS + 100_000).state is State.MEMBER


# --- isolation ----------------------------------------------------------------------------------
def test_isolates_only_with_a_consent_that_names_it() -> None:
    state = a_state(isolate=True)
    without = judge(a_candidate(state), own(), NOW_MS)
    assert without.kept is None
    assert "did not consent" in without.reason
    with_consent = judge(a_candidate(state, isolate=True), own(), NOW_MS)
    assert with_consent.kept is not None
    assert with_consent.kept.membership.isolates
    pointless = judge(a_candidate(a_state(), isolate=True), own(), NOW_MS)
    assert pointless.kept is not None
    assert not pointless.kept.membership.isolates


def test_leaves_when_a_new_version_isolates_without_consent() -> None:
    member = a_member(a_state())
    found = judge(
        replace(member, state=a_state(version=2, isolate=True, **_after())), own(), NOW_MS
    )
    assert (found.state, found.kept) == (State.OUT, None)


def test_is_isolated_for_one_subcloud_only_and_the_first_stays() -> None:
    first = a_member(a_state(isolate=True), isolate=True)
    other = SubcloudState(known_policy(a_policy("aaa", isolate=True)))
    second = Candidate(identity_of("aaa"), named=True, isolate=True, state=other)
    findings = {f.identity: f for f in decide([second, first], own(), NOW_MS)}
    assert findings[first.identity].kept is not None
    assert findings[second.identity].kept is None
    assert "isolated for another" in findings[second.identity].reason


def test_has_a_bounded_number_of_memberships_and_the_old_ones_stay() -> None:
    labels = [f"s{number:02}" for number in range(MEMBERSHIPS_PER_NODE_MAX + 3)]
    states = [SubcloudState(known_policy(a_policy(label))) for label in labels]
    candidates = [Candidate(s.known.identity, named=True, state=s) for s in states]
    last = candidates[-1]
    candidates[-1] = replace(last, kept=judge(last, own(), NOW_MS).kept)
    findings = decide(candidates, own(), NOW_MS)
    members = {f.identity for f in findings if f.kept}
    assert len(members) == MEMBERSHIPS_PER_NODE_MAX
    assert last.identity in members


# --- certificates -------------------------------------------------------------------------------
def test_asks_a_semi_open_subcloud_and_joins_with_the_certificate() -> None:
    state = a_state(join="semi-open")
    asking = judge(a_candidate(state), own(), NOW_MS)
    assert (asking.state, asking.ask, asking.kept) == (State.ASKING, True, None)
    certificate = a_certificate(state.known.identity)
    found = judge(a_candidate(state, certificates=(certificate,)), own(), NOW_MS)
    assert found.kept is not None
    assert found.kept.membership.certificate == certificate
    assert (found.state, found.ask) == (State.MEMBER, False)


def test_does_not_ask_where_it_would_not_qualify_or_was_denied() -> None:
    state = a_state(join="semi-open")
    unfit = judge(a_candidate(state), own(models=()), NOW_MS)
    assert (unfit.state, unfit.ask) == (State.WAITING, False)
    denied = judge(a_candidate(state, denied_ms=NOW_MS + 1), own(), NOW_MS)
    assert (denied.ask, denied.reason) == (False, "its owner denied the request")
    assert judge(a_candidate(state, denied_ms=NOW_MS), own(), NOW_MS).ask


def test_a_private_subcloud_needs_an_invitation() -> None:
    found = judge(a_candidate(a_state(join="private")), own(), NOW_MS)
    assert (found.ask, found.reason) == (False, "it needs an invitation")


def test_renews_a_certificate_in_its_last_third_and_takes_the_longer_one() -> None:
    state = a_state(join="semi-open")
    member = a_member(state, certificates=(a_certificate(state.known.identity),))
    assert not judge(member, own(), NOW_MS + 199_999).ask
    due = judge(member, own(), NOW_MS + 200_000)
    assert due.ask
    assert due.state is State.MEMBER
    newer = a_certificate(state.known.identity, issued_ms=NOW_MS + 200_000, number=2)
    renewed = judge(replace(member, certificates=(newer,)), own(), NOW_MS + 200_000)
    assert renewed.kept is not None
    assert renewed.kept.membership.certificate == newer
    assert not renewed.ask


def test_drops_a_revoked_membership_at_once_but_waits_for_a_late_list() -> None:
    state = a_state(join="semi-open")
    identity = state.known.identity
    member = a_member(state, certificates=(a_certificate(identity),))
    revoked = RevocationList(identity, 2, NOW_MS, revoked_certificates=(b"\x01" * 16,))
    found = judge(replace(member, state=replace(state, revocations=revoked)), own(), NOW_MS)
    assert (found.kept, found.reason) == (None, "its owner revoked the membership")
    late = judge(replace(member, state=replace(state, revocations=None)), own(), NOW_MS)
    assert late.state is State.SUSPENDED
    assert late.kept is not None
    assert not late.kept.unmet_ms
    assert late.models == frozenset()


@pytest.mark.parametrize(
    "certificate",
    [
        a_certificate(identity_of("team"), key=KeyPair(b"x" * 32)),
        a_certificate(identity_of("team"), peer_id=PeerId("another")),
        a_certificate(identity_of("other")),
        a_certificate(identity_of("team"), issued_ms=0, life_ms=NOW_MS),
    ],
    ids=["not a delegate", "another node", "another subcloud", "expired"],
)
def test_a_bad_certificate_is_none(certificate: Any) -> None:
    state = a_state(join="semi-open")
    found = judge(a_candidate(state, certificates=(certificate,)), own(), NOW_MS)
    assert (found.state, found.kept) == (State.ASKING, None)


def test_serves_only_the_models_that_its_certificate_names() -> None:
    state = a_state(join="private")
    certificate = a_certificate(state.known.identity, models=(subclouds.DIGESTS[1],))
    candidate = a_candidate(state, certificates=(certificate,))
    both = own(models=(a_model(0), a_model(1)))
    assert judge(candidate, both, NOW_MS).models == {subclouds.DIGESTS[1]}
    assert judge(candidate, own(), NOW_MS).kept is None


def test_the_log_says_each_step_once() -> None:
    member = a_member(a_state())
    assert member.kept is not None
    joined = judge(replace(member, kept=None), own(), NOW_MS)
    assert [c.what for c in changes_between({}, (joined,))] == ["joined"]
    before = {member.identity: member.kept}
    same = judge(member, own(), NOW_MS)
    assert changes_between(before, (same,)) == ()
    gone = judge(member, own(models=()), NOW_MS)
    assert [c.what for c in changes_between(before, (gone,))] == ["suspended"]
    left = judge(replace(member, unwanted=True), own(), NOW_MS)
    assert [(c.what, c.reason) for c in changes_between(before, (left,))] == [
        ("left", "the operator left it")
    ]


# --- by property ----------------------------------------------------------------------------------
LABELS = ("a", "b", "c")


@st.composite
def candidates(draw: st.DrawFn, label: str) -> Candidate:
    policy = draw(subclouds.policies(label))
    known = known_policy(policy)
    revocations = draw(
        st.sampled_from(
            [
                None,
                RevocationList(policy.identity, 1, 100),
                RevocationList(policy.identity, 1, 100, banned_peers=(NODE.peer_id,)),
            ]
        )
    )
    state = draw(st.sampled_from([SubcloudState(known, revocations=revocations)] * 3 + [None]))
    certificates = draw(
        st.sampled_from(
            [
                (),
                (a_certificate(policy.identity, issued_ms=0, life_ms=200),),
                (a_certificate(policy.identity, issued_ms=0, life_ms=200, key=NODE),),
            ]
        )
    )
    held = draw(st.sampled_from([None, bytes.fromhex(known.digest), bytes(32)]))
    kept = None
    if held is not None:
        membership = Membership(
            policy.identity,
            held,
            10,
            draw(st.booleans()),
            draw(st.sampled_from([*certificates, None])),
        )
        kept = Kept(membership, draw(st.sampled_from([0, 50])))
    return Candidate(
        policy.identity,
        named=draw(st.booleans()),
        matched=draw(st.booleans()),
        unwanted=draw(st.sampled_from([False, False, True])),
        isolate=draw(st.booleans()),
        state=state,
        closed=draw(st.sampled_from(["", "", "banned"])),
        kept=kept,
        certificates=certificates,
        left_ms=draw(st.sampled_from([0, 50])),
        denied_ms=draw(subclouds.TIMES),
    )


@given(st.tuples(*map(candidates, LABELS)), subclouds.facts, subclouds.TIMES)
def test_decisions_keep_the_rules(
    found: tuple[Candidate, ...], facts: NodeFacts, now_ms: int
) -> None:
    facts = replace(facts, peer_id=NODE.peer_id)
    findings = {f.identity: f for f in decide(found, facts, now_ms)}
    assert findings.keys() == {c.identity for c in found}
    held = [f.kept.membership for f in findings.values() if f.kept]
    assert sum(membership.isolates for membership in held) <= 1
    for candidate in found:
        finding = findings[candidate.identity]
        assert finding.until_ms > now_ms
        assert not finding.models or finding.state is State.MEMBER
        assert (finding.kept is not None) == (finding.state in (State.MEMBER, State.SUSPENDED))
        if finding.kept is None:
            continue
        assert not candidate.unwanted
        assert not candidate.closed
        assert candidate.named or candidate.matched
        membership = finding.kept.membership
        if candidate.state is None:
            assert finding.kept == candidate.kept
            continue
        policy = candidate.state.known.policy
        if membership.isolates:  # whatever was held before, the consent stands now
            assert candidate.isolate
            assert isolates_now(candidate.state, now_ms)
        if policy.join != "open" and candidate.kept is None:
            assert candidate.named
            assert membership.certificate is not None
        if finding.state is State.MEMBER:
            _every_gateway_would_agree(candidate, finding.kept.membership, facts, now_ms)


def _every_gateway_would_agree(
    candidate: Candidate, membership: Membership, facts: NodeFacts, now_ms: int
) -> None:
    """With the same facts, only what the node cannot tell of itself may be against it."""
    state = candidate.state
    assert state is not None
    standing = membership_standing(NODE.peer_id, membership, now_ms + 1000, state, now_ms=now_ms)
    known = state.known
    evaluation = evaluate(known.policy, known.digest, replace(facts, standing=standing), now_ms)
    assert {verdict.criterion for verdict in evaluation.failed} <= OTHERS_JUDGE
