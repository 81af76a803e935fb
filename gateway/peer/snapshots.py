"""Owns what is public about the network as this gateway sees it: peers, models, itself. No
addresses, no secrets."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from gateway.jobs import ModelCard
from gateway.peer.dispatch import Dispatcher
from gateway.peer.registry import NodeEntry
from gateway.peer.routing import Candidate
from gateway.peer.services import Services
from gateway.subclouds.placing import GLOBAL_PLACE, Place
from gateway.subclouds.selection import candidates_of
from p2p.certificates import Certificate, Chain
from p2p.codec import encode_message, encode_messages
from p2p.network_configuration import ApprovedModel, NetworkConfiguration
from p2p.types import PeerId


class SubcloudPages(Protocol):
    """What is public about subclouds (`gateway.subclouds.view.GatewaySubclouds`)."""

    def listed(self) -> dict[str, Any]:
        """All that are known."""
        ...

    def one(self, name: str) -> dict[str, Any] | None:
        """One, by ID or label."""
        ...


class Snapshots:
    """Makes the public pages' content. Called in trio."""

    def __init__(
        self,
        services: Services,
        dispatcher: Dispatcher,
        *,
        chain: Chain,
        bootstrap: Callable[[], PeerId | None],
        certificate_of: Callable[[PeerId], Certificate | None],
        log_facts: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """`bootstrap` gives the one that we are connected to; `chain` is our own certificate."""
        self._services = services
        self._dispatcher = dispatcher
        self.chain = chain
        """Our certificate; set anew when it was renewed."""
        self._bootstrap = bootstrap
        self._certificate_of = certificate_of
        self._log_facts = log_facts
        self.subclouds: SubcloudPages | None = None
        """What is public about subclouds."""
        self._started_ms = services.clock_ms()
        self._was_ready = False

    def _configuration(self) -> NetworkConfiguration | None:
        book = self._services.configuration
        return book.current if book.known else None

    def health(self) -> dict[str, Any]:
        """Whether this gateway can serve."""
        connected = self._bootstrap() is not None
        ready = connected and self._services.configuration.known
        self._was_ready = self._was_ready or ready
        trouble = "no_bootstrap" if self._was_ready else "starting"
        return {
            "status": "ok" if ready else trouble,
            "network": self._services.network,
            "bootstrap_connected": connected,
            "nodes": self._services.registry.connected_count(),
            "jobs_running": self._dispatcher.jobs_running,
            "settlements_waiting": self._services.settlement.waiting,
            "leases": self._services.leases.open_count,
        }

    def model_cards(self, place: Place = GLOBAL_PLACE, suffix: str = "") -> list[ModelCard]:
        """The models, approved and unverified, that at least one reachable node serves in the
        global pool, or in a subcloud; `suffix` is put behind their names."""
        configuration = self._configuration()
        if configuration is None:
            return []
        return [
            ModelCard(
                model.name + suffix,
                configuration.issued_ms // 1000,
                model.context_tokens,
                model.verified,
                model.tasks,
            )
            for model in place.models(configuration)
            if any(c.connected for c in self._candidates(model, place))
        ]

    def _candidates(self, model: ApprovedModel, place: Place = GLOBAL_PLACE) -> list[Candidate]:
        services, digest = self._services, bytes.fromhex(model.digest)
        return candidates_of(services.registry, services.placing.directory, place.identity, digest)

    def subcloud_list(self) -> dict[str, Any]:
        """The subclouds that this gateway knows."""
        return self.subclouds.listed() if self.subclouds is not None else {"subclouds": []}

    def subcloud(self, name: str) -> dict[str, Any]:
        """One subcloud; empty if it is not known here."""
        return (self.subclouds.one(name) if self.subclouds is not None else None) or {}

    def models(self) -> dict[str, Any]:
        """All models, approved and unverified: price, context, who serves them."""
        configuration = self._configuration()
        models = configuration.all_models if configuration is not None else ()
        return {"models": [self._model(model) for model in models]}

    def _model(self, model: ApprovedModel) -> dict[str, Any]:
        candidates = [c for c in self._candidates(model) if c.connected]
        return {
            "name": model.name,
            "version": model.version,
            "digest": model.digest,
            "verified": model.verified,
            "modalities": list(model.modalities),
            "context_tokens": model.context_tokens,
            "tasks": list(model.tasks),
            "input_microcredits_per_million_tokens": model.input_microcredits_per_million_tokens,
            "output_microcredits_per_million_tokens": model.output_microcredits_per_million_tokens,
            "nodes": len(candidates),
            "slots": sum(c.slots for c in candidates),
            "slots_free": sum(max(0, c.slots - max(c.running, c.in_flight)) for c in candidates),
            "tokens_per_second": round(sum(c.tokens_per_second for c in candidates), 1),
        }

    def peers(self) -> dict[str, Any]:
        """Every peer that this gateway knows."""
        configuration = self._configuration()
        peers = [self._node(entry, configuration) for entry in self._services.registry.entries()]
        own = self._services.key_pair.peer_id
        now_ms = self._services.clock_ms()
        peers.append({"peer_id": own, "role": "gateway", "last_seen_ms": now_ms, "self": True})
        bootstrap = self._bootstrap()
        if bootstrap is not None:
            certificate = self._certificate_of(bootstrap)
            account = certificate.account_id if certificate is not None else None
            peers.append(
                {
                    "peer_id": bootstrap,
                    "role": "bootstrap",
                    "account_id": account,
                    "connected": True,
                    "last_seen_ms": now_ms,
                }
            )
        return {"peers": peers}

    def _node(self, entry: NodeEntry, configuration: NetworkConfiguration | None) -> dict[str, Any]:
        advert = entry.known.advert
        models = []
        for model in advert.models:
            approved = configuration.model_with_digest(model.digest) if configuration else None
            name = approved.name if approved is not None else model.name
            models.append(
                {"name": name, "context_tokens": model.context_tokens, "mode": model.mode}
            )
        load = next(iter(entry.candidates.values()), None)
        return {
            "peer_id": advert.peer_id,
            "role": "node",
            "account_id": entry.known.certificate.account_id,
            "models": models,
            "software": advert.software,
            "hardware": dataclasses.asdict(advert.hardware) if advert.hardware else None,
            "connected": entry.connected,
            "draining": advert.draining,
            "running": load.running if load is not None else 0,
            "queued": load.queued if load is not None else 0,
            "slots": load.slots if load is not None else 0,
            "accepting": load.accepting if load is not None else False,
            "tokens_per_second": round(load.tokens_per_second, 1) if load is not None else 0.0,
            "last_seen_ms": entry.heard_ms,
        }

    def network(self) -> dict[str, Any]:
        """The network and this gateway's part in it."""
        configuration = self._configuration()
        return {
            "network_id": self._services.network,
            "configuration_version": configuration.version if configuration is not None else 0,
            "gateway_id": self._services.key_pair.peer_id,
            "bootstrap_connected": self._bootstrap() is not None,
            "nodes_known": sum(1 for _ in self._services.registry.entries()),
            "nodes_connected": self._services.registry.connected_count(),
            "jobs_running": self._dispatcher.jobs_running,
            "jobs_done": self._dispatcher.jobs_done,
            "started_ms": self._started_ms,
        }

    def log(self) -> dict[str, Any]:
        """What is known of the ledger's log (`gateway.peer.log_watch`)."""
        return self._log_facts()

    def verification(self) -> dict[str, Any]:
        """What anybody needs to verify a receipt of this gateway."""
        signed = self._services.configuration.signed
        encoded = base64.b64encode(encode_message(signed)).decode() if signed is not None else None
        return {
            "network_id": self._services.network,
            "configuration": encoded,
            "gateway_id": self._services.key_pair.peer_id,
            "gateway_chain": base64.b64encode(encode_messages(self.chain)).decode(),
        }
