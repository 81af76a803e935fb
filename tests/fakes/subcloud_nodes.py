"""Owns the nodes of a simulation: honest ones with the node's own rules, and liars without any."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from node.agent.offer_rules import Capacity, check_offer
from node.agent.runtime_port import ModelFacts, ModelState
from node.agent.subcloud_offers import Place
from node.subclouds.kept import KeptState, MembershipFile
from node.subclouds.manager import Declarations, SubcloudManager
from node.subclouds.service import SubcloudService
from node.subclouds.settings import SubcloudSettings
from p2p.adverts import Advert
from p2p.certificates import Certificate
from p2p.clock import Clock
from p2p.codec import decode_message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import RefusedError
from p2p.job_messages import Offer
from p2p.network import Network
from p2p.signing import KeyPair, Signed
from p2p.subclouds.memberships import (
    Membership,
    MembershipCertificate,
    MembershipStatement,
)
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.sync import SubcloudSync
from p2p.types import PeerId, Role
from tests.fakes import trust
from tests.fakes.served_models import FakeModel
from tests.fakes.subcloud_bootstrap import SimBootstrap, SimLink
from tests.fakes.subcloud_owners import DIGESTS, Owner

LATE_S = 8.0
LIES = ("forger", "traveller", "laggard")
"""A certificate that no delegate signed; another country; a policy that was replaced."""


class NoFile(MembershipFile):
    """Memberships that are kept in memory only."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"))

    def load(self) -> KeptState:
        return KeptState()

    def save(self, state: KeptState) -> None:
        pass

    def note(self, changes: object, now_ms: int) -> None:
        pass


@dataclass
class NodePlan:
    """What a node is, in truth and in its own words."""

    number: int
    key: KeyPair
    country: str
    declared: str
    models: tuple[bytes, ...]
    wants: tuple[Owner, ...]
    isolate: Owner | None = None
    stores_nothing: bool = False
    lie: str = ""
    starts_s: float = 0.0
    attested: tuple[Owner, ...] = ()
    joins_everything: bool = False

    @property
    def is_late(self) -> bool:
        """Whether it comes when the world is old."""
        return self.starts_s == LATE_S

    @property
    def peer_id(self) -> PeerId:
        """The node's ID."""
        return self.key.peer_id


def draw_plan(seed: int, number: int, owners: list[Owner], chance: random.Random) -> NodePlan:
    """Draw a node."""
    country = chance.choice(("DE", "DE", "FR", "US"))
    lie = chance.choice(LIES) if chance.random() < 0.25 else ""
    wants = tuple(chance.sample(owners, chance.randint(1, 4)))
    isolate = chance.choice(wants) if chance.random() < 0.2 else None
    return NodePlan(
        number,
        KeyPair(random.Random(f"node/{seed}/{number}").randbytes(32)),
        country,
        chance.choice(("DE", "FR"))
        if lie == "traveller"
        else chance.choice((country, country, "")),
        tuple(chance.sample(DIGESTS, chance.randint(1, 3))),
        wants,
        isolate,
        stores_nothing=chance.random() < 0.7,
        lie=lie,
        starts_s=LATE_S if chance.random() < 0.1 else chance.uniform(0, 3),
        attested=tuple(owner for owner in wants if chance.random() < 0.5),
        joins_everything=chance.random() < 0.01,
    )


@dataclass
class SimNode:
    """One node: honest (`plan.lie` empty) or not."""

    plan: NodePlan
    configuration: ConfigurationBook
    bootstrap: SimBootstrap
    clock_ms: Clock
    evidence: list[Signed] = field(default_factory=list)
    network: Network | None = None

    def __post_init__(self) -> None:
        """Make its parts."""
        plan = self.plan
        chain = trust.node_chain(plan.key, lifetime_s=86_400.0)
        self.membership = trust.membership(
            plan.key,
            Role.NODE,
            chain,
            self.clock_ms,
            book=self.configuration,  # type: ignore[arg-type]
        )
        self.book = PolicyBook(trust.NETWORK, clock_ms=self.clock_ms)
        names = [owner.label for owner in plan.wants]
        settings = SubcloudSettings(
            tuple(names + (["*"] if plan.joins_everything else [])),
            plan.isolate.label if plan.isolate is not None else "",
        )
        self.manager = SubcloudManager(
            self.membership,
            self.configuration,
            self.book,
            NoFile(),
            settings,
            Declarations(plan.declared, plan.stores_nothing),
            clock_ms=self.clock_ms,
        )
        self.models = [_model(digest) for digest in plan.models]
        self.manager.models = lambda: self.models
        self.manager.evidence = lambda: tuple(self.evidence)
        rules = self.configuration.current.subclouds
        self.service = SubcloudService(
            self.manager,
            SubcloudSync(self.book, lambda: rules),
            self.membership,
            Path("/nonexistent/wishes.json"),
            clock_ms=self.clock_ms,
        )
        self._sequence = 0

    async def run(self, network: Network) -> None:
        """Follow policies and memberships (the honest ones), until cancelled."""
        self.network = network
        if not self.plan.lie:
            await self.service.run(network, SimLink(self.bootstrap, self.plan.peer_id))  # type: ignore[arg-type]

    def statement(self) -> Signed | None:
        """What it says of its memberships."""
        return self._lies() if self.plan.lie else self.manager.statement()

    def advert(self) -> Signed:
        """What it says that it serves."""
        now_ms = self.clock_ms()
        self._sequence = max(self._sequence + 1, now_ms)
        adverts = [model.advert() for model in self.models]
        document = Advert(
            self.plan.peer_id,
            self._sequence,
            now_ms,
            now_ms + 45_000,
            self.membership.chain,
            (),
            tuple(advert for advert in adverts if advert is not None),
            "sim",
        )
        return self.plan.key.sign(trust.NETWORK, document)

    def judge(self, offer: Offer, gateway: PeerId) -> None:
        """Take an offer, or not. Raises: RefusedError."""
        if self.plan.lie:
            return
        served = next((m for m in self.models if m.facts.digest == offer.model_digest), None)
        identity = offer.terms.subcloud_id
        place = (
            Place(joined=self.manager.joined(identity))
            if identity
            else Place(isolated=self.manager.isolated)
        )
        check_offer(
            offer,
            node_id=self.plan.peer_id,
            gateway_id=gateway,
            gateway=gateway_certificate(gateway),
            configuration=self.configuration.current,
            model_digest=served.facts.digest if served is not None else None,
            capacity=Capacity(0, 8, True, False),
            now_ms=self.clock_ms(),
            place=place,
        )

    def refusal(self, offer: Offer, gateway: PeerId) -> str:
        """Judge an offer: the code of the refusal, or empty."""
        try:
            self.judge(offer, gateway)
        except RefusedError as error:
            return error.code
        return ""

    def _lies(self) -> Signed:
        """Claim to be a member of everything that it wants, whatever that takes."""
        now_ms, lie = self.clock_ms(), self.plan.lie
        memberships = []
        for owner in self.plan.wants:
            version = owner.versions[0] if lie == "laggard" else owner.newest
            certificate = None
            if version.policy.join != "open":
                genuine = owner.certificates.get(self.plan.peer_id, [])
                certificate = genuine[-1] if genuine else self._forged(owner, now_ms)
            memberships.append(
                Membership(
                    owner.identity,
                    bytes.fromhex(version.digest),
                    now_ms - 60_000,
                    owner is self.plan.isolate,
                    certificate,
                )
            )
        document = MembershipStatement(
            self.plan.peer_id,
            now_ms,
            now_ms,
            now_ms + 300_000,
            self.membership.chain,
            tuple(memberships),
            self.plan.declared,
            True,
            tuple(self.evidence),
        )
        return self.plan.key.sign(trust.NETWORK, document)

    def _forged(self, owner: Owner, now_ms: int) -> Signed:
        document = MembershipCertificate(
            bytes(16), owner.identity, self.plan.peer_id, now_ms, now_ms + 600_000
        )
        return self.plan.key.sign(trust.NETWORK, document)


def _model(digest: bytes) -> FakeModel:
    number = DIGESTS.index(digest)
    name = "tuned" if number == 3 else f"model-{number}"
    facts = ModelFacts(name, digest, digest, "Q8_0")
    return FakeModel(None, 4, facts, ModelState.ACTIVE)  # type: ignore[arg-type]


def gateway_certificate(peer_id: PeerId) -> Certificate:
    """The certificate of a gateway."""
    return decode_message(trust.certificate(peer_id, Role.GATEWAY).body, Certificate)
