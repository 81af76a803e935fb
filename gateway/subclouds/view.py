"""Owns what is shown of subclouds: public facts to anybody, members to the owner.

What is public says nothing about single nodes: the policy, how many qualify for which model, and
why requests were refused. Who the members are, how they do and why one does not qualify is for the
owner and the delegates, whose signed request the HTTP side has checked.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pydantic

from gateway.bridge import Bridge
from gateway.errors import GatewayError
from gateway.limits import SUBCLOUD_VIEW_MEMBERS_MAX, SUBCLOUDS_LISTED_MAX
from gateway.peer.registry import Registry
from gateway.subclouds.directory import SubcloudDirectory
from gateway.subclouds.names import Names
from gateway.subclouds.tally import Tally
from p2p.clock import Clock
from p2p.network_configuration import NetworkConfiguration
from p2p.subclouds.evaluation import Evaluation, Verdict, evaluate
from p2p.subclouds.facts import NodeFacts, Standing
from p2p.subclouds.identity import SubcloudId, label_of
from p2p.subclouds.records import KnownPolicy
from p2p.subclouds.terms import model_of_digest
from p2p.types import PeerId


class GatewaySubclouds:
    """Makes the views (a `SubcloudView`). The plain methods are called in trio."""

    def __init__(
        self,
        bridge: Bridge,
        directory: SubcloudDirectory,
        names: Names,
        registry: Registry,
        tally: Tally,
        configuration: Callable[[], NetworkConfiguration | None],
        clock_ms: Clock,
    ) -> None:
        """Show what these know."""
        self._bridge = bridge
        self._directory = directory
        self._names = names
        self._registry = registry
        self._tally = tally
        self._configuration = configuration
        self._clock_ms = clock_ms

    # --- for the HTTP thread --------------------------------------------------------------------
    async def known(self, name: str) -> KnownPolicy | None:
        """The policy that this gateway goes by, by ID or label; None if there is none."""

        async def work() -> KnownPolicy | None:
            identity = self._names.known(name)
            known = self._directory.policy(identity) if identity else None
            if known is not None or identity == "":
                return known
            try:
                return await self._names.fetch(name)
            except GatewayError:
                return None

        return await self._bridge.call(work)

    async def members(self, identity: SubcloudId) -> dict[str, Any]:
        """Members with verdicts, load and refusals: for the owner."""

        async def work() -> dict[str, Any]:
            return self.owners_view(identity)

        return await self._bridge.call(work)

    async def candidates(self, identity: SubcloudId, peer_ids: Sequence[PeerId]) -> dict[str, Any]:
        """How nodes that ask to join would do as members, by peer ID: for the owner."""

        async def work() -> dict[str, Any]:
            return self.judged(identity, peer_ids)

        return await self._bridge.call(work)

    # --- public ---------------------------------------------------------------------------------
    def listed(self) -> dict[str, Any]:
        """All subclouds that this gateway knows, in the order of their names."""
        everything = sorted(self._directory.policies.all(), key=lambda known: known.identity)
        shown = [self._facts(known) for known in everything[:SUBCLOUDS_LISTED_MAX]]
        return {"subclouds": shown, "known": len(everything)}

    def one(self, name: str) -> dict[str, Any] | None:
        """One subcloud, by ID or by a label that is known here; None if it is not known."""
        identity = self._names.known(name)
        known = self._directory.policy(identity) if identity else None
        if known is None:
            return None
        identity = known.identity
        evaluations = self._directory.evaluations(identity)
        qualified = Counter(model for e in evaluations.values() for model in e.models)
        counts = self._tally.of(identity)
        return {
            **self._facts(known),
            "models": self._models(known, qualified),
            "members_qualified": sum(e.qualifies for e in evaluations.values()),
            "removed": self._removed(evaluations),
            "jobs_running": counts.jobs_running,
            "jobs": counts.jobs,
            "fallbacks": counts.fallbacks,
            "refusals": dict(counts.refusals),
        }

    def _facts(self, known: KnownPolicy) -> dict[str, Any]:
        policy = known.policy
        return {
            "id": known.identity,
            "label": label_of(known.identity),
            "owner": policy.owner,
            "version": policy.version,
            "digest": known.digest,
            "join": policy.join,
            "isolate": policy.isolate,
            "fallback": policy.fallback,
            "expires_ms": policy.expires_ms,
            "ended": policy.ended,
            "banned": self._directory.is_banned(known.identity),
            "members": len(self._directory.members(known.identity)),
        }

    def _models(self, known: KnownPolicy, qualified: Counter[bytes]) -> list[dict[str, Any]]:
        configuration = self._configuration()
        shown = []
        for digest, nodes in qualified.items():
            model = (
                model_of_digest(configuration, known.policy, digest)
                if configuration is not None
                else None
            )
            name = model.name if model is not None else ""
            shown.append({"name": name, "digest": digest.hex(), "nodes": nodes})
        return sorted(shown, key=lambda item: str(item["name"]))

    def _removed(self, evaluations: dict[PeerId, Evaluation]) -> dict[str, int]:
        failed = (e.failed[0].criterion.value for e in evaluations.values() if not e.qualifies)
        return dict(Counter(failed))

    # --- the owner's ----------------------------------------------------------------------------
    def owners_view(self, identity: SubcloudId) -> dict[str, Any]:
        """Members, qualified or not and why, with their load and service."""
        now_ms = self._clock_ms()
        known = self._directory.policy(identity)
        revocations = self._directory.policies.revocations(identity)
        evaluations = self._directory.evaluations(identity)
        members = self._directory.members(identity)
        first = sorted(members)[:SUBCLOUD_VIEW_MEMBERS_MAX]
        counts = self._tally.of(identity)
        return {
            "policy": (
                {"version": known.policy.version, "digest": known.digest} if known else None
            ),
            "revocation_list": (
                {
                    "number": revocations.number,
                    "age_s": max(0, now_ms - revocations.issued_ms) // 1000,
                }
                if revocations is not None
                else None
            ),
            "members": [self._member(peer, evaluations.get(peer), identity) for peer in first],
            "members_known": len(members),
            "removed": self._removed(evaluations),
            "jobs": counts.jobs,
            "jobs_running": counts.jobs_running,
            "fallbacks": counts.fallbacks,
            "refusals": dict(counts.refusals),
        }

    def _member(
        self, peer_id: PeerId, evaluation: Evaluation | None, identity: SubcloudId
    ) -> dict[str, Any]:
        member = self._directory.members(identity)[peer_id]
        standing = self._directory.standing(identity, peer_id) or member.standing
        entry = self._registry.entry(peer_id)
        load = next(iter(entry.candidates.values()), None) if entry is not None else None
        certificate = member.certificate
        return {
            "peer_id": peer_id,
            **_judged(evaluation),
            "known": entry is not None,
            "connected": entry is not None and entry.connected,
            "slots": load.slots if load is not None else 0,
            "jobs_running": load.running if load is not None else 0,
            "service": plain(standing.service),
            "reputation": plain(standing.reputation),
            "certificate_id": certificate.certificate_id.hex() if certificate is not None else None,
            "certificate_expires_ms": certificate.expires_ms if certificate is not None else None,
            "joined_ms": member.joined_ms,
            "until_ms": standing.until_ms,
            "isolated": standing.isolated,
        }

    def judged(self, identity: SubcloudId, peer_ids: Iterable[PeerId]) -> dict[str, Any]:
        """How nodes would do under a subcloud's policy if they were members of it."""
        known = self._directory.policy(identity)
        if known is None:
            return {}
        now_ms = self._clock_ms()
        found: dict[str, Any] = {}
        for peer_id in peer_ids:
            facts = self._directory.facts(peer_id)
            if facts is not None:
                as_member = replace(facts, standing=self._as_member(known, facts, now_ms))
                found[peer_id] = _judged(evaluate(known.policy, known.digest, as_member, now_ms))
        return found

    def _as_member(self, known: KnownPolicy, facts: NodeFacts, now_ms: int) -> Standing:
        standing = Standing(
            policy_digest=known.digest,
            certified=True,
            until_ms=known.policy.expires_ms,
            isolated=True,
        )
        return self._directory.completed(known, standing, facts, now_ms)


def _judged(evaluation: Evaluation | None) -> dict[str, Any]:
    if evaluation is None:  # a member of which there is no advert
        return {"qualifies": False, "failed": [], "verdicts": [], "models": []}
    return {
        "qualifies": evaluation.qualifies,
        "failed": [_shown(verdict) for verdict in evaluation.failed],
        "verdicts": [_shown(verdict) for verdict in evaluation.verdicts],
        "models": [digest.hex() for digest in evaluation.models],
    }


def _shown(verdict: Verdict) -> dict[str, Any]:
    return {
        "criterion": verdict.criterion.value,
        "passed": verdict.passed,
        "wanted": plain(verdict.wanted),
        "found": plain(verdict.found),
    }


def plain(value: object) -> Any:
    """Give a value as JSON can have it."""
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, str | int | float | bool | None) else str(value)
