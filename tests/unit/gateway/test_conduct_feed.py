"""What a gateway asks about its members, what it believes, and whom it tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.subclouds.conduct_feed import ConductFeed, UplinkConductSource
from p2p.codec import encode_message
from p2p.conduct_messages import ConductCounts, ConductQuery, ConductReport, UptimeDay
from p2p.errors import PeerUnavailableError, UntrustedError
from p2p.signing import KeyPair
from p2p.subclouds.conduct import DAY_MS, MINUTE_MS, NOTHING_KNOWN
from p2p.subclouds.facts import NodeFacts, Standing
from p2p.subclouds.records import KnownPolicy
from p2p.types import AccountId, PeerId
from tests.fakes.subclouds import NETWORK, OWNER, a_policy

NODE, OTHER = PeerId("node-a"), PeerId("node-b")
START_MS = 20_000 * DAY_MS
STRICT = {
    "trust": {"reputation_min": 5_000},
    "service": {
        "first_token_ms_max": 500,
        "window_s": 3600,
        "jobs_judged_min": 10,
        "suspension_s": 600,
    },
}


def row(node: PeerId, account: str, minute: int, first_token_ms: int = 100) -> ConductCounts:
    since_ms = START_MS + minute * MINUTE_MS
    until_ms = since_ms + MINUTE_MS
    gateway, jobs = PeerId(f"gateway-{account}"), 10
    return ConductCounts(
        node,
        gateway,
        AccountId(account),
        False,
        since_ms,
        until_ms,
        jobs,
        0,
        0,
        jobs,
        jobs * first_token_ms,
        0,
        0,
    )


class Source:
    """A ledger's counts by hand, in pages of two rows."""

    def __init__(self) -> None:
        self.rows: list[ConductCounts] = []
        self.queries: list[ConductQuery] = []
        self.down = False

    async def conduct(self, query: ConductQuery) -> ConductReport:
        if self.down:
            raise PeerUnavailableError("no bootstrap")
        self.queries.append(query)
        rows = [
            row for row in self.rows if row.node_id in query.nodes and row.until_ms > query.since_ms
        ]
        page = tuple(rows[query.after : query.after + 2])
        after = query.after + 2 if query.after + 2 < len(rows) else 0
        uptime = () if query.after else (UptimeDay(NODE, START_MS // DAY_MS - 1, 1440, 1440),)
        return ConductReport(query.subcloud_id, query.since_ms, START_MS, page, uptime, after)


class World:
    """A feed with one policy and two members."""

    def __init__(self, **fields: Any) -> None:
        self.known: Any = KnownPolicy(a_policy(**fields), "d", None, None)  # type: ignore[arg-type]
        self.members: list[PeerId] = [NODE, OTHER]
        self.now_ms = START_MS
        self.source, self.changed = Source(), list[PeerId]()
        self.feed = ConductFeed(
            self.source,
            lambda: [(self.known, self.members)] if self.members else [],
            lambda: self.now_ms,
            self.changed.append,
        )

    def standing(self, node: PeerId = NODE) -> Standing:
        return self.feed.add_to(self.known, Standing(), NodeFacts(node), self.now_ms)


async def test_only_policies_that_ask_cost_anything() -> None:
    world = World()
    await world.feed.look()
    assert world.source.queries == []
    assert world.feed.conduct(world.known.identity, NODE) == NOTHING_KNOWN


async def test_members_are_judged_and_news_is_told() -> None:
    world = World(**STRICT)
    world.source.rows = [row(NODE, "a", 0), row(NODE, "b", 0)]
    world.source.rows += [row(OTHER, "a", 0, 900), row(OTHER, "b", 0, 900)]
    world.now_ms += MINUTE_MS
    await world.feed.look()
    good, bad = world.standing(), world.standing(OTHER)
    assert good.reputation is not None
    assert (good.reputation.share, good.reputation.gateways) == (10_000, 2)
    assert good.service is not None
    assert (good.service.jobs, good.service.first_token_ms) == (20, 100.0)
    assert good.suspended_until_ms == 0
    assert bad.suspended_until_ms == world.now_ms + 600_000
    assert sorted(world.changed) == [NODE, OTHER]
    # Nothing new: nobody is told again, and only the last minutes are asked for.
    world.source.queries.clear()
    await world.feed.look()
    assert sorted(world.changed) == [NODE, OTHER]
    service = [query for query in world.source.queries if query.subcloud_id and not query.after]
    assert [query.since_ms for query in service] == [world.now_ms - 2 * MINUTE_MS]


async def test_what_came_late_counts_and_nothing_counts_twice() -> None:
    world = World(**STRICT)
    for minute in range(1, 5):
        world.source.rows += [row(NODE, "a", minute), row(NODE, "b", minute)]
        world.now_ms = START_MS + (minute + 1) * MINUTE_MS
        await world.feed.look()
    world.source.rows.append(row(NODE, "c", 3))
    world.now_ms += MINUTE_MS
    await world.feed.look()
    service = world.standing().service
    assert service is not None
    assert service.jobs == 90


async def test_reputations_are_asked_for_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.subclouds.conduct_feed.CONDUCT_REPUTATIONS_PER_ROUND", 2)
    world = World(trust={"jobs_min": 1})
    world.members = [PeerId(f"node-{number}") for number in range(5)]

    async def asked() -> list[str]:
        world.source.queries.clear()
        await world.feed.look()
        return [node[-1] for query in world.source.queries for node in query.nodes]

    assert sorted(await asked()) == list("01234")  # all of them are new
    assert [await asked() for _ in range(3)] == [["2", "3"], ["4", "0"], ["1", "2"]]


async def test_while_no_bootstrap_answers_the_last_judgement_stays() -> None:
    world = World(**STRICT)
    world.source.rows = [row(NODE, "a", 0, 900), row(NODE, "b", 0, 900)]
    world.now_ms += MINUTE_MS
    await world.feed.look()
    suspended = world.standing().suspended_until_ms
    world.source.down = True
    world.now_ms += MINUTE_MS
    await world.feed.look()
    assert world.standing().suspended_until_ms == suspended > 0


async def test_who_left_and_policies_that_ask_no_more_are_forgotten() -> None:
    world = World(**STRICT)
    world.source.rows = [row(NODE, "a", 0), row(OTHER, "a", 0)]
    await world.feed.look()
    world.members = [NODE]
    await world.feed.look()
    assert world.feed.conduct(world.known.identity, OTHER) == NOTHING_KNOWN
    world.known = replace(world.known, policy=a_policy())
    world.changed.clear()
    await world.feed.look()
    assert world.feed.conduct(world.known.identity, NODE) == NOTHING_KNOWN
    assert world.changed == [NODE]


# --- whom it believes ---------------------------------------------------------------------------
class Uplink:
    """Answers with a report that somebody signed."""

    def __init__(self, signer: KeyPair, bootstrap: KeyPair, **changes: Any) -> None:
        self.signer, self.bootstrap, self.changes = signer, bootstrap.peer_id, changes

    async def call(self, method: str, body: bytes, *, urgent: bool = True) -> bytes:
        report = replace(ConductReport("", 5, START_MS, (), ()), **self.changes)
        return encode_message(self.signer.sign(NETWORK, report))


@pytest.mark.parametrize(
    ("signer", "changes", "good"),
    [(1, {}, True), (2, {}, False), (1, {"subcloud_id": "x"}, False), (1, {"since_ms": 6}, False)],
)
async def test_only_the_bootstraps_own_word_counts(
    signer: int, changes: dict[str, Any], good: bool
) -> None:
    keys = KeyPair(bytes([signer]) * 32), KeyPair(bytes([1]) * 32)
    uplink: Any = Uplink(*keys, **changes)
    source = UplinkConductSource(uplink, NETWORK)
    if good:
        assert (await source.conduct(ConductQuery((NODE,), "", 5))).since_ms == 5
    else:
        with pytest.raises(UntrustedError):
            await source.conduct(ConductQuery((NODE,), "", 5))


def test_the_owners_account_is_the_policys() -> None:
    assert a_policy().owner == OWNER
