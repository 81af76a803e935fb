"""Owns what a gateway knows of how members conducted themselves: fetched counts, and judgements.

Theory of operation. Only policies that ask for reputation or for a service level cost anything.
For the members of those the gateway asks its bootstrap every CONDUCT_INTERVAL_S: reputation as sums
over all subclouds, service by intervals since the last answer. What it has is judged by pure
functions (`p2p.subclouds.conduct`) at the end of each step of the policy, so that gateways that
know the same counts judge alike. While no bootstrap answers, the last judgement stays.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from gateway.limits import (
    CONDUCT_INTERVAL_S,
    CONDUCT_MEMBERS_MAX,
    CONDUCT_OVERLAP_MS,
    CONDUCT_PAGES_MAX,
    CONDUCT_REPUTATIONS_PER_ROUND,
    CONDUCT_SILENCE_MS_MAX,
)
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.conduct_messages import (
    CONDUCT_GET,
    CONDUCT_NODES_MAX,
    ConductCounts,
    ConductQuery,
    ConductReport,
    UptimeDay,
)
from p2p.errors import P2PError, UntrustedError
from p2p.signing import Signed, open_signed
from p2p.subclouds.conduct import (
    NOTHING_KNOWN,
    REPUTATION_WINDOW_MS,
    Conduct,
    asks_service,
    judge,
    judged_since_ms,
    reputation_of,
    with_conduct,
)
from p2p.subclouds.facts import NodeFacts, Standing
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.records import KnownPolicy
from p2p.types import AccountId, NetworkId, PeerId
from p2p.uplink import Uplink

log = logging.getLogger(__name__)
DAY_MS = 86_400_000
Followed = Iterable[tuple[KnownPolicy, Collection[PeerId]]]
Interval = tuple[str, str, bool, int, int]
"""What a row is about: gateway, its account, related, from, until."""


class ConductSource(Protocol):
    """Answers how nodes conducted themselves."""

    async def conduct(self, query: ConductQuery) -> ConductReport:
        """Give one page. Raises: P2PError."""
        ...


class UplinkConductSource:
    """Asks the bootstrap that the uplink is linked to, and believes only what that one signed."""

    def __init__(self, uplink: Uplink, network: NetworkId) -> None:
        """Ask through this uplink."""
        self._uplink = uplink
        self._network = network

    async def conduct(self, query: ConductQuery) -> ConductReport:
        """Give one page. Raises: P2PError."""
        answer = await self._uplink.call(CONDUCT_GET, encode_message(query), urgent=False)
        signed = decode_message(answer, Signed)
        bootstrap = self._uplink.bootstrap
        if bootstrap is not None and signed.peer_id != bootstrap:
            raise UntrustedError("counts of conduct that the bootstrap did not sign")
        report = open_signed(signed, ConductReport, self._network)
        if (report.subcloud_id, report.since_ms) != (query.subcloud_id, query.since_ms):
            raise UntrustedError("counts of conduct that nobody asked for")
        return report


@dataclass(slots=True)
class _Known:
    """What is known of one member in one subcloud."""

    reputation: tuple[ConductCounts, ...] = ()
    service: dict[Interval, ConductCounts] = field(default_factory=dict)
    uptime: dict[int, UptimeDay] = field(default_factory=dict)
    conduct: Conduct = NOTHING_KNOWN


class ConductFeed:
    """Keeps the judgements of members current. Usable while `run` runs."""

    def __init__(
        self,
        source: ConductSource,
        followed: Callable[[], Followed],
        clock_ms: Clock,
        on_change: Callable[[PeerId], None],
    ) -> None:
        """Ask `source` about the members that `followed` gives with their policies; `on_change` is
        told of each node about which the judgement is another one."""
        self._source = source
        self._followed = followed
        self._clock_ms = clock_ms
        self._on_change = on_change
        self._known: dict[SubcloudId, dict[PeerId, _Known]] = {}
        self._fetched_ms: dict[SubcloudId, int] = {}
        self._turns: dict[SubcloudId, int] = {}

    def conduct(self, identity: SubcloudId, peer_id: PeerId) -> Conduct:
        """Give what is known of a member's conduct in a subcloud."""
        known = self._known.get(identity, {}).get(peer_id)
        return NOTHING_KNOWN if known is None else known.conduct

    def add_to(
        self, known: KnownPolicy, standing: Standing, facts: NodeFacts, now_ms: int
    ) -> Standing:
        """Put what is known of a member's conduct into its standing."""
        return with_conduct(standing, self.conduct(known.identity, facts.peer_id))

    async def run(self) -> None:
        """Ask and judge until cancelled."""
        while True:
            await self.look()
            await trio.sleep(CONDUCT_INTERVAL_S)

    async def look(self) -> None:
        """Ask once about every member that matters, and judge."""
        asking: set[SubcloudId] = set()
        for known, members in list(self._followed()):
            policy = known.policy
            if not (asks_reputation(policy) or asks_service(policy.service)):
                continue
            asking.add(known.identity)
            chosen = sorted(members)[:CONDUCT_MEMBERS_MAX]
            try:
                await self._fetch(policy, chosen)
            except P2PError as error:
                log.info("conduct in %s is not known anew: %s", known.identity, error)
            await self._judge(policy)
        for identity in self._known.keys() - asking:
            self._fetched_ms.pop(identity, None)
            self._turns.pop(identity, None)
            for peer_id in self._known.pop(identity):
                self._on_change(peer_id)

    # --- asking ---------------------------------------------------------------------------------
    async def _fetch(self, policy: SubcloudPolicy, members: Sequence[PeerId]) -> None:
        identity, now_ms = policy.identity, self._clock_ms()
        known = self._known.setdefault(identity, {})
        new = {peer_id: None for peer_id in members if peer_id not in known}
        for gone in known.keys() - set(members):
            del known[gone]
        if asks_reputation(policy):
            since_ms = (now_ms - REPUTATION_WINDOW_MS) // DAY_MS * DAY_MS
            for nodes in _parts(self._turn(identity, members, new)):
                await self._fetch_reputation(known, nodes, since_ms)
        if not asks_service(policy.service):
            return
        first_ms = judged_since_ms(policy.service, now_ms)
        last_ms = self._fetched_ms.get(identity, 0)
        old = [peer_id for peer_id in members if peer_id not in new]
        # What was counted late is asked for again; after a long silence everything, because the
        # ledger puts old minutes together.
        recent = now_ms - last_ms < CONDUCT_SILENCE_MS_MAX
        again_ms = max(first_ms, last_ms - CONDUCT_OVERLAP_MS) if recent else first_ms
        for group, since_ms in ((old, again_ms), (list(new), first_ms)):
            for nodes in _parts(group):
                await self._fetch_service(known, nodes, identity, since_ms)
        self._fetched_ms[identity] = now_ms
        for one in known.values():
            one.service = {k: row for k, row in one.service.items() if row.until_ms > first_ms}

    def _turn(
        self, identity: SubcloudId, members: Sequence[PeerId], new: Collection[PeerId]
    ) -> list[PeerId]:
        """Whose reputation is asked for now: it looks far back, and changes slowly. The new ones,
        and of the others so many in each round."""
        begin = self._turns.get(identity, 0) % max(1, len(members))
        turn = [*members[begin:], *members[:begin]][:CONDUCT_REPUTATIONS_PER_ROUND]
        self._turns[identity] = begin + len(turn)
        return [*new, *(peer_id for peer_id in turn if peer_id not in new)]

    async def _fetch_reputation(
        self, known: dict[PeerId, _Known], nodes: Sequence[PeerId], since_ms: int
    ) -> None:
        query = ConductQuery(tuple(nodes), "", since_ms, whole=True)
        found: dict[PeerId, list[ConductCounts]] = {peer_id: [] for peer_id in nodes}
        async for report in self._pages(query):
            for row in report.rows:
                if row.node_id in found:
                    found[row.node_id].append(row)
        for peer_id, rows in found.items():
            known.setdefault(peer_id, _Known()).reputation = tuple(rows)

    async def _fetch_service(
        self,
        known: dict[PeerId, _Known],
        nodes: Sequence[PeerId],
        identity: SubcloudId,
        since_ms: int,
    ) -> None:
        pages = [page async for page in self._pages(ConductQuery(tuple(nodes), identity, since_ms))]
        for peer_id in nodes:
            kept = known.setdefault(peer_id, _Known()).service
            for key in [key for key, row in kept.items() if row.until_ms > since_ms]:
                del kept[key]
        for page in pages:
            for row in page.rows:
                if row.node_id in known:
                    known[row.node_id].service[_interval(row)] = row
            for day in page.uptime:
                if day.node_id in known:
                    known[day.node_id].uptime[day.day] = day

    async def _pages(self, query: ConductQuery) -> AsyncIterator[ConductReport]:
        after = 0
        for _ in range(CONDUCT_PAGES_MAX):
            page = await self._source.conduct(
                ConductQuery(query.nodes, query.subcloud_id, query.since_ms, query.whole, after)
            )
            yield page
            if page.next <= after:
                return
            after = page.next

    # --- judging --------------------------------------------------------------------------------
    async def _judge(self, policy: SubcloudPolicy) -> None:
        now_ms, owner = self._clock_ms(), AccountId(policy.owner)
        for peer_id, one in list(self._known.get(policy.identity, {}).items()):
            await trio.lowlevel.checkpoint()  # jobs go on between two members
            judgement = judge(
                policy.service, one.service.values(), one.uptime.values(), owner, now_ms
            )
            reputation = reputation_of(one.reputation, owner) if asks_reputation(policy) else None
            conduct = Conduct(reputation, judgement.service, judgement.suspended_until_ms)
            if conduct != one.conduct:
                if conduct.suspended_until_ms > max(now_ms, one.conduct.suspended_until_ms):
                    log.warning(
                        "node %s is below the service level of %s: suspended for %d s",
                        peer_id,
                        policy.subcloud_id,
                        (conduct.suspended_until_ms - now_ms) // 1000,
                    )
                one.conduct = conduct
                self._on_change(peer_id)


def asks_reputation(policy: SubcloudPolicy) -> bool:
    """Whether a policy judges members by their reputation."""
    return bool(policy.trust.reputation_min or policy.trust.jobs_min)


def _interval(row: ConductCounts) -> Interval:
    return row.gateway_id, row.gateway_account, row.related, row.from_ms, row.until_ms


def _parts(members: Sequence[PeerId]) -> Iterator[Sequence[PeerId]]:
    for start in range(0, len(members), CONDUCT_NODES_MAX):
        yield members[start : start + CONDUCT_NODES_MAX]
