"""The last seen checkpoint of a log: compared with each next one, and a contradiction is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.log.leaves import commitment
from ledger.log.merkle import consistency_proof, inclusion_proof, leaf_hash, tree_root
from ledger.log.notes import TreeHead, log_origin, sign_checkpoint
from ledger.log.tiles import Place, TileNodes, append
from ledger.log.witness import cosign
from p2p.codec import encode_message
from p2p.log_messages import AccountLeaf, Checkpoint, Inclusion, InclusionReply
from p2p.mirror_messages import Growth
from p2p.network_configuration import NetworkConfiguration, Witness
from resultity.commands.explore import alarm_lines, log_lines
from resultity.errors import ReceiptError
from resultity.ledger_proofs import proof_text, verify_proof
from resultity.seen_checkpoints import SeenCheckpoint
from tests.fakes.ledger_log import LOG_KEY, signer
from tests.fakes.ledger_world import NETWORK, START_MS, key_pair

ORIGIN = log_origin(NETWORK)
SALT, OPENING = bytes(32), encode_message(AccountLeaf("test", "subject", bytes(32), START_MS))
WITNESS = key_pair(61)
CONFIGURATION = NetworkConfiguration(
    network_id=NETWORK,
    version=1,
    issued_ms=START_MS,
    log_keys=(LOG_KEY.public_key.hex(),),
    witnesses=(Witness(name="w.test", public_key=WITNESS.public_key.hex()),),
    witness_quorum=1,
)


def tree(words: bytes) -> TileNodes:
    kept: dict[Place, bytes] = {}
    nodes = TileNodes(lambda place: kept.get(place, b""))
    leaves = [commitment(SALT, OPENING), *(b"%s %d" % (words, n) for n in range(20))]
    nodes.replace(append(nodes, 0, [leaf_hash(leaf) for leaf in leaves]))
    return nodes


def checkpoint(nodes: TileNodes, size: int) -> tuple[TreeHead, Checkpoint]:
    head, made = TreeHead(ORIGIN, size, tree_root(nodes, size)), signer()
    return head, Checkpoint(sign_checkpoint(head, LOG_KEY), made.statement, made.chain)


def test_a_log_that_grows_and_one_that_does_not(tmp_path: Path) -> None:
    nodes, other = tree(b"one"), tree(b"other")
    seen, asked = SeenCheckpoint(tmp_path, NETWORK), []

    def compare(nodes: TileNodes, size: int) -> int | None:
        head, found = checkpoint(nodes, size)

        def ask(old: int, new: int) -> Growth:
            asked.append((old, new))
            return Growth(old, new, consistency_proof(nodes, old, new))

        return seen.compare(found, head, (), [], ask)

    assert compare(nodes, 5) is None  # the first one
    assert compare(nodes, 5) == 5
    assert compare(nodes, 9) == 5
    assert compare(nodes, 7) == 9  # an older proof is fine, the larger one stays
    assert asked == [(5, 9), (7, 9)]
    kept = seen.load(())
    assert kept is not None
    assert kept[0].size == 9
    for size in (7, 9, 12):
        with pytest.raises(ReceiptError, match="contradicts"):
            compare(other, size)
    evidence = (tmp_path / "checkpoints" / f"{NETWORK}.contradiction").read_bytes()
    assert len(evidence.split()) == 2
    head, found = checkpoint(nodes, 15)
    assert seen.compare(found, head, (), [], lambda old, new: None) is None
    # A key that the authority does not name says nothing, also about the past.
    assert seen.load([key_pair(99).public_key]) is None


def test_a_proof_with_witnesses_and_growth() -> None:
    nodes = tree(b"one")
    _, plain = checkpoint(nodes, 9)
    inclusion = Inclusion(OPENING, SALT, 0, inclusion_proof(nodes, 0, 9))
    growth = Growth(5, 9, consistency_proof(nodes, 5, 9))
    text = proof_text(InclusionReply((inclusion,), plain), growth)
    found = verify_proof(text, NETWORK, None)
    assert (found.growths, found.witnesses) == ([growth], [])
    with pytest.raises(ReceiptError, match="0 witnesses cosigned"):
        verify_proof(text, NETWORK, None, CONFIGURATION)
    line = cosign(plain.note, "w.test", WITNESS, 1_800_000_000)
    signed = Checkpoint(plain.note + line, plain.log_key, plain.chain)
    text = proof_text(InclusionReply((inclusion,), signed))
    (witness,) = verify_proof(text, NETWORK, None, CONFIGURATION).witnesses
    assert (witness.name, witness.at_s) == ("w.test", 1_800_000_000)
    stranger = CONFIGURATION.model_copy(update={"log_keys": (key_pair(99).public_key.hex(),)})
    with pytest.raises(ReceiptError, match="does not name this log key"):
        verify_proof(text, NETWORK, None, stranger)


def test_what_explore_says_of_the_log() -> None:
    assert log_lines({"checkpoint": None, "alarms": []})[-1] == "no alarm"
    answer = {
        "checkpoint": {"origin": ORIGIN, "size": 7, "root": "ab", "witnesses": [{"name": "w"}]},
        "alarms": [
            {"kind": "fork", "proven": True, "size": 5, "other_size": 7, "text": "two roots"}
        ],
    }
    first, second, third = log_lines(answer)
    assert "7 leaves" in first
    assert second == "cosigned by w"
    assert third == alarm_lines(answer)[0]
    assert "fork, proven, sizes 5 and 7" in third
