"""Cosignatures in C2SP's format, proofs of forks, and what nobody believes."""

from __future__ import annotations

import base64
import hashlib
import os
import random
from dataclasses import replace

import nacl.signing
import pytest

from ledger.log.alarms import (
    ALARMS_OF_A_KIND_PER_SIGNER_MAX,
    FORK,
    RULE,
    AlarmBook,
    HeadBook,
    believe,
    check_fork,
    fork_alarm,
    plain_text,
)
from ledger.log.errors import ProofError
from ledger.log.merkle import consistency_proof, leaf_hash, tree_root
from ledger.log.notes import TreeHead, log_origin, open_checkpoint, read_head, sign_checkpoint
from ledger.log.tiles import Place, TileNodes, append
from ledger.log.witness import WitnessKey, cosign, has_line, verify_line, witnesses_of
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError
from p2p.log_messages import Checkpoint
from p2p.mirror_messages import AlarmNotice, LogAlarm
from p2p.types import Role
from tests.fakes.ledger_log import BOOTSTRAP, LOG_KEY, bootstrap_chain, signer
from tests.fakes.ledger_world import NETWORK, START_MS, key_pair

MUTATIONS = 100_000 if os.environ.get("RESULTITY_SOAK") else 1_500
NAME, KEYS = "witness.example", key_pair(61)
KEY = WitnessKey(NAME, KEYS.public_key)
ORIGIN = log_origin(NETWORK)


def tree(words: str, size: int) -> TileNodes:
    kept: dict[Place, bytes] = {}
    nodes = TileNodes(lambda place: kept.get(place, b""))
    nodes.replace(
        append(nodes, 0, [leaf_hash(b"%s %d" % (words.encode(), n)) for n in range(size)])
    )
    return nodes


def checkpoint(nodes: TileNodes, size: int) -> Checkpoint:
    made = signer()
    note = sign_checkpoint(TreeHead(ORIGIN, size, tree_root(nodes, size)), LOG_KEY)
    return Checkpoint(note, made.statement, made.chain)


def notice(alarm: LogAlarm, role: Role = Role.BOOTSTRAP) -> AlarmNotice:
    return AlarmNotice(BOOTSTRAP.sign(NETWORK, alarm), bootstrap_chain(role))


def proven_fork() -> LogAlarm:
    """A tree of 9 that is not the start of the signed tree of 20."""
    one, other = tree("one", 9), tree("other", 20)
    return fork_alarm(
        checkpoint(one, 9),
        checkpoint(other, 20),
        NETWORK,
        START_MS,
        old_root=tree_root(other, 9),
        proof=consistency_proof(other, 9, 20),
    )


def test_a_cosignature_is_what_c2sp_says() -> None:
    """Made again by hand: tlog-cosignature, "Format" and "Signed message"."""
    note = checkpoint(tree("one", 5), 5).note
    line = cosign(note, NAME, KEYS, 1_700_000_000)
    text = note.split(b"\n\n")[0] + b"\n"
    name, data = line.decode().removeprefix("— ").rstrip("\n").split(" ")
    raw = base64.b64decode(data)
    assert name == NAME
    assert raw[:4] == hashlib.sha256(NAME.encode() + b"\n\x04" + KEYS.public_key).digest()[:4]
    assert int.from_bytes(raw[4:12], "big") == 1_700_000_000
    message = b"cosignature/v1\ntime 1700000000\n" + text
    nacl.signing.VerifyKey(KEYS.public_key).verify(message, raw[12:])
    encoded = base64.b64encode(b"\x04" + KEYS.public_key).decode()
    assert KEY.verifier_key == f"{NAME}+{raw[:4].hex()}+{encoded}"


def test_a_cosigned_checkpoint_stays_one_of_the_log() -> None:
    plain = checkpoint(tree("one", 5), 5).note
    line = cosign(plain, NAME, KEYS, 7)
    note = plain + line
    assert open_checkpoint(note, ORIGIN, LOG_KEY.public_key).size == 5
    assert read_head(note, ORIGIN) == open_checkpoint(plain, ORIGIN, LOG_KEY.public_key)
    assert has_line(note, line)
    assert not has_line(plain, line)
    assert [(w.name, w.at_s) for w in witnesses_of(note, [KEY])] == [(NAME, 7)]
    # Another key, another name, no line: nobody. A line that lies about a key: an error.
    assert witnesses_of(note, [WitnessKey(NAME, key_pair(62).public_key)]) == []
    assert witnesses_of(note, [WitnessKey("other", KEYS.public_key)]) == []
    assert witnesses_of(plain, [KEY]) == []
    other = cosign(checkpoint(tree("one", 6), 6).note, NAME, KEYS, 7)
    with pytest.raises(ProofError, match="does not verify"):
        witnesses_of(plain + other, [KEY])


def test_a_fork_is_believed_from_anybody() -> None:
    alarm = proven_fork()
    check_fork(alarm, NETWORK)
    for role in (Role.BOOTSTRAP, Role.GATEWAY):
        found = believe(notice(alarm, role), NETWORK, START_MS)
        assert (found.proven, found.alarm.size, found.alarm.other_size) == (True, 9, 20)
    same = fork_alarm(
        checkpoint(tree("one", 9), 9), checkpoint(tree("two", 9), 9), NETWORK, START_MS
    )
    assert believe(notice(same), NETWORK, START_MS).proven


def test_what_is_no_fork() -> None:
    one = tree("one", 20)
    nine, twenty = checkpoint(one, 9), checkpoint(one, 20)
    proof = consistency_proof(one, 9, 20)
    for first, second, root, hashes in (
        (nine, nine, b"", ()),
        (nine, twenty, tree_root(one, 9), proof),
        (nine, twenty, bytes(32), proof),
        (twenty, nine, tree_root(one, 9), proof),
        (checkpoint(tree("two", 9), 9), twenty, tree_root(one, 9), proof[:-1]),
    ):
        with pytest.raises(ProofError):
            fork_alarm(first, second, NETWORK, START_MS, old_root=root, proof=hashes)
    fork = proven_fork()
    with pytest.raises(ProofError, match="does not name this log key"):
        believe(notice(fork), NETWORK, START_MS, [key_pair(99).public_key])
    with pytest.raises(ProofError, match="other sizes"):
        believe(notice(replace(fork, size=8)), NETWORK, START_MS)
    with pytest.raises(ProofError, match="known kind"):
        believe(notice(replace(fork, text="a\nb")), NETWORK, START_MS)
    word = replace(fork, kind=RULE)
    assert not believe(notice(word), NETWORK, START_MS).proven
    with pytest.raises(ProofError, match="may only report what proves itself"):
        believe(notice(word, Role.GATEWAY), NETWORK, START_MS)


def test_no_mutated_alarm_or_cosignature_is_believed() -> None:
    source = random.Random(145)
    encoded = encode_message(notice(proven_fork()))
    note = checkpoint(tree("one", 5), 5).note
    line = cosign(note, NAME, KEYS, 7)
    # Each bit of the line once: base64 has bits that mean nothing.
    for place in range(8 * len(line)):
        data = bytearray(line)
        data[place // 8] ^= 1 << place % 8
        with pytest.raises(ProofError):
            verify_line(note, bytes(data), KEY)
    for number in range(MUTATIONS):
        data = bytearray(encoded if number % 2 else line)
        at = source.randrange(len(data))
        data[at] ^= 1 << source.randrange(8)
        with pytest.raises((ProofError, P2PError)):
            if number % 2:
                believe(decode_message(bytes(data), AlarmNotice), NETWORK, START_MS)
            else:
                verify_line(note, bytes(data), KEY)


def test_books_are_bounded_and_find_contradictions() -> None:
    heads, alarms = HeadBook(NETWORK), AlarmBook()
    one, two = tree("one", 30), tree("two", 30)
    assert heads.add(checkpoint(one, 7), START_MS) is None
    assert heads.add(checkpoint(one, 8), START_MS) is None
    assert heads.newest is not None
    assert heads.newest[0].head.size == 8
    alarm = heads.add(checkpoint(two, 7), START_MS)
    assert alarm is not None
    found = believe(notice(alarm), NETWORK, START_MS)
    assert alarms.add(found)
    assert not alarms.add(found)
    for size in range(2 * ALARMS_OF_A_KIND_PER_SIGNER_MAX):
        word = replace(alarm, kind=RULE, size=size, text=plain_text("it\nis\twrong"))
        alarms.add(believe(notice(word), NETWORK, START_MS))
    assert len(alarms.all()) == 1 + ALARMS_OF_A_KIND_PER_SIGNER_MAX
    assert alarms.all()[0].facts()["kind"] == FORK
