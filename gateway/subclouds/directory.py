"""Owns who qualifies where, as this gateway knows it: policies, memberships, facts, one index.

Theory of operation. Whatever is new (an advert, a statement, a policy, a revocation list, the
network's configuration, evidence, conduct, or a moment that was waited for) changes only what it
touches: the facts of one node, the standing of one membership, or one subcloud's members. The index
(`p2p.subclouds.index`) then judges those pairs again, so that a request asks two dictionaries.
Everything fails closed: what is not known, or not known to be young enough, does not qualify.

A statement comes over the node's session, by gossip, or from a bootstrap's list; it is verified
here whoever brings it. Nothing here waits and nothing here sends.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import trio

from gateway.limits import DENIAL_S, NODES_AT_ONCE_MAX, SUBCLOUD_TICK_S
from gateway.subclouds.explanations import Explanations
from gateway.subclouds.members import Member, Members, ranked
from p2p.clock import Clock
from p2p.errors import P2PError, UntrustedError
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import Signed
from p2p.subclouds.evaluation import Evaluation
from p2p.subclouds.facts import NodeFacts, Standing
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.index import GLOBAL_POOL, QualificationIndex
from p2p.subclouds.membership_standing import GRACE_MS, SubcloudState
from p2p.subclouds.memberships import KnownMemberships, MembershipBook, verify_memberships
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.records import KnownPolicy
from p2p.types import NetworkId, PeerId

log = logging.getLogger(__name__)
_NOBODY: Mapping[PeerId, None] = {}
_DENIED_POOL = SubcloudId("denied")
"""Not a subcloud: isolation for it stands for a node's own word that it left the global pool."""


class FactsSource(Protocol):
    """What is known of nodes beside their memberships."""

    def stated(self, known: KnownMemberships) -> None:
        """A node's newer statement was verified: its evidence may be opened."""
        ...

    def facts_of(self, peer_id: PeerId, now_ms: int) -> NodeFacts | None:
        """A node's facts, without any standing; None if it is not known."""
        ...

    def complete(
        self, known: KnownPolicy, standing: Standing, facts: NodeFacts, now_ms: int
    ) -> Standing:
        """Add to a standing what counts in that subcloud only: evidence and conduct."""
        ...


class SubcloudDirectory:
    """Who qualifies for which model in which subcloud, and in the global pool."""

    def __init__(
        self,
        policies: PolicyBook,
        *,
        network: NetworkId,
        facts: FactsSource,
        clock_ms: Clock,
    ) -> None:
        """Follow `policies`; nothing is known of nodes yet."""
        self.policies = policies
        self.memberships = MembershipBook()
        self._network = network
        self._facts = facts
        self._clock_ms = clock_ms
        self._index = QualificationIndex()
        self._members = Members(lambda identity: policies.get(identity) is not None)
        self._known_facts: dict[PeerId, NodeFacts] = {}
        self._configuration: NetworkConfiguration | None = None
        self._banned: frozenset[str] = frozenset()
        self._digests: dict[SubcloudId, tuple[str, int]] = {}
        """The digest in force and since when it is (ms), for the predecessor's grace."""
        self._crowded: dict[SubcloudId, None] = {}
        self._waiting: list[tuple[int, PeerId]] = []
        self._denied_pool: dict[PeerId, int] = {}
        self._dirty: dict[PeerId, None] = {}
        self._explanations = Explanations(clock_ms)
        self.on_change: Callable[[], None] = lambda: None
        """Called after the qualification of some node may have changed."""
        for known in policies.all():
            self.policy_changed(known.identity)
        policies.on_change(self.policy_changed)

    # --- news -----------------------------------------------------------------------------------
    def take_statement(self, signed: Signed, sender: PeerId | None = None) -> bool:
        """Verify a node's statement and take it. `sender`: who it must be about.

        Returns: whether it was news. Raises: P2PError.
        """
        if sender is not None and signed.peer_id != sender:
            raise UntrustedError("a membership statement of another node")
        now_ms = self._clock_ms()
        present = self.memberships.get(signed.peer_id, now_ms)
        if present is not None and present.signed == signed:
            return False
        known = verify_memberships(signed, self._network, now_ms)
        before = self.memberships.get(known.statement.peer_id, now_ms)
        if not self.memberships.add(known, now_ms):
            return False
        self._members.state(before, known, now_ms)
        peer_id = known.statement.peer_id
        self._denied_pool.pop(peer_id, None)
        self._crowded |= dict.fromkeys(m.subcloud_id for m in known.statement.memberships)
        self._facts.stated(known)
        self.node_changed(peer_id)
        return True

    def take_quietly(self, signed: Signed, sender: PeerId | None = None) -> None:
        """Like `take_statement`, for hints: what cannot be believed is dropped."""
        try:
            self.take_statement(signed, sender)
        except P2PError as error:
            log.debug("membership statement dropped: %s", error)

    def node_changed(self, peer_id: PeerId) -> None:
        """A node's advert, evidence or conduct may be new: judge it again everywhere."""
        self._dirty.pop(peer_id, None)
        now_ms = self._clock_ms()
        facts = self._facts.facts_of(peer_id, now_ms)
        if facts is None:
            self._known_facts.pop(peer_id, None)
            self._index.remove_node(peer_id)
            self.on_change()
            return
        known = self.memberships.get(peer_id, now_ms)
        standings = {}
        for membership in known.statement.memberships if known is not None else ():
            member = self._members.of(membership.subcloud_id).get(peer_id)
            if member is not None:
                standings[membership.subcloud_id] = self._standing(member, facts, now_ms)
        denied_ms = self._denied_pool.get(peer_id, 0)
        if denied_ms > now_ms:
            standings[_DENIED_POOL] = Standing(until_ms=denied_ms, isolated=True)
        self._known_facts[peer_id] = facts
        self._index.set_node(facts, standings, now_ms)
        self.on_change()

    def node_gone(self, peer_id: PeerId) -> None:
        """A node's advert has expired and there is no session with it."""
        self._known_facts.pop(peer_id, None)
        self._denied_pool.pop(peer_id, None)
        self._index.remove_node(peer_id)

    def configure(self, configuration: NetworkConfiguration) -> None:
        """A new network configuration: models, bans of nodes and of subclouds."""
        self._configuration = configuration
        banned = frozenset(configuration.subclouds.banned)
        changed, self._banned = banned ^ self._banned, banned
        for identity in changed:
            self.policy_changed(SubcloudId(identity))
        self._later(self._known_facts)

    def policy_changed(self, identity: SubcloudId) -> None:
        """A policy or a revocation list is new: judge this subcloud's members again."""
        now_ms = self._clock_ms()
        known = self.policies.get(identity)
        if known is None:
            return
        digest, _ = self._digests.get(identity, ("", 0))
        if digest != known.digest:
            self._digests[identity] = (known.digest, now_ms)
        standings = {
            peer_id: self._standing(member, self._known_facts[peer_id], now_ms)
            for peer_id, member in self._members.of(identity).items()
            if peer_id in self._known_facts
        }
        self._index.set_policy(known.policy, known.digest, now_ms, standings)
        self._crowded[identity] = None
        self._explanations.clear()
        self.on_change()

    def denied(self, peer_id: PeerId, identity: SubcloudId) -> None:
        """A node answered an offer that it is no member, or has left the global pool: it is
        believed for a while, or until its next statement."""
        until_ms = self._clock_ms() + int(DENIAL_S * 1000)
        if identity == GLOBAL_POOL:
            self._denied_pool[peer_id] = until_ms
        else:
            member = self._members.of(identity).get(peer_id)
            if member is None:
                return
            member.denied_until_ms = until_ms
        heapq.heappush(self._waiting, (until_ms, peer_id))
        self.node_changed(peer_id)

    def member_seen(
        self, identity: SubcloudId, peer_id: PeerId, joined_ms: int, left_ms: int
    ) -> None:
        """A bootstrap tells since when a node is a member, and when it last left (0: never)."""
        member = self._members.of(identity).get(peer_id)
        later = left_ms > self._members.left_ms(identity, peer_id)
        if later:
            self._members.note_left(identity, peer_id, left_ms)
        if member is not None and joined_ms and member.joined_ms != joined_ms:
            member.joined_ms = joined_ms
            self._crowded[identity] = None
        if member is not None and later:
            self.node_changed(peer_id)

    def tick(self) -> None:
        """Look at what time alone changes (every SUBCLOUD_TICK_S)."""
        now_ms = self._clock_ms()
        for known in self.memberships.expired(now_ms):
            for membership in known.statement.memberships:
                self._members.forget(membership.subcloud_id, known.statement.peer_id)
        for peer_id in self.memberships.prune(now_ms):
            self.node_changed(peer_id)
        while self._waiting and self._waiting[0][0] <= now_ms:
            self.node_changed(heapq.heappop(self._waiting)[1])
        crowded, self._crowded = self._crowded, {}
        for identity in crowded:
            self._rank(identity, now_ms)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep time, and judge anew what waits, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(SUBCLOUD_TICK_S if not self._dirty else 0)
            self.judge_waiting()
            if not self._dirty:
                self.tick()

    # --- judging --------------------------------------------------------------------------------
    def state(self, identity: SubcloudId, now_ms: int) -> SubcloudState | None:
        """What the memberships of a subcloud are judged by now; None: its policy is not known."""
        known = self.policies.get(identity)
        if known is None:
            return None
        _, since_ms = self._digests.get(identity, ("", 0))
        return SubcloudState(
            known,
            self.policies.previous(identity, now_ms),
            since_ms + GRACE_MS,
            self.policies.revocations(identity),
            identity in self._banned,
        )

    def _standing(self, member: Member, facts: NodeFacts, now_ms: int) -> Standing:
        state = self.state(member.membership.subcloud_id, now_ms)
        if state is None:
            isolated = member.membership.isolates
            return Standing(until_ms=member.until_ms, isolated=isolated, problem="unknown policy")
        before = member.standing.problem
        standing = self._members.judge(member, state, now_ms)
        if standing.problem != before:
            self._crowded[state.known.identity] = None  # it takes a place now, or none any more
        return self._facts.complete(state.known, standing, facts, now_ms)

    def _rank(self, identity: SubcloudId, now_ms: int) -> None:
        known, members = self.policies.get(identity), self._members.of(identity)
        if known is None:
            return
        places = known.policy.members_max
        if len(members) <= places and not any(m.excess for m in members.values()):
            return
        for member in ranked(members.values(), places):
            facts = self._known_facts.get(member.peer_id)
            if facts is not None:
                standing = self._standing(member, facts, now_ms)
                self._index.set_standing(identity, member.peer_id, standing, now_ms)
        self.on_change()

    def judge_all(self) -> None:
        """Something that concerns all nodes is new, as the GeoIP file is: judge them again."""
        self._later(self._known_facts)

    def _later(self, peer_ids: Iterable[PeerId]) -> None:
        """Judge nodes anew: few at once, many in turns with other work."""
        self._dirty |= dict.fromkeys(peer_ids)
        self.judge_waiting()

    def judge_waiting(self) -> None:
        """Judge the next nodes of those that wait."""
        for peer_id in list(self._dirty)[:NODES_AT_ONCE_MAX]:
            self.node_changed(peer_id)

    # --- questions ------------------------------------------------------------------------------
    def qualified(self, identity: SubcloudId, model: bytes) -> Mapping[PeerId, None]:
        """The nodes that may serve a model (its digest) in a subcloud, or in the global pool."""
        if identity in self._banned:
            return _NOBODY
        return self._index.qualified(identity, model, self._clock_ms())

    def qualifies(self, identity: SubcloudId, model: bytes, peer_id: PeerId) -> bool:
        """Whether one node may serve a model in a subcloud now."""
        return peer_id in self.qualified(identity, model)

    def policy(self, identity: SubcloudId) -> KnownPolicy | None:
        """The policy in force (it may have ended or expired)."""
        return self.policies.get(identity)

    def is_banned(self, identity: SubcloudId) -> bool:
        """Whether the network's configuration bans a subcloud."""
        return identity in self._banned

    def evaluations(self, identity: SubcloudId) -> dict[PeerId, Evaluation]:
        """The verdicts about each member of a subcloud."""
        return self._index.evaluations(identity, self._clock_ms())

    def members(self, identity: SubcloudId) -> Mapping[PeerId, Member]:
        """The memberships of a subcloud, good or not."""
        return self._members.of(identity)

    def facts(self, peer_id: PeerId) -> NodeFacts | None:
        """What is known of a node, without any standing."""
        return self._known_facts.get(peer_id)

    def completed(
        self, known: KnownPolicy, standing: Standing, facts: NodeFacts, now_ms: int
    ) -> Standing:
        """Add to a standing what counts in that subcloud only: evidence and conduct."""
        return self._facts.complete(known, standing, facts, now_ms)

    def standing(self, identity: SubcloudId, peer_id: PeerId) -> Standing | None:
        """What a node's membership is worth now, with evidence and conduct."""
        member, facts = self._members.of(identity).get(peer_id), self._known_facts.get(peer_id)
        if member is None or facts is None:
            return None
        return self._standing(member, facts, self._clock_ms())

    def removed(self, identity: SubcloudId, model: bytes) -> Counter[str]:
        """How many members each criterion keeps from serving a model (each counts once)."""
        return self._explanations.of(
            identity, model, lambda: self.evaluations(identity), self.qualified(identity, model)
        )

    def is_needed(self, peer_id: PeerId) -> bool:
        """Whether a session with a node is wanted though it serves no approved model.

        It qualifies in some subcloud, or could once there is evidence: a member that serves a
        model of the policy's own.
        """
        return self._index.serves_somewhere(peer_id) or self._serves_own_model(peer_id)

    def _serves_own_model(self, peer_id: PeerId) -> bool:
        facts, known = (
            self._known_facts.get(peer_id),
            self.memberships.get(peer_id, self._clock_ms()),
        )
        if facts is None or known is None:
            return False
        served = {model.digest.hex() for model in facts.models}
        for membership in known.statement.memberships:
            policy = self.policies.get(membership.subcloud_id)
            member = self._members.of(membership.subcloud_id).get(peer_id)
            if policy is None or member is None or member.standing.problem:
                continue
            if any(model.digest in served for model in policy.policy.models.own):
                return True
        return False
