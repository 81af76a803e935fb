"""Owns a small world for the directory of a gateway: nodes, policies and lists that change by
chance, and the slow, obvious answer to "who may serve this model here now"."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from gateway.peer.routing import Candidate
from gateway.subclouds.directory import SubcloudDirectory
from p2p.limits import POLICY_GRACE_S
from p2p.network_configuration import NetworkConfiguration, open_configuration
from p2p.signing import KeyPair, Signed
from p2p.subclouds.facts import NodeFacts, OfferedModel, Region, Standing
from p2p.subclouds.grades import RegionGrade
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.memberships import (
    KnownMemberships,
    Membership,
    MembershipCertificate,
    MembershipStatement,
    RevocationList,
)
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.records import KnownPolicy
from p2p.types import PeerId
from tests.fakes import trust
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.member_nodes import known_policy
from tests.fakes.subclouds import DELEGATE, DIGESTS, NETWORK, a_policy, an_own_model, identity_of

LABELS = ("alpha", "beta", "gamma")
NODES = tuple(trust.key_pair(100 + number) for number in range(6))
CHAINS = {pair.peer_id: trust.node_chain(pair) for pair in NODES}
COUNTRIES = ("DE", "FR", "US")
GRACE_MS = int(POLICY_GRACE_S * 1000)


class FakeBook:
    """Policies as a `PolicyBook` gives them, without records."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.known: dict[SubcloudId, KnownPolicy] = {}
        self.before: dict[SubcloudId, tuple[KnownPolicy, int]] = {}
        self.lists: dict[SubcloudId, RevocationList] = {}
        self.listeners: list[Callable[[SubcloudId], None]] = []

    def get(self, identity: SubcloudId) -> KnownPolicy | None:
        return self.known.get(identity)

    def all(self) -> tuple[KnownPolicy, ...]:
        return tuple(self.known.values())

    def previous(self, identity: SubcloudId, now_ms: int) -> KnownPolicy | None:
        known, replaced_ms = self.before.get(identity, (None, 0))
        return known if now_ms - replaced_ms < GRACE_MS else None

    def revocations(self, identity: SubcloudId) -> RevocationList | None:
        return self.lists.get(identity)

    def on_change(self, listener: Callable[[SubcloudId], None]) -> None:
        self.listeners.append(listener)

    def put(self, policy: SubcloudPolicy) -> KnownPolicy:
        identity = policy.identity
        old = self.known.get(identity)
        if old is not None:
            self.before[identity] = (old, self.clock())
        known = self.known[identity] = known_policy(policy)
        self.tell(identity)
        return known

    def put_list(self, revocations: RevocationList) -> None:
        self.lists[revocations.subcloud_id] = revocations
        self.tell(revocations.subcloud_id)

    def tell(self, identity: SubcloudId) -> None:
        for listener in self.listeners:
            listener(identity)


class FakeFacts:
    """A `FactsSource` that is told what is so."""

    def __init__(self) -> None:
        self.nodes: dict[PeerId, NodeFacts] = {}

    def stated(self, known: KnownMemberships) -> None:
        pass

    def facts_of(self, peer_id: PeerId, now_ms: int) -> NodeFacts | None:
        return self.nodes.get(peer_id)

    def complete(
        self, known: KnownPolicy, standing: Standing, facts: NodeFacts, now_ms: int
    ) -> Standing:
        return standing


class FakeRegistry:
    """Every node that is known serves what it says, and can be reached."""

    def __init__(self, facts: FakeFacts) -> None:
        self.facts = facts

    def by_model(self, digest: bytes) -> dict[PeerId, Candidate]:
        return {
            peer_id: Candidate(peer_id, digest, digest, 4096, 4, connected=True)
            for peer_id, node in self.facts.nodes.items()
            if any(model.digest == digest for model in node.models)
        }


@dataclass
class Node:
    """One node, as it is."""

    pair: KeyPair
    memberships: dict[SubcloudId, Membership] = field(default_factory=dict)
    sequence: int = 0
    stated: MembershipStatement | None = None
    left_ms: dict[SubcloudId, int] = field(default_factory=dict)


class DirectoryWorld:
    """Everything, and what happens to it."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.clock = FakeClock(START_MS + 1000)
        self.book = FakeBook(self.clock)
        self.facts = FakeFacts()
        self.registry = cast(Any, FakeRegistry(self.facts))
        self.directory = SubcloudDirectory(
            cast(Any, self.book),
            network=trust.NETWORK,
            facts=self.facts,
            clock_ms=self.clock,
        )
        self.nodes = {pair.peer_id: Node(pair) for pair in NODES}
        self.banned: set[SubcloudId] = set()
        self.version = 1
        self.genuine: dict[Signed, MembershipCertificate] = {}
        self.configure()

    def populate(self) -> None:
        """Everybody is there, and most are members of something."""
        for label in LABELS:
            self.publish(label)
            self.put_list(label)
        for pair in NODES:
            self.advertise(pair)
            for label in LABELS:
                if self.random.random() < 0.6:
                    node = self.nodes[pair.peer_id]
                    self.join(node, identity_of(label), isolates=self.random.random() < 0.3)
            self.say(self.nodes[pair.peer_id])

    # --- what may happen --------------------------------------------------------------------------
    def happen(self) -> None:
        """One thing, by chance."""
        frequent = [self.state] * 10 + [self.wait] * 4 + [self.refresh_list] * 3 + [self.revoke] * 3
        seldom = [
            self.publish,
            self.publish,
            self.advertise,
            self.advertise,
            self.go_away,
            self.ban,
        ]
        actions: list[Callable[[], object]] = [*frequent, *seldom]
        self.random.choice(actions)()
        self.directory.tick()

    def configure(self) -> None:
        signed = trust.configuration(self.version, subclouds={"banned": tuple(sorted(self.banned))})
        found: NetworkConfiguration = open_configuration(signed, trust.NETWORK)
        self.version += 1
        self.directory.configure(found)

    def ban(self) -> None:
        """Ban a subcloud, or lift the ban."""
        chosen = {identity_of(self.random.choice(LABELS))}
        self.banned = set() if self.banned else chosen
        self.configure()

    def wait(self) -> None:
        self.clock.now_ms += self.random.choice((1000, 20_000, 70_000, 200_000))

    def publish(self, label: str = "", **fields: Any) -> KnownPolicy:
        """The next version of a policy."""
        pick = self.random.choice
        label = label or pick(LABELS)
        known = self.book.known.get(identity_of(label))
        version = known.policy.version + 1 if known is not None else 1
        join = pick(("open", "open", "semi-open", "private"))
        content: dict[str, Any] = {
            "version": version,
            "predecessor_digest": known.digest if known is not None else None,
            "issued_ms": self.clock(),
            "expires_ms": self.clock() + pick((100_000, 10**9, 10**9)),
            "join": join,
            "isolate": pick((False, False, True)),
            "fallback": pick(("none", "global")) if join != "private" else "none",
            "cooldown_s": pick((0, 0, 300)),
            "members_max": pick((2, 10_000)),
            "revocation_list_age_s_max": pick((60, 100_000)),
            "regions": pick(({}, {}, {"allow": ["DE", "FR"]}, {"deny": ["US"]})),
            "models": {
                "names": pick(((), (), ({"name": "model-1"},))),
                "own": pick(((), (an_own_model(3),))),
                "verified_only": False,
            },
        }
        return self.book.put(a_policy(label, **content | fields))

    def refresh_list(self) -> None:
        self.put_list(self.random.choice(LABELS))

    def put_list(self, label: str, *banned: PeerId) -> None:
        """A delegate signs the next list; who was banned stays so."""
        identity = identity_of(label)
        old = self.book.lists.get(identity)
        number = old.number + 1 if old is not None else 1
        everybody = (*(old.banned_peers if old is not None else ()), *banned)
        self.book.put_list(RevocationList(identity, number, self.clock(), everybody))
        for peer_id in banned:
            # Whoever was a member by certificate was removed now.
            node, known = self.nodes[peer_id], self.book.known.get(identity)
            held = node.stated is not None and self._named(node, identity) is not None
            certified = known is not None and known.policy.join != "open" and held
            if certified and not node.left_ms.get(identity) and self._certificate(node, identity):
                node.left_ms[identity] = self.clock()

    def revoke(self) -> None:
        pair = self.random.choice(NODES)
        self.put_list(self.random.choice(LABELS), pair.peer_id)

    def state(self) -> None:
        """A node joins, agrees, or leaves, and says so."""
        pick, node = self.random.choice, self.nodes[self.random.choice(NODES).peer_id]
        identity = identity_of(pick(LABELS))
        if identity in node.memberships and self.random.random() < 0.3:
            del node.memberships[identity]
        else:
            self.join(
                node, identity, isolates=pick((False, True)), genuine=pick((True, True, False))
            )
        self.say(node, life_ms=pick((100_000, 300_000)))

    def join(
        self, node: Node, identity: SubcloudId, *, isolates: bool = False, genuine: bool = True
    ) -> None:
        """Make a membership, with a certificate; one that is not genuine is signed by nobody."""
        known, now_ms = self.book.known.get(identity), self.clock()
        digest = bytes.fromhex(known.digest) if known is not None else bytes(32)
        old = node.memberships.get(identity)
        if isolates:
            for other, membership in node.memberships.items():
                node.memberships[other] = _without_isolation(membership)
        certificate = MembershipCertificate(
            self.random.randbytes(16), identity, node.pair.peer_id, now_ms, now_ms + 200_000
        )
        signed = (DELEGATE if genuine else node.pair).sign(NETWORK, certificate)
        if genuine:
            self.genuine[signed] = certificate
        joined_ms = old.joined_ms if old is not None else now_ms
        node.memberships[identity] = Membership(identity, digest, joined_ms, isolates, signed)

    def say(self, node: Node, life_ms: int = 300_000, *, dated_back_ms: int = 0) -> Signed:
        """A node's next statement reaches the gateway. `dated_back_ms`: by which it lies."""
        now_ms = self.clock()
        node.sequence += 1
        statement = MembershipStatement(
            node.pair.peer_id,
            node.sequence,
            now_ms - dated_back_ms,
            now_ms + life_ms,
            CHAINS[node.pair.peer_id],
            tuple(node.memberships.values()),
        )
        if node.stated is not None and node.stated.expires_ms > now_ms:
            for membership in node.stated.memberships:
                if membership.subcloud_id not in node.memberships:
                    node.left_ms[membership.subcloud_id] = now_ms
        node.stated = statement
        signed = node.pair.sign(trust.NETWORK, statement)
        self.directory.take_statement(signed, node.pair.peer_id)
        return signed

    def advertise(self, pair: KeyPair | None = None, **fields: Any) -> None:
        pick, peer_id = self.random.choice, (pair or self.random.choice(NODES)).peer_id
        numbers = self.random.sample(range(4), pick((2, 3, 4)))
        content: dict[str, Any] = {
            "models": tuple(
                OfferedModel(DIGESTS[n], name=f"model-{n}" if n < 3 else "") for n in numbers
            ),
            "regions": (Region(pick(COUNTRIES), RegionGrade.DECLARED),),
            "banned": self.random.random() < 0.05,
        }
        self.facts.nodes[peer_id] = NodeFacts(peer_id, **content | fields)
        self.directory.node_changed(peer_id)

    def go_away(self) -> None:
        peer_id = self.random.choice(NODES).peer_id
        self.facts.nodes.pop(peer_id, None)
        self.directory.node_changed(peer_id)

    # --- what is so -------------------------------------------------------------------------------
    def _named(self, node: Node, identity: SubcloudId) -> Membership | None:
        stated = node.stated
        if stated is None or stated.expires_ms <= self.clock():
            return None
        return next((m for m in stated.memberships if m.subcloud_id == identity), None)

    def _certificate(self, node: Node, identity: SubcloudId) -> bool:
        membership = self._named(node, identity)
        found = self.genuine.get(cast(Signed, membership.certificate)) if membership else None
        return found is not None and found.expires_ms > self.clock()

    def counts(self, node: Node, identity: SubcloudId) -> bool:
        """Whether a membership is worth something, the number of members aside."""
        membership, known = self._named(node, identity), self.book.known[identity]
        lists, now_ms = self.book.lists.get(identity), self.clock()
        if membership is None or identity in self.banned:
            return False
        if lists is not None and node.pair.peer_id in lists.banned_peers:
            return False
        if known.policy.join == "open":
            before = self.book.previous(identity, now_ms)
            good = {known.digest} | ({before.digest} if before is not None else set())
            return membership.policy_digest.hex() in good
        if lists is None or not self._certificate(node, identity):
            return False
        return lists.issued_ms + known.policy.revocation_list_age_s_max * 1000 > now_ms

    def may_serve(self, identity: SubcloudId, model: bytes) -> set[PeerId]:
        """The nodes that may serve a model in a subcloud now."""
        known, now_ms = self.book.known.get(identity), self.clock()
        if known is None or known.policy.expires_ms <= now_ms:
            return set()
        policy = known.policy
        members = [n for n in self.nodes.values() if n.pair.peer_id in self.facts.nodes]
        members = [node for node in members if self.counts(node, identity)]
        return {
            node.pair.peer_id
            for node in members
            if self._does(node, policy, model) and not self._rests(node, policy)
        }

    def _rests(self, node: Node, policy: SubcloudPolicy) -> bool:
        left_ms = node.left_ms.get(policy.identity)
        return left_ms is not None and left_ms + policy.cooldown_s * 1000 > self.clock()

    def _does(self, node: Node, policy: SubcloudPolicy, model: bytes) -> bool:
        facts, membership = self.facts.nodes[node.pair.peer_id], self._named(node, policy.identity)
        assert membership is not None
        number, country = DIGESTS.index(model), facts.regions[0].country
        serves = any(offered.digest == model for offered in facts.models)
        own, named = bool(policy.models.own), [entry.name for entry in policy.models.names]
        admitted = own if number == 3 else f"model-{number}" in named or not (named or own)
        allowed = policy.regions.allow
        here = country not in policy.regions.deny and (not allowed or country in allowed)
        consents = membership.isolates or not policy.isolate
        return serves and admitted and here and consents and not facts.banned

    def in_pool(self, model: bytes) -> set[PeerId]:
        """The nodes that may serve a model in the global pool now."""
        found = set()
        for peer_id, facts in self.facts.nodes.items():
            serves = any(m.digest == model and m.name for m in facts.models)
            node = self.nodes[peer_id]
            stated = node.stated
            apart = stated is not None and stated.expires_ms > self.clock()
            isolating = [m for m in stated.memberships if m.isolates] if stated and apart else []
            if serves and not facts.banned and not any(map(self._isolates, isolating)):
                found.add(peer_id)
        return found

    def _isolates(self, membership: Membership) -> bool:
        identity = membership.subcloud_id
        known = self.book.known.get(identity)
        if known is None:
            return True
        alive = known.policy.isolate and known.policy.expires_ms > self.clock()
        return alive and identity not in self.banned


def _without_isolation(membership: Membership) -> Membership:
    return Membership(
        membership.subcloud_id,
        membership.policy_digest,
        membership.joined_ms,
        False,
        membership.certificate,
    )
