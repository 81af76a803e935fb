"""Owns what the gateway knows of nodes: verified adverts, and the live state of those it has
sessions with.

Adverts come by gossip, from a bootstrap's list at the start, and from the DHT; all are verified
here and none is liveness. Load comes over sessions. For each node and model there is one
`Candidate`, kept up to date in place so that a request looks at a list and computes nothing
twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gateway.limits import NODE_PENALTY_S, SESSIONS_MAX
from gateway.peer.routing import Candidate
from p2p.adverts import AdvertBook, KnownAdvert, ModelAdvert, verify_advert
from p2p.clock import Clock
from p2p.errors import P2PError
from p2p.job_messages import LoadReport
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import Signed
from p2p.types import NetworkId, PeerId

log = logging.getLogger(__name__)


@dataclass(slots=True)
class NodeEntry:
    """One node as the gateway knows it."""

    known: KnownAdvert
    candidates: dict[bytes, Candidate] = field(default_factory=dict)
    heard_ms: int = 0
    connected: bool = False


class Registry:
    """All known nodes."""

    def __init__(self, network: NetworkId, *, now_s: Callable[[], float], clock_ms: Clock) -> None:
        """Start empty; `now_s` is monotonic."""
        self._network = network
        self._now_s = now_s
        self._clock_ms = clock_ms
        self._book = AdvertBook()
        self._nodes: dict[PeerId, NodeEntry] = {}
        self._by_model: dict[bytes, dict[PeerId, Candidate]] = {}
        self._configuration: NetworkConfiguration | None = None
        self.on_news: Callable[[PeerId | None], None] = lambda peer_id: None
        """Called with the node that said something new, or None: sessions may be wanted."""
        self.on_node: Callable[[PeerId], None] = lambda peer_id: None
        """Called with a node whose advert is new, or that is forgotten."""
        self.is_needed: Callable[[PeerId], bool] = lambda peer_id: False
        """Whether a node that serves no approved model serves some subcloud."""

    # --- adverts --------------------------------------------------------------------------------
    def add(self, signed: Signed) -> bool:
        """Verify an advert and take it. Returns: whether it was news. Raises: P2PError."""
        now_ms = self._clock_ms()
        known = verify_advert(signed, self._network, now_ms)
        if not self._book.add(known, now_ms):
            return False
        self._take(known, now_ms)
        return True

    def add_quietly(self, signed: Signed) -> None:
        """Like `add`, for hints: what cannot be believed is dropped without a word to anybody."""
        try:
            self.add(signed)
        except P2PError as error:
            log.debug("advert dropped: %s", error)

    def prune(self) -> None:
        """Forget nodes whose adverts have expired and to which there is no session."""
        now_ms = self._clock_ms()
        self._book.prune(now_ms)
        for peer_id, entry in list(self._nodes.items()):
            if entry.known.advert.expires_ms <= now_ms and not entry.connected:
                self._drop(peer_id)

    def configure(self, configuration: NetworkConfiguration) -> None:
        """A new configuration is in force: approved models and bans may have changed."""
        self._configuration = configuration
        for peer_id, entry in self._nodes.items():
            for candidate in entry.candidates.values():
                candidate.banned = configuration.is_banned(peer_id)
        self.on_news(None)

    def _take(self, known: KnownAdvert, now_ms: int) -> None:
        peer_id = known.advert.peer_id
        entry = self._nodes.get(peer_id)
        if entry is None:
            entry = self._nodes[peer_id] = NodeEntry(known)
        entry.known, entry.heard_ms = known, now_ms
        gone = set(entry.candidates) - {model.digest for model in known.advert.models}
        for digest in gone:
            del entry.candidates[digest]
            self._by_model.get(digest, {}).pop(peer_id, None)
        for model in known.advert.models:
            self._update(entry, model)
        self.on_node(peer_id)
        self.on_news(peer_id)

    def _update(self, entry: NodeEntry, model: ModelAdvert) -> None:
        peer_id = entry.known.advert.peer_id
        candidate = entry.candidates.get(model.digest)
        if candidate is None:
            candidate = Candidate(peer_id, model.digest, model.model_id, model.context_tokens, 1)
            candidate.connected = entry.connected
            entry.candidates[model.digest] = candidate
            self._by_model.setdefault(model.digest, {})[peer_id] = candidate
        candidate.model_id = model.model_id
        candidate.context_tokens = model.context_tokens
        candidate.slots = model.slots
        candidate.takes_images = "image" in model.modalities
        candidate.verified = model.verified
        candidate.tasks = model.tasks
        candidate.draining = entry.known.advert.draining
        candidate.certificate_expires_ms = entry.known.certificate.expires_ms
        if self._configuration is not None:
            candidate.banned = self._configuration.is_banned(peer_id)

    def _drop(self, peer_id: PeerId) -> None:
        entry = self._nodes.pop(peer_id, None)
        for digest in entry.candidates if entry is not None else ():
            self._by_model.get(digest, {}).pop(peer_id, None)
        self.on_node(peer_id)

    # --- live state -----------------------------------------------------------------------------
    def connected(self, peer_id: PeerId, connected: bool) -> None:
        """A session with a node came up or ended."""
        entry = self._nodes.get(peer_id)
        if entry is None:
            return
        entry.connected = connected
        for candidate in entry.candidates.values():
            candidate.connected = connected
            if not connected:
                candidate.in_flight = 0
                candidate.running = candidate.queued = 0
                candidate.accepting = True
                candidate.needs_voucher = False

    def load(self, peer_id: PeerId, report: LoadReport) -> None:
        """A node told its load."""
        entry = self._nodes.get(peer_id)
        if entry is None:
            return
        entry.heard_ms = self._clock_ms()
        for candidate in entry.candidates.values():
            candidate.running, candidate.queued = report.running, report.queued
            candidate.slots = max(1, report.slots)
            candidate.accepting = report.accepting
            candidate.tokens_per_second = max(0.0, report.tokens_per_second)

    def penalise(self, candidate: Candidate) -> None:
        """A node lost a job: for a while it comes after all others."""
        candidate.penalty_until_s = self._now_s() + NODE_PENALTY_S

    # --- questions ------------------------------------------------------------------------------
    def candidates(self, model_digest: bytes) -> Iterable[Candidate]:
        """The nodes that say they serve a model."""
        return self._by_model.get(model_digest, {}).values()

    def by_model(self, model_digest: bytes) -> Mapping[PeerId, Candidate]:
        """The same nodes by their IDs."""
        return self._by_model.get(model_digest, {})

    def entry(self, peer_id: PeerId) -> NodeEntry | None:
        """What is known of one node."""
        return self._nodes.get(peer_id)

    def entries(self) -> Iterable[NodeEntry]:
        """All known nodes."""
        return self._nodes.values()

    def wanted(self, peer_id: PeerId) -> bool:
        """Whether a session with a node should be kept: valid advert, approved model, no ban."""
        entry = self._nodes.get(peer_id)
        if entry is None or self._configuration is None:
            return False
        advert = entry.known.advert
        if advert.expires_ms <= self._clock_ms() or self._configuration.is_banned(peer_id):
            return False
        approved = any(self._configuration.model_with_digest(d) for d in entry.candidates)
        return approved or self.is_needed(peer_id)

    def working_set(self) -> list[PeerId]:
        """The nodes to keep sessions with (at most SESSIONS_MAX, known ones stay)."""
        live = [peer_id for peer_id in self._nodes if self.wanted(peer_id)]
        return live[:SESSIONS_MAX]

    def reachable(self, model_digest: bytes) -> int:
        """How many nodes with a session serve a model."""
        return sum(c.connected for c in self.candidates(model_digest))

    def connected_count(self) -> int:
        """How many nodes there are sessions with."""
        return sum(entry.connected for entry in self._nodes.values())
