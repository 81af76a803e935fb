"""Owns a small world of fixed keys: an authority, its certified peers and its configurations."""

from __future__ import annotations

from typing import Any

from p2p.account_file import AccountKeys
from p2p.certificates import Chain, issue_certificate
from p2p.configuration_book import ConfigurationBook
from p2p.ledger_messages import AccountFounding
from p2p.membership import Membership
from p2p.network_configuration import (
    ApprovedModel,
    NetworkConfiguration,
    configuration_digest,
    sign_configuration,
)
from p2p.signing import KeyPair, Signed
from p2p.types import AccountId, NetworkId, PeerId, Role, network_id
from tests.fakes.clocks import START_MS, FakeClock


def key_pair(number: int) -> KeyPair:
    """Give a key pair that is the same in every run."""
    return KeyPair(number.to_bytes(32, "big"))


AUTHORITY, OTHER_AUTHORITY = key_pair(1), key_pair(2)
BOOTSTRAP, OTHER_BOOTSTRAP, GATEWAY, OTHER_GATEWAY, NODE, OTHER_NODE, STRANGER = (
    key_pair(number) for number in range(11, 18)
)
ACCOUNT_KEY = key_pair(31)
NETWORK: NetworkId = network_id("test", AUTHORITY.public_key)
OTHER_NETWORK: NetworkId = network_id("other", OTHER_AUTHORITY.public_key)
SOME_ACCOUNT = AccountId("acct-" + "a" * 40)
DAY_S = 86_400.0
MODEL_DIGEST = bytes([7]) * 32
MODEL_ID = bytes([8]) * 32
MODEL = ApprovedModel(
    name="tiny-chat",
    digest=MODEL_DIGEST.hex(),
    context_tokens=1024,
    input_microcredits_per_million_tokens=2_000_000,
    output_microcredits_per_million_tokens=5_000_000,
)


def certificate(
    peer_id: PeerId,
    role: Role,
    issuer: KeyPair = AUTHORITY,
    *,
    network: NetworkId = NETWORK,
    account_id: AccountId = SOME_ACCOUNT,
    issued_ms: int = START_MS,
    lifetime_s: float = DAY_S,
) -> Signed:
    """Sign one certificate."""
    return issue_certificate(
        issuer, network, peer_id, role, account_id, issued_ms=issued_ms, lifetime_s=lifetime_s
    )


def bootstrap_chain(pair: KeyPair = BOOTSTRAP, **options: Any) -> Chain:
    return (certificate(pair.peer_id, Role.BOOTSTRAP, **options),)


def gateway_chain(pair: KeyPair = GATEWAY, **options: Any) -> Chain:
    return (certificate(pair.peer_id, Role.GATEWAY, **options),)


def node_chain(pair: KeyPair = NODE, by: KeyPair = BOOTSTRAP, **options: Any) -> Chain:
    return (certificate(pair.peer_id, Role.NODE, by, **options), *bootstrap_chain(by))


def configuration(
    version: int = 1,
    predecessor: Signed | None = None,
    *,
    authority: KeyPair = AUTHORITY,
    network: NetworkId = NETWORK,
    **changes: Any,
) -> Signed:
    """Sign a configuration; a version above 1 names its predecessor (any digest if none)."""
    digest = None
    if version > 1:
        digest = configuration_digest(predecessor) if predecessor is not None else "0" * 64
    fields: dict[str, Any] = {"models": (MODEL,), "issued_ms": START_MS, **changes}
    document = NetworkConfiguration(
        network_id=network, version=version, predecessor_digest=digest, **fields
    )
    return sign_configuration(authority, document)


def book_with(signed: Signed | None = None) -> ConfigurationBook:
    """Give a book in memory that holds version 1 (or `signed`)."""
    book = ConfigurationBook(NETWORK)
    book.offer(signed or configuration())
    return book


def membership(
    pair: KeyPair,
    role: Role,
    chain: Chain,
    clock: FakeClock,
    *,
    network: NetworkId = NETWORK,
    book: ConfigurationBook | None = None,
) -> Membership:
    """Give the standing of one peer."""
    return Membership(
        pair,
        network,
        role,
        book if book is not None else ConfigurationBook(network),
        clock_ms=clock,
        software="resultity/test",
        chain=chain,
    )


def account_keys(pair: KeyPair = ACCOUNT_KEY, network: NetworkId = NETWORK) -> AccountKeys:
    """Give an account with fixed keys."""
    founding = AccountFounding(pair.public_key, key_pair(99).public_key, START_MS, bytes(16))
    return AccountKeys(pair, pair.sign(network, founding))
