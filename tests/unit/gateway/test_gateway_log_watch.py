"""What a gateway hears of the log: forks it finds itself, alarms it believes, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.peer.log_watch import LogWatch
from ledger.log.alarms import RULE
from ledger.log.errors import ProofError
from ledger.log.notes import TreeHead, log_origin, sign_checkpoint
from ledger.log.witness import cosign
from p2p.certificates import issue_certificate
from p2p.codec import decode_message
from p2p.configuration_book import ConfigurationBook
from p2p.log_messages import Checkpoint
from p2p.log_topics import ALARM_TOPIC
from p2p.mirror_messages import AlarmNotice, LogAlarm
from p2p.network_configuration import sign_configuration
from p2p.types import Role
from tests.fakes.ledger_log import LOG_KEY, signer
from tests.fakes.ledger_world import AUTHORITY, GATEWAY, GATEWAY_ACCOUNT, NETWORK, START_MS
from tests.fakes.mirrors import CONFIGURATION, MIRROR, WITNESS, WITNESS_KEY, Gossip, mirror_chain


def watch_of(folder: Path) -> LogWatch:
    chain = issue_certificate(
        AUTHORITY,
        NETWORK,
        GATEWAY.peer_id,
        Role.GATEWAY,
        GATEWAY_ACCOUNT,
        issued_ms=START_MS,
        lifetime_s=86_400.0,
    )
    book = ConfigurationBook(NETWORK, folder / "configuration.msgpack")
    book.offer(sign_configuration(AUTHORITY, CONFIGURATION))
    return LogWatch(GATEWAY, (chain,), NETWORK, book, lambda: START_MS)


def checkpoint(size: int, root: int) -> Checkpoint:
    made = signer()
    note = sign_checkpoint(TreeHead(log_origin(NETWORK), size, bytes([root]) * 32), LOG_KEY)
    return Checkpoint(note, made.statement, made.chain)


async def test_a_gateway_sees_a_fork(tmp_path: Path) -> None:
    watch, network = watch_of(tmp_path), Gossip(GATEWAY.peer_id)
    assert watch.facts() == {"checkpoint": None, "alarms": []}
    first = checkpoint(7, 1)
    line = cosign(first.note, WITNESS, WITNESS_KEY, 1_800_000_000)
    for found in (first, replace(first, note=first.note + line), first, checkpoint(5, 4)):
        await watch.take_checkpoint(found, network)  # type: ignore[arg-type]
    shown = watch.facts()
    assert shown["checkpoint"]["size"] == 7
    assert shown["checkpoint"]["witnesses"] == [{"name": WITNESS, "at_ms": 1_800_000_000_000}]
    assert (shown["alarms"], network.told) == ([], [])
    for _ in range(2):
        await watch.take_checkpoint(checkpoint(7, 2), network)  # type: ignore[arg-type]
    (alarm,) = watch.facts()["alarms"]
    assert (alarm["kind"], alarm["proven"], alarm["signer"]) == ("fork", True, GATEWAY.peer_id)
    ((topic, data),) = network.told
    assert topic == ALARM_TOPIC
    other = watch_of(tmp_path / "other")
    assert other.take_alarm(decode_message(data, AlarmNotice))


def test_a_mirrors_word_is_kept_as_its_word(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    alarm = LogAlarm(RULE, 5, 7, "a forged grant", None, checkpoint(7, 1), b"", (), START_MS)
    assert watch.take_alarm(AlarmNotice(MIRROR.sign(NETWORK, alarm), mirror_chain()))
    (shown,) = watch.facts()["alarms"]
    assert (shown["kind"], shown["proven"], shown["signer"]) == (RULE, False, MIRROR.peer_id)
    with pytest.raises(ProofError):
        watch.take_alarm(AlarmNotice(GATEWAY.sign(NETWORK, alarm), mirror_chain()))
