"""Gossip about subclouds: bounded in work and in lines of the log, whoever sends how much."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
import trio

from p2p.clock import Clock
from p2p.codec import encode_message
from p2p.limits import (
    POLICY_EVIDENCE_PER_SUBCLOUD_MAX,
    STATEMENTS_BURST_PER_NODE,
    SUBCLOUD_GOSSIP_BURST_PER_AUTHOR,
    SUBCLOUD_HINTS_MAX,
)
from p2p.network import GossipMessage
from p2p.rare_log import LINES_BURST, RareLog
from p2p.signing import Signed
from p2p.subcloud_rules import SubcloudRules
from p2p.subclouds.directory_messages import SubcloudNews
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.records import PolicyRecord
from p2p.subclouds.statement_intake import StatementIntake
from p2p.subclouds.sync import SubcloudSync
from p2p.types import PeerId
from tests.fakes.clocks import FakeClock
from tests.fakes.policy_owners import PolicyOwner, revocation_list
from tests.fakes.trust import GATEWAY, NETWORK, NODE, STRANGER

OWNER, OTHER = PolicyOwner(1), PolicyOwner(2)
TEAM = OWNER.identity()
FIRST = OWNER.record(join="private")


class CountingBook(PolicyBook):
    """Counts what is judged."""

    judged = 0

    def examine(self, record: PolicyRecord, source: str = "") -> object:  # type: ignore[override]
        self.judged += 1
        return super().examine(record, source)

    def examine_revocations(self, signed: Signed, source: str = "") -> object:  # type: ignore[override]
        self.judged += 1
        return super().examine_revocations(signed, source)


class Gossip:
    """A network that brings these messages."""

    def __init__(self, messages: list[tuple[PeerId, bytes]]) -> None:
        self._messages = messages

    async def subscribe(self, topic: str) -> AsyncIterator[GossipMessage]:
        for author, data in self._messages:
            yield GossipMessage(author, data)


def a_sync() -> tuple[CountingBook, SubcloudSync]:
    clock: Clock = FakeClock()
    book = CountingBook(NETWORK, clock_ms=clock)
    book.offer(FIRST)
    book.judged = 0
    return book, SubcloudSync(book, SubcloudRules)


async def hear(sync: SubcloudSync, *messages: bytes, author: PeerId = STRANGER.peer_id) -> None:
    await sync._listen(Gossip([(author, data) for data in messages]), "topic")  # type: ignore[arg-type]


def lines_of(caplog: pytest.LogCaptureFixture) -> int:
    return len([r for r in caplog.records if r.name.startswith("p2p")])


async def test_a_fork_that_is_repeated_is_judged_and_told_once(caplog) -> None:
    caplog.set_level(logging.INFO)
    book, sync = a_sync()
    book.offer_revocations(revocation_list(TEAM, 1))
    book.judged = 0
    caplog.clear()
    forks = [OWNER.record(join="private", contact="fork"), revocation_list(TEAM, 1, NODE.peer_id)]
    for _ in range(100):
        await hear(sync, *map(encode_message, forks))
    assert book.judged == 2
    assert sorted(item.kind for item in book.evidence) == ["fork", "revocation_fork"]
    assert lines_of(caplog) == 4  # each: that it was kept, and from whom it came


async def test_what_is_in_force_is_not_judged_again() -> None:
    book, sync = a_sync()
    await hear(sync, *[encode_message(FIRST)] * 100)
    assert book.judged == 0


async def test_a_flood_of_forks_costs_no_more_than_its_authors_share(
    caplog, autojump_clock
) -> None:
    caplog.set_level(logging.INFO)
    book, sync = a_sync()
    caplog.clear()
    junk = [
        encode_message(revocation_list(TEAM, number, signer=OTHER.key))
        for number in range(1, int(SUBCLOUD_GOSSIP_BURST_PER_AUTHOR) + 200)
    ]
    await hear(sync, *junk)
    assert book.judged <= SUBCLOUD_GOSSIP_BURST_PER_AUTHOR
    forks = [OWNER.record(join="private", contact=f"fork {number}") for number in range(30)]
    for fork in forks:
        await hear(sync, encode_message(fork), author=GATEWAY.peer_id)
    assert len(book.evidence) == POLICY_EVIDENCE_PER_SUBCLOUD_MAX
    assert lines_of(caplog) <= LINES_BURST + POLICY_EVIDENCE_PER_SUBCLOUD_MAX
    # Another peer is heard as before, and a list that was refused counts once its key is named.
    listed = revocation_list(TEAM, 1, NODE.peer_id, signer=OTHER.key)
    await hear(sync, encode_message(listed), author=NODE.peer_id)
    assert book.revocations(TEAM) is None
    second = OWNER.record(after=FIRST, join="private", delegate_keys=(OTHER.key.public_key.hex(),))
    await hear(sync, encode_message(second), encode_message(listed), author=NODE.peer_id)
    assert book.revocations(TEAM).banned_peers == (NODE.peer_id,)


async def test_made_up_names_do_not_make_every_peer_ask(autojump_clock) -> None:
    _, sync = a_sync()
    asked = set()
    for number in range(5 * SUBCLOUD_HINTS_MAX):
        news = SubcloudNews(OWNER.identity(f"made-up-{number}"), 1, 0)
        sync.hear(encode_message(news), STRANGER.peer_id)
        asked |= sync._hints.keys()
        sync._hints.clear()  # as if they had been asked about
    assert len(asked) <= SUBCLOUD_HINTS_MAX
    await trio.sleep(10)
    sync.hear(encode_message(SubcloudNews(OWNER.identity("real"), 1, 0)), NODE.peer_id)
    assert OWNER.identity("real") in sync._hints


def test_statements_are_looked_at_from_their_own_node_and_not_without_end() -> None:
    intake = StatementIntake()
    signed = revocation_list(TEAM, 1, signer=NODE)  # whatever it is: only the signer counts
    assert not intake.admits(signed, STRANGER.peer_id, 0.0)
    taken = sum(intake.admits(signed, NODE.peer_id, 0.0) for _ in range(1000))
    assert taken == STATEMENTS_BURST_PER_NODE
    assert intake.admits(signed, NODE.peer_id, 5.0)


def test_a_rare_log_says_how_much_it_left_out(caplog) -> None:
    rare = RareLog(logging.getLogger("p2p.test"), 0.1, 2)
    for _ in range(5):
        rare.write(logging.WARNING, 0.0, "something %s", "bad")
    rare.write(logging.WARNING, 30.0, "something %s", "else")
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "something bad",
        "something bad",
        "3 lines like the next were left out",
        "something else",
    ]
