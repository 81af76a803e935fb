"""Owns what this gateway knows of each node beside its memberships: facts, and how well supported.

Theory of operation. A node's statement brings documents of others; they are opened once, when the
statement is new (`p2p.subclouds.evidence`). The gateway adds what it found out itself: the country
of the node's direct address by its operator's GeoIP file, and its own benchmarks, which count here
before the node has shown them to anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gateway.limits import OWN_BENCHMARKS_PER_NODE_MAX
from gateway.subclouds.geo import GeoFile
from p2p.adverts import KnownAdvert
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.signing import Signed
from p2p.subclouds.evidence import facts_of, with_evidence
from p2p.subclouds.evidence_documents import NodeEvidence, open_evidence
from p2p.subclouds.facts import NodeFacts, Standing
from p2p.subclouds.memberships import KnownMemberships, RevocationList
from p2p.subclouds.records import KnownPolicy
from p2p.types import NetworkId, PeerId

Conduct = Callable[[KnownPolicy, Standing, NodeFacts, int], Standing]
"""Adds reputation, service level and suspension to a standing."""


def _no_conduct(known: KnownPolicy, standing: Standing, facts: NodeFacts, now_ms: int) -> Standing:
    return standing


class EvidenceDesk:
    """Makes facts and standings of what is known (a `FactsSource` of `SubcloudDirectory`)."""

    def __init__(
        self,
        network: NetworkId,
        configuration: ConfigurationBook,
        *,
        advert_of: Callable[[PeerId], KnownAdvert | None],
        address_of: Callable[[PeerId], str],
        revocations_of: Callable[[KnownPolicy], RevocationList | None],
        clock_ms: Clock,
        geo: GeoFile | None = None,
        conduct: Conduct = _no_conduct,
    ) -> None:
        """Ask these.

        Args:
            advert_of: the newest advert of a node. address_of: the IP address of the direct
                connection to a node, empty if there is none. geo: None: nothing is known by GeoIP.
        """
        self._network = network
        self._configuration = configuration
        self._advert_of = advert_of
        self._address_of = address_of
        self._revocations_of = revocations_of
        self._clock_ms = clock_ms
        self.geo = geo
        self._conduct = conduct
        self._evidence: dict[PeerId, NodeEvidence] = {}
        self._own: dict[PeerId, dict[bytes, Signed]] = {}

    def stated(self, known: KnownMemberships) -> None:
        """A node's newer statement was verified: open its evidence, if that is new, too."""
        peer_id = known.statement.peer_id
        before = self._evidence.get(peer_id)
        if before is not None and before.known.statement.evidence == known.statement.evidence:
            self._evidence[peer_id] = replace(before, known=known)
        else:
            self._open(known)

    def _open(self, known: KnownMemberships) -> None:
        peer_id = known.statement.peer_id
        own = self._own.get(peer_id, {}).values()
        self._evidence[peer_id] = open_evidence(known, self._network, self._clock_ms(), own)

    def add_own(self, peer_id: PeerId, model_digest: bytes, signed: Signed) -> None:
        """This gateway measured a node itself."""
        own = self._own.setdefault(peer_id, {})
        own.pop(model_digest, None)
        own[model_digest] = signed
        while len(own) > OWN_BENCHMARKS_PER_NODE_MAX:
            del own[next(iter(own))]
        evidence = self._evidence.get(peer_id)
        if evidence is not None:
            self._open(evidence.known)

    def evidence_of(self, peer_id: PeerId) -> NodeEvidence | None:
        """What a node's statement brought, and what was measured here."""
        return self._evidence.get(peer_id)

    def facts_of(self, peer_id: PeerId, now_ms: int) -> NodeFacts | None:
        """A node's facts, without any standing; None if it is not known."""
        advert = self._advert_of(peer_id)
        evidence = self._evidence.get(peer_id)
        # A statement may come before the advert, and outlive it: only its own end ends it.
        if evidence is not None and evidence.known.statement.expires_ms <= now_ms:
            evidence = None
            del self._evidence[peer_id]
        if advert is None:
            if evidence is None:
                self._own.pop(peer_id, None)
            return None
        if not self._configuration.known:
            return None
        country = self.country_of(peer_id) if evidence is not None else ""
        return facts_of(advert, evidence, self._configuration.current, now_ms, country)

    def complete(
        self, known: KnownPolicy, standing: Standing, facts: NodeFacts, now_ms: int
    ) -> Standing:
        """Add to a standing what counts in that subcloud only: evidence and conduct."""
        evidence = self._evidence.get(facts.peer_id)
        if evidence is not None and self._configuration.known:
            standing = with_evidence(
                standing,
                known.policy,
                facts,
                evidence,
                self._configuration.current,
                now_ms,
                self._revocations_of(known),
            )
        return self._conduct(known, standing, facts, now_ms)

    def country_of(self, peer_id: PeerId) -> str:
        """What the GeoIP file says of a node's direct address; empty if that is not known."""
        return self.geo.country_of(self._address_of(peer_id)) if self.geo is not None else ""
