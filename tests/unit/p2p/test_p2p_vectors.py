"""Owns the check that the wire format stays what tests/vectors/messages.json says, byte by byte."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from p2p.api_keys import hold_mac, lookup_mac, parse_api_key
from p2p.codec import decode_any_message, decode_message, decode_messages, encode_message
from p2p.job_messages import OUTPUT_HASH_START, next_output_hash
from p2p.network_configuration import open_configuration
from p2p.signing import Document, KeyPair, Signed, open_signed
from p2p.types import NetworkId, PeerId, network_id, public_key_of
from p2p.wire import FrameDecoder
from tools.make_vectors import MODULES, NOW_MS, PATH, example, make, message_classes

ROOT = PATH.parents[2]
VECTORS: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
MESSAGES: list[dict[str, Any]] = VECTORS["messages"]
DERIVED: dict[str, Any] = VECTORS["derivations"]
NETWORK = NetworkId(DERIVED["network_id"])
CLASSES = message_classes()
by_entry = pytest.mark.parametrize("entry", MESSAGES, ids=lambda entry: str(entry["name"]))


def modules_with_messages() -> set[str]:
    """Every module of ours that registers a message, found in the sources."""
    found = set()
    for folder in ("p2p", "node", "bootstrap", "gateway", "ledger", "resultity"):
        for path in (ROOT / folder).rglob("*.py"):
            for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(item, ast.ClassDef) and any(
                    isinstance(mark, ast.Call)
                    and isinstance(mark.func, ast.Name)
                    and mark.func.id == "message"
                    for mark in item.decorator_list
                ):
                    relative = path.relative_to(ROOT).with_suffix("")
                    found.add(".".join(relative.parts))
    return found


def test_every_module_with_messages_is_in_the_vectors() -> None:
    assert modules_with_messages() == set(MODULES)


def test_every_message_class_has_a_vector() -> None:
    expected = {number: cls.__name__ for number, cls in CLASSES.items()}
    assert {entry["number"]: entry["name"] for entry in MESSAGES} == expected


def test_the_file_is_what_the_tool_makes() -> None:
    made = make()
    assert made == {"derivations": DERIVED, "messages": MESSAGES}, (
        "the wire format changed: run tools/make_vectors.py if that was meant (it says what to do)"
    )


@by_entry
def test_message_in_its_exact_bytes(entry: dict[str, Any]) -> None:
    data = bytes.fromhex(entry["hex"])
    cls = CLASSES[entry["number"]]
    value = decode_message(data, cls)
    assert value == decode_any_message(data) == example(cls)
    assert encode_message(value) == data


@pytest.mark.parametrize(
    "entry", [entry for entry in MESSAGES if "purpose" in entry], ids=lambda e: str(e["name"])
)
def test_document_with_its_signature(entry: dict[str, Any]) -> None:
    cls = CLASSES[entry["number"]]
    assert issubclass(cls, Document)
    assert entry["purpose"] == cls.PURPOSE
    signed = decode_message(bytes.fromhex(entry["signed_hex"]), Signed)
    signer = bytes.fromhex(DERIVED["keys"][entry["signed_by"]]["public_key"])
    assert open_signed(signed, cls, NETWORK, signer) == example(cls)
    assert signed.body.hex() == entry["hex"]


def test_older_forms_are_still_read() -> None:
    for entry in VECTORS["older"]:
        decode_message(bytes.fromhex(entry["hex"]), CLASSES[entry["number"]])


def test_purposes_are_unique() -> None:
    purposes = [cls.PURPOSE for cls in CLASSES.values() if issubclass(cls, Document)]
    assert len(set(purposes)) == len(purposes)
    assert "network-configuration" not in purposes


def test_keys_and_ids() -> None:
    for entry in DERIVED["keys"].values():
        pair = KeyPair(bytes.fromhex(entry["seed"]))
        assert (pair.public_key.hex(), pair.peer_id) == (entry["public_key"], entry["id"])
        assert public_key_of(PeerId(entry["id"])) == pair.public_key
    authority = bytes.fromhex(DERIVED["keys"]["authority"]["public_key"])
    assert network_id("vectors", authority) == NETWORK


def test_derivations_of_an_api_key() -> None:
    key = parse_api_key(DERIVED["api_key"]["text"])
    assert key.hold_key().hex() == DERIVED["api_key"]["hold_key"]
    gateway = PeerId(DERIVED["keys"]["gateway"]["id"])
    mac = hold_mac(key.hold_key(), NETWORK, gateway, bytes(16), 7, NOW_MS)
    assert mac.hex() == DERIVED["hold_mac"]
    mac = lookup_mac(key.hold_key(), NETWORK, gateway, bytes(16), NOW_MS)
    assert mac.hex() == DERIVED["lookup_mac"]


def test_output_hash() -> None:
    first = next_output_hash(OUTPUT_HASH_START, (1, 2**32 - 1), "h\u00e9")
    hashes = [first.hex(), next_output_hash(first, (), "").hex()]
    assert hashes == DERIVED["output_hashes"]


def test_configuration_and_frame() -> None:
    signed = decode_message(bytes.fromhex(DERIVED["configuration"]), Signed)
    assert open_configuration(signed, NETWORK).version == 1
    (payload,) = FrameDecoder().feed(bytes.fromhex(DERIVED["frame"]))
    assert len(decode_messages(payload)) == 1


def test_the_tool_writes_to_the_tree_of_these_tests() -> None:
    assert Path(__file__).resolve().is_relative_to(ROOT)
