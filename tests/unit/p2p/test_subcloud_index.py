"""The index of who qualifies, against asking every node anew each time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.subclouds.evaluation import evaluate
from p2p.subclouds.facts import NodeFacts, Standing
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.index import GLOBAL_POOL, QualificationIndex
from p2p.subclouds.policy import SubcloudPolicy
from p2p.types import PeerId
from tests.fakes.subclouds import (
    DIGESTS,
    NOW_MS,
    TIMES,
    a_node,
    a_policy,
    a_standing,
    facts,
    identity_of,
    policies,
    standings,
)

LABELS = ("one", "two")


@dataclass(frozen=True)
class SetPolicy:
    label: str
    policy: SubcloudPolicy
    digest: str


@dataclass(frozen=True)
class SetNode:
    facts: NodeFacts
    standings: dict[SubcloudId, Standing]


@dataclass(frozen=True)
class RemoveNode:
    peer_id: PeerId


labels = st.sampled_from(LABELS)
names = st.sampled_from([PeerId(name) for name in ("a", "b", "c")])
changes = st.one_of(
    labels.flatmap(
        lambda label: st.builds(
            SetPolicy, st.just(label), policies(label), st.sampled_from(["d1", "d2"])
        )
    ),
    st.builds(
        SetNode,
        st.builds(lambda node, name: replace(node, peer_id=name), facts, names),
        st.dictionaries(st.sampled_from([identity_of(label) for label in LABELS]), standings),
    ),
    st.builds(RemoveNode, names),
)


class Obvious:
    """Remembers what it was told, and asks every node about everything at every question."""

    def __init__(self) -> None:
        self.policies: dict[SubcloudId, tuple[SubcloudPolicy, str]] = {}
        self.nodes: dict[PeerId, SetNode] = {}

    def qualified(self, identity: SubcloudId, model: bytes, now_ms: int) -> set[PeerId]:
        return {
            peer_id
            for peer_id, node in self.nodes.items()
            if model in self._models(identity, node, now_ms)
        }

    def _models(self, identity: SubcloudId, node: SetNode, now_ms: int) -> tuple[bytes, ...]:
        if identity == GLOBAL_POOL:
            if node.facts.banned or self._is_apart(node, now_ms):
                return ()
            return tuple(model.digest for model in node.facts.models if model.name)
        if identity not in self.policies or identity not in node.standings:
            return ()
        policy, digest = self.policies[identity]
        member = replace(node.facts, standing=node.standings[identity])
        return evaluate(policy, digest, member, now_ms).models

    def _is_apart(self, node: SetNode, now_ms: int) -> bool:
        for identity, standing in node.standings.items():
            if not standing.isolated or standing.until_ms <= now_ms:
                continue
            if identity not in self.policies:
                return True
            policy = self.policies[identity][0]
            if policy.isolate and not policy.ended and policy.expires_ms > now_ms:
                return True
        return False


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TIMES, changes), max_size=12), st.lists(TIMES, max_size=4))
def test_the_index_equals_asking_everybody(
    steps: list[tuple[int, SetPolicy | SetNode | RemoveNode]], questions: list[int]
) -> None:
    index, obvious = QualificationIndex(), Obvious()
    now_ms = 0

    def check() -> None:
        for identity in (GLOBAL_POOL, *(identity_of(label) for label in LABELS)):
            for model in DIGESTS:
                found = set(index.qualified(identity, model, now_ms))
                assert found == obvious.qualified(identity, model, now_ms)

    for time_ms, change in steps:
        now_ms = max(now_ms, time_ms)
        match change:
            case SetPolicy(label, policy, digest):
                obvious.policies[identity_of(label)] = (policy, digest)
                index.set_policy(policy, digest, now_ms)
            case SetNode():
                obvious.nodes[change.facts.peer_id] = change
                index.set_node(change.facts, change.standings, now_ms)
            case RemoveNode(peer_id):
                obvious.nodes.pop(peer_id, None)
                index.remove_node(peer_id)
        check()
    for later_ms in sorted(questions):
        now_ms = max(now_ms, later_ms)
        check()


def test_a_node_that_consents_to_isolation_leaves_the_pool_at_once() -> None:
    index, identity = QualificationIndex(), identity_of("team")
    index.set_node(a_node(), {}, NOW_MS)
    assert index.qualified(GLOBAL_POOL, DIGESTS[0], NOW_MS)
    index.set_node(a_node(), {identity: a_standing()}, NOW_MS)
    assert not index.qualified(GLOBAL_POOL, DIGESTS[0], NOW_MS)  # though the policy is not known
    index.set_policy(a_policy(isolate=True), "d", NOW_MS)
    assert not index.qualified(GLOBAL_POOL, DIGESTS[0], NOW_MS)
    assert index.qualified(identity, DIGESTS[0], NOW_MS)
    index.set_policy(a_policy(), "d", NOW_MS)
    assert index.qualified(GLOBAL_POOL, DIGESTS[0], NOW_MS)


def test_what_was_found_for_each_member_is_shown() -> None:
    index, identity = QualificationIndex(), identity_of("team")
    index.set_policy(a_policy(), "d", NOW_MS)
    index.set_node(a_node("good"), {identity: a_standing()}, NOW_MS)
    index.set_node(a_node("old"), {identity: a_standing("before")}, NOW_MS)
    found = index.evaluations(identity, NOW_MS)
    assert {peer_id: evaluation.qualifies for peer_id, evaluation in found.items()} == {
        "good": True,
        "old": False,
    }
    assert index.policy(identity) == a_policy()
    assert index.evaluations(identity_of("unknown"), NOW_MS) == {}
