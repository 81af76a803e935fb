"""The rules of accounts, namespaces, keys and bindings."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import msgpack
import pytest

from ledger.errors import (
    AccountUnknownError,
    ConflictError,
    KeyUnknownError,
    NamespaceUnknownError,
    NotAuthorizedError,
    ValueRefusedError,
)
from ledger.operations import BindNode, FoundAccount, content_of
from p2p.codec import encode_message
from p2p.key_limits import KeyLimits
from p2p.types import AccountId
from tests.fakes.ledger_world import MINT, NETWORK, NODE_ACCOUNTS, NODES, MemoryLedger, World


def test_everything_is_there_once() -> None:
    world = World()
    ledger, tenant = MemoryLedger(world), world.tenant()
    for operation in (tenant.founding, world.opening(tenant), world.creation(tenant)):
        assert not ledger.do(operation).exists
        assert ledger.do(operation).exists
    assert not ledger.do(world.revocation(tenant)).exists
    assert ledger.do(world.revocation(tenant)).exists
    assert len(ledger.book.new_records) == 4


def test_only_the_accounts_own_key_signs_for_it() -> None:
    world = World()
    ledger, tenant = MemoryLedger(world), world.tenant()
    document = tenant.founding.document
    with pytest.raises(NotAuthorizedError):
        ledger.do(FoundAccount(MINT.sign(NETWORK, document), document))
    with pytest.raises(AccountUnknownError):
        ledger.do(world.opening(tenant))
    ledger.do(tenant.founding)
    with pytest.raises(NotAuthorizedError):
        ledger.do(world.opening(tenant, signer=MINT))
    with pytest.raises(NamespaceUnknownError):
        ledger.do(world.creation(tenant))
    ledger.do(world.opening(tenant))
    with pytest.raises(NotAuthorizedError):
        ledger.do(world.creation(tenant, signer=MINT))
    ledger.do(world.creation(tenant))
    with pytest.raises(NotAuthorizedError):
        ledger.do(world.revocation(tenant, signer=MINT))


def test_a_key_of_another_account_can_be_neither_taken_nor_revoked() -> None:
    world = World()
    ledger, one, two = MemoryLedger(world), world.tenant(1), world.tenant(2)
    for tenant in (one, two):
        ledger.do(tenant.founding, world.opening(tenant))
    ledger.do(world.creation(one))
    thief = replace(two, api_key=one.api_key)
    with pytest.raises(ConflictError):
        ledger.do(world.creation(thief))
    with pytest.raises(KeyUnknownError):
        ledger.do(world.revocation(thief))


@pytest.mark.parametrize(
    "changes",
    [
        {"key_id": "UPPER234567abcde"},
        {"key_id": "short234"},
        {"name": "a\x00b"},
        {"models": ("x\n",)},
        {"expires_ms": 5},
    ],
)
def test_values_of_a_key_are_checked(changes: dict[str, object]) -> None:
    world = World()
    ledger, tenant = MemoryLedger(world), world.tenant()
    ledger.do(tenant.founding, world.opening(tenant))
    with pytest.raises(ValueRefusedError):
        ledger.do(world.creation(tenant, **changes))


@pytest.mark.parametrize("name", ["", "A", "a/b", "-a", "a" * 65, "ä"])
def test_names_of_namespaces_are_checked(name: str) -> None:
    world = World()
    tenant = world.tenant(namespace=name)
    ledger = MemoryLedger(world)
    ledger.do(tenant.founding)
    with pytest.raises(ValueRefusedError):
        ledger.do(world.opening(tenant))


def test_a_node_can_be_bound_and_moved() -> None:
    world = World()
    ledger, node = MemoryLedger(world), NODES[0].peer_id
    assert not ledger.do(BindNode(node, NODE_ACCOUNTS[0])).exists
    assert ledger.do(BindNode(node, NODE_ACCOUNTS[0])).exists
    assert not ledger.do(BindNode(node, NODE_ACCOUNTS[1])).exists
    assert ledger.book.bindings[node].account_id == NODE_ACCOUNTS[1]
    with pytest.raises(ValueRefusedError):
        ledger.do(BindNode(node, AccountId("somebody")))


def test_contents_are_the_same_as_before_documents_grew() -> None:
    """Digests of the first release's encodings: a repetition after an upgrade is recognised."""
    world = World()
    tenant = world.tenant()
    for operation, field, value in (
        (world.creation(tenant), "limits", KeyLimits(1)),
        (world.hold(tenant, 1), "source_network", "192.0.2.0/24"),
        (world.release(world.hold(tenant, 1)), "outcome", "failed"),
    ):
        document = replace(operation.document, issued_ms=0)
        fields = msgpack.unpackb(encode_message(document))[:-1]
        older = hashlib.sha256(bytes(32) + msgpack.packb(fields)).digest()
        assert content_of(bytes(32), operation.document) == older
        grown = replace(operation.document, **{field: value})
        assert content_of(bytes(32), grown) != older
