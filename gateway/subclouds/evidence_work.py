"""Owns what a gateway does by itself for evidence: the GeoIP file kept current, timed jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from gateway.subclouds.benchmarks import Benchmarker, SpeedProbe, Wanted, wanted_by
from gateway.subclouds.directory import SubcloudDirectory
from gateway.subclouds.evidence import EvidenceDesk
from gateway.subclouds.geo import GeoFile
from p2p.certificates import Chain
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.network import Network
from p2p.signing import KeyPair, Signed
from p2p.subclouds.evaluation import Criterion, Evaluation
from p2p.subclouds.evidence_documents import NodeEvidence
from p2p.subclouds.facts import NodeFacts
from p2p.subclouds.records import KnownPolicy
from p2p.types import AccountId, PeerId

MEMBERS_AT_ONCE = 50
"""About five milliseconds."""


def open_geo_file(path: Path | None) -> GeoFile | None:
    """Read the operator's GeoIP file, if there is one. Raises: GatewaySetupError."""
    return GeoFile(path) if path is not None else None


class EvidenceWork:
    """Keeps the GeoIP file current, and tests members whose policies want that."""

    def __init__(
        self,
        network: Network,
        key_pair: KeyPair,
        directory: SubcloudDirectory,
        desk: EvidenceDesk,
        configuration: ConfigurationBook,
        *,
        chain: Callable[[], Chain],
        account_id: Callable[[], AccountId],
        clock_ms: Clock,
    ) -> None:
        """Work for what `directory` knows; `account_id`: whose gateway this is."""
        self._network = network
        self._key_pair = key_pair
        self._directory = directory
        self._desk = desk
        self._configuration = configuration
        self._chain = chain
        self._account_id = account_id
        self._clock_ms = clock_ms

    async def run(self) -> None:
        """Work until cancelled."""
        probe = SpeedProbe(self._network, self._key_pair, self._chain, self._clock_ms)
        benchmarker = Benchmarker(probe, self.wanted, self._measured)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(benchmarker.run)
            if self._desk.geo is not None:
                self._desk.geo.on_change = self._directory.judge_all
                nursery.start_soon(self._desk.geo.run)

    def wanted(self) -> Iterator[Wanted | None]:
        """Give what the policies that admit this gateway want measured of connected members.

        None now and then: many members are looked at, other work may have its turn.
        """
        if not self._configuration.known:
            return
        now_ms = self._clock_ms()
        configuration = self._configuration.current
        for known in self._directory.policies.all():
            policy = known.policy
            if policy.hardware.evidence != "benchmarked":
                continue
            if not policy.admits_gateway(self._key_pair.peer_id, self._account_id()):
                continue
            for place, member in enumerate(self._members(known, now_ms)):
                yield from wanted_by(policy, member, configuration, now_ms)
                if place % MEMBERS_AT_ONCE == 0:
                    yield None

    def _members(
        self, known: KnownPolicy, now_ms: int
    ) -> Iterator[list[tuple[NodeFacts, NodeEvidence | None]]]:
        for peer_id, evaluation in self._directory.evaluations(known.identity).items():
            if not _is_member(evaluation) or self._network.way_to(peer_id) is None:
                continue
            facts = self._desk.facts_of(peer_id, now_ms)
            if facts is not None and not facts.banned:
                yield [(facts, self._desk.evidence_of(peer_id))]

    def _measured(self, node: PeerId, model_digest: bytes, signed: Signed) -> None:
        self._desk.add_own(node, model_digest, signed)
        self._directory.node_changed(node)


def _is_member(evaluation: Evaluation) -> bool:
    verdicts = {verdict.criterion: verdict.passed for verdict in evaluation.verdicts}
    return verdicts.get(Criterion.POLICY, False) and verdicts.get(Criterion.MEMBERSHIP, False)
