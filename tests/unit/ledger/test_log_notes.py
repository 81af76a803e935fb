"""Signed notes and checkpoints: C2SP's format to the byte, and nothing else is accepted."""

from __future__ import annotations

import base64
import random
from dataclasses import replace

import pytest

from ledger.log.errors import ProofError
from ledger.log.leaves import commitment
from ledger.log.merkle import leaf_hash
from ledger.log.notes import (
    TreeHead,
    key_id,
    log_origin,
    open_checkpoint,
    open_note,
    sign_checkpoint,
    verifier_key,
)
from ledger.log.proofs import verify_checkpoint, verify_reply
from p2p.codec import encode_message
from p2p.log_messages import (
    Checkpoint,
    ConsumerLeg,
    Inclusion,
    InclusionReply,
    LogKey,
    LogRange,
)
from p2p.types import Role
from tests.fakes.ledger_log import BOOTSTRAP, LOG_KEY, bootstrap_chain, signer
from tests.fakes.ledger_world import GATEWAY, NETWORK, START_MS, key_pair

# The example of the signed note format's reference implementation (golang.org/x/mod/sumdb/note).
EXAMPLE_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
EXAMPLE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6"
    "KE6RyyBwJnAM=\n"
)
ORIGIN = log_origin(NETWORK)
HEAD = TreeHead(ORIGIN, 7, bytes(range(32)))
NOTE = sign_checkpoint(HEAD, LOG_KEY)


def checkpoint(note: bytes = NOTE) -> Checkpoint:
    made = signer()
    return Checkpoint(note, made.statement, made.chain)


def test_the_formats_own_example_verifies() -> None:
    public_key = base64.b64decode(EXAMPLE_KEY.split("+", 2)[2])[1:]
    assert verifier_key("PeterNeumann", public_key) == EXAMPLE_KEY
    text = open_note(EXAMPLE.encode(), "PeterNeumann", public_key)
    assert text.endswith("what your problem is.\n")
    with pytest.raises(ProofError, match="does not verify"):
        open_note(EXAMPLE.replace("answer", "Answer").encode(), "PeterNeumann", public_key)


def test_a_checkpoint_has_the_form_of_c2sp() -> None:
    lines = NOTE.decode().split("\n")
    assert lines[:4] == [ORIGIN, "7", base64.b64encode(HEAD.root).decode(), ""]
    assert lines[4].startswith(f"— {ORIGIN} ")
    assert lines[5:] == [""]
    signature = base64.b64decode(lines[4].split(" ")[2])
    assert signature[:4] == key_id(ORIGIN, LOG_KEY.public_key)
    assert len(signature) == 4 + 64
    assert open_checkpoint(NOTE, ORIGIN, LOG_KEY.public_key) == HEAD


def test_lines_of_witnesses_and_extensions_are_left_alone() -> None:
    witness = base64.b64encode(bytes(76)).decode()
    noted = NOTE + f"— witness.example {witness}\n".encode()
    assert open_checkpoint(noted, ORIGIN, LOG_KEY.public_key) == HEAD
    same_name = NOTE.replace(b"\n\n", f"\n\n— {ORIGIN} {witness}\n".encode())
    assert open_checkpoint(same_name, ORIGIN, LOG_KEY.public_key) == HEAD


def test_no_flipped_bit_of_a_checkpoint_is_accepted() -> None:
    for at in range(len(NOTE)):
        for bit in range(8):
            changed = bytearray(NOTE)
            changed[at] ^= 1 << bit
            with pytest.raises(ProofError):
                open_checkpoint(bytes(changed), ORIGIN, LOG_KEY.public_key)


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n07\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n-7\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n7\n{base64.b64encode(bytes(31)).decode()}\n",
        f"{ORIGIN}\n{2**63}\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n{'9' * 5000}\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n²\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n7\n",
        f"elsewhere\n7\n{base64.b64encode(bytes(32)).decode()}\n",
    ],
)
def test_signed_nonsense_is_refused(text: str) -> None:
    class Nonsense(TreeHead):
        def text(self) -> str:
            return text

    note = sign_checkpoint(Nonsense(ORIGIN, 7, bytes(32)), LOG_KEY)
    with pytest.raises(ProofError):
        open_checkpoint(note, ORIGIN, LOG_KEY.public_key)


@pytest.mark.parametrize(
    "note", [b"", b"\n\n", b"a", b"\xff", NOTE[:-1], NOTE.split(b"\n\n")[0], NOTE * 40, b"a\n\n\n"]
)
def test_what_is_no_note(note: bytes) -> None:
    with pytest.raises(ProofError):
        open_note(note, ORIGIN, LOG_KEY.public_key)


def test_another_key_does_not_count() -> None:
    other = key_pair(77)
    with pytest.raises(ProofError, match="not signed by the log key"):
        open_checkpoint(NOTE, ORIGIN, other.public_key)


def test_a_checkpoint_counts_down_from_the_network() -> None:
    verified = verify_checkpoint(checkpoint(), NETWORK)
    assert verified.head == HEAD
    assert verified.bootstrap_id == BOOTSTRAP.peer_id


def test_a_log_key_needs_a_certified_bootstrap_and_this_log() -> None:
    good = checkpoint()
    key = LogKey(ORIGIN, LOG_KEY.public_key, START_MS)
    wrong = {
        "by a gateway": replace(good, chain=bootstrap_chain(Role.GATEWAY)),
        "by somebody else": replace(good, log_key=GATEWAY.sign(NETWORK, key)),
        "another log": replace(good, log_key=BOOTSTRAP.sign(NETWORK, replace(key, origin="x"))),
        "expired": replace(
            good, log_key=BOOTSTRAP.sign(NETWORK, replace(key, issued_ms=START_MS + 10**12))
        ),
        "another network": replace(good, log_key=BOOTSTRAP.sign(NETWORK + "x", key)),
        "another key": replace(
            good, log_key=BOOTSTRAP.sign(NETWORK, replace(key, public_key=bytes(32)))
        ),
        "no chain": replace(good, chain=()),
    }
    for what, forged in wrong.items():
        with pytest.raises(ProofError):
            verify_checkpoint(forged, NETWORK)
            pytest.fail(what)


def small_reply() -> InclusionReply:
    opening = encode_message(
        ConsumerLeg("grant", bytes(16), "a/b", b"", b"", 5, bytes(32), bytes(32), START_MS)
    )
    salt = bytes([3]) * 32
    root = leaf_hash(commitment(salt, opening))
    note = sign_checkpoint(TreeHead(ORIGIN, 1, root), LOG_KEY)
    return InclusionReply((Inclusion(opening, salt, 0, ()),), checkpoint(note))


def test_a_whole_proof_verifies_and_no_flipped_bit_of_it() -> None:
    data = encode_message(small_reply())
    _, (opening,) = verify_reply(data, NETWORK)
    assert isinstance(opening, ConsumerLeg)
    assert opening.amount == 5
    source = random.Random(1)
    for _ in range(1000):
        changed = bytearray(data)
        changed[source.randrange(len(data))] ^= 1 << source.randrange(8)
        with pytest.raises(ProofError):
            verify_reply(bytes(changed), NETWORK)


def test_what_is_no_proof() -> None:
    reply = small_reply()
    strange = encode_message(LogRange(1, 2))
    root = leaf_hash(commitment(bytes(32), strange))
    note = sign_checkpoint(TreeHead(ORIGIN, 1, root), LOG_KEY)
    forged = InclusionReply((Inclusion(strange, bytes(32), 0, ()),), checkpoint(note))
    with pytest.raises(ProofError, match="is no leaf"):
        verify_reply(encode_message(forged), NETWORK)
    for data in (b"", strange, encode_message(reply.inclusions[0])):
        with pytest.raises(ProofError, match="not a proof"):
            verify_reply(data, NETWORK)
