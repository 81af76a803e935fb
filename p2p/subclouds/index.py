"""Owns "who qualifies": which nodes may serve each model in each subcloud, kept current. Pure.

Theory of operation. A node is evaluated only for the subclouds that it is a member of, and only
when something about it, its membership or the policy changes, or when time alone may have changed
the verdict (an expiry, the end of a suspension): those moments wait in a heap. A request then costs
two dictionary lookups. The global pool is the subcloud without an ID: every node is in it that has
not consented to leave it for a subcloud whose policy in force isolates.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from p2p.subclouds.evaluation import NEVER_MS, Evaluation, evaluate
from p2p.subclouds.facts import NodeFacts, Standing
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.policy import SubcloudPolicy
from p2p.types import PeerId

GLOBAL_POOL = SubcloudId("")
_NOBODY: Mapping[PeerId, None] = {}
_NO_STANDINGS: Mapping[PeerId, Standing] = {}


@dataclass(slots=True)
class _Node:
    facts: NodeFacts
    standings: dict[SubcloudId, Standing] = field(default_factory=dict)
    evaluations: dict[SubcloudId, Evaluation] = field(default_factory=dict)
    pool_models: tuple[bytes, ...] = ()


@dataclass(slots=True)
class _Subcloud:
    policy: SubcloudPolicy
    digest: str
    members: dict[PeerId, None] = field(default_factory=dict)


class QualificationIndex:
    """Answers who may serve a model in a subcloud."""

    def __init__(self) -> None:
        """Begin without nodes and policies."""
        self._nodes: dict[PeerId, _Node] = {}
        self._subclouds: dict[SubcloudId, _Subcloud] = {}
        self._waiting: dict[SubcloudId, dict[PeerId, None]] = {}
        """Standings in subclouds whose policy is not known (yet)."""
        self._qualified: dict[tuple[SubcloudId, bytes], dict[PeerId, None]] = {}
        self._due: list[tuple[int, SubcloudId, PeerId]] = []

    # --- changes --------------------------------------------------------------------------------
    def set_policy(
        self,
        policy: SubcloudPolicy,
        digest: str,
        now_ms: int,
        standings: Mapping[PeerId, Standing] = _NO_STANDINGS,
    ) -> None:
        """A policy is in force from now on (its first version, or in place of an older one).

        `standings`: what the members' memberships are worth under it, where that is new.
        """
        identity = policy.identity
        known = self._subclouds.get(identity)
        members = known.members if known is not None else self._waiting.pop(identity, {})
        self._subclouds[identity] = _Subcloud(policy, digest, members)
        for peer_id in members:
            if peer_id in standings:
                self._nodes[peer_id].standings[identity] = standings[peer_id]
            self._evaluate(identity, peer_id, now_ms)
            self._pool(peer_id, now_ms)

    def set_node(
        self, facts: NodeFacts, standings: Mapping[SubcloudId, Standing], now_ms: int
    ) -> None:
        """Something about a node is new: its facts, or its memberships."""
        peer_id = facts.peer_id
        node = self._nodes.get(peer_id)
        if node is None:
            node = self._nodes[peer_id] = _Node(facts)
        node.facts = facts
        for identity in node.standings.keys() - standings.keys():
            self._leave(identity, peer_id)
        node.standings = dict(standings)
        for identity, standing in standings.items():
            subcloud = self._subclouds.get(identity)
            if subcloud is None:
                self._waiting.setdefault(identity, {})[peer_id] = None
                if standing.isolated:
                    heapq.heappush(self._due, (_apart_until_ms(standing), identity, peer_id))
                continue
            subcloud.members[peer_id] = None
            self._evaluate(identity, peer_id, now_ms)
        self._pool(peer_id, now_ms)

    def set_standing(
        self, identity: SubcloudId, peer_id: PeerId, standing: Standing, now_ms: int
    ) -> None:
        """What one membership of a known node is worth is new; its other ones are as they were."""
        node = self._nodes.get(peer_id)
        if node is None or identity not in node.standings:
            return
        node.standings[identity] = standing
        if identity in self._subclouds:
            self._evaluate(identity, peer_id, now_ms)
        self._pool(peer_id, now_ms)

    def remove_node(self, peer_id: PeerId) -> None:
        """A node is gone."""
        node = self._nodes.get(peer_id)
        if node is None:
            return
        for identity in list(node.standings):
            self._leave(identity, peer_id)
        self._replace(GLOBAL_POOL, peer_id, node.pool_models, ())
        del self._nodes[peer_id]

    # --- questions --------------------------------------------------------------------------------
    def qualified(self, identity: SubcloudId, model: bytes, now_ms: int) -> Mapping[PeerId, None]:
        """Give the nodes that may serve a model (its digest) in a subcloud or the global pool."""
        if self._due and self._due[0][0] <= now_ms:
            self._catch_up(now_ms)
        return self._qualified.get((identity, model), _NOBODY)

    def policy(self, identity: SubcloudId) -> SubcloudPolicy | None:
        """Give the policy in force."""
        subcloud = self._subclouds.get(identity)
        return subcloud.policy if subcloud is not None else None

    def serves_somewhere(self, peer_id: PeerId) -> bool:
        """Whether a node qualified for anything in any subcloud when it was last looked at."""
        node = self._nodes.get(peer_id)
        return node is not None and any(e.models for e in node.evaluations.values())

    def evaluations(self, identity: SubcloudId, now_ms: int) -> dict[PeerId, Evaluation]:
        """Give the verdicts about each member of a subcloud."""
        self._catch_up(now_ms)
        subcloud = self._subclouds.get(identity)
        members = subcloud.members if subcloud is not None else {}
        return {peer_id: self._nodes[peer_id].evaluations[identity] for peer_id in members}

    # --- inside -----------------------------------------------------------------------------------
    def _catch_up(self, now_ms: int) -> None:
        while self._due and self._due[0][0] <= now_ms:
            _, identity, peer_id = heapq.heappop(self._due)
            node = self._nodes.get(peer_id)
            if node is None or identity not in node.standings:
                continue
            known = node.evaluations.get(identity)
            if known is not None and known.until_ms <= now_ms:
                self._evaluate(identity, peer_id, now_ms)
            self._pool(peer_id, now_ms)

    def _evaluate(self, identity: SubcloudId, peer_id: PeerId, now_ms: int) -> None:
        node, subcloud = self._nodes[peer_id], self._subclouds[identity]
        facts = replace(node.facts, standing=node.standings[identity])
        old = node.evaluations.get(identity)
        new = node.evaluations[identity] = evaluate(subcloud.policy, subcloud.digest, facts, now_ms)
        self._replace(identity, peer_id, old.models if old is not None else (), new.models)
        # An entry for that moment is there already if the evaluation before had the same.
        if new.until_ms < NEVER_MS and (old is None or old.until_ms != new.until_ms):
            heapq.heappush(self._due, (new.until_ms, identity, peer_id))

    def _pool(self, peer_id: PeerId, now_ms: int) -> None:
        """Keep a node in the global pool unless it is isolated now."""
        node = self._nodes[peer_id]
        apart = any(
            standing.isolated
            and _apart_until_ms(standing) > now_ms
            and self._isolates(identity, now_ms)
            for identity, standing in node.standings.items()
        )
        usable = not apart and not node.facts.banned
        models = tuple(m.digest for m in node.facts.models if m.name) if usable else ()
        self._replace(GLOBAL_POOL, peer_id, node.pool_models, models)
        node.pool_models = models

    def _isolates(self, identity: SubcloudId, now_ms: int) -> bool:
        subcloud = self._subclouds.get(identity)
        if subcloud is None:
            return True  # it consented to leave: until the policy is known, it has left
        policy = subcloud.policy
        return policy.isolate and not policy.ended and policy.expires_ms > now_ms

    def _leave(self, identity: SubcloudId, peer_id: PeerId) -> None:
        node = self._nodes[peer_id]
        old = node.evaluations.pop(identity, None)
        self._replace(identity, peer_id, old.models if old is not None else (), ())
        del node.standings[identity]
        subcloud = self._subclouds.get(identity)
        waiting = subcloud.members if subcloud is not None else self._waiting.get(identity, {})
        waiting.pop(peer_id, None)
        if subcloud is None and not waiting:
            self._waiting.pop(identity, None)

    def _replace(
        self, identity: SubcloudId, peer_id: PeerId, old: tuple[bytes, ...], new: tuple[bytes, ...]
    ) -> None:
        for model in old:
            if model not in new:
                nodes = self._qualified[identity, model]
                del nodes[peer_id]
                if not nodes:
                    del self._qualified[identity, model]
        for model in new:
            self._qualified.setdefault((identity, model), {})[peer_id] = None


def _apart_until_ms(standing: Standing) -> int:
    """Until when a node has left the global pool: also with a membership that does not count."""
    return max(standing.until_ms, standing.isolated_until_ms)
