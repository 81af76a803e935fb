"""A small world of evidence for tests: a node, landmarks, gateways, delegates, a configuration."""

from __future__ import annotations

from typing import Any

from p2p.adverts import Advert, KnownAdvert, ModelAdvert
from p2p.certificates import Certificate, issue_certificate
from p2p.hardware import GpuHardware, Hardware
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import KeyPair, Signed
from p2p.subclouds.evidence_messages import (
    Attestation,
    BenchmarkStatement,
    DeclaredSpeed,
    LandmarkStatement,
)
from p2p.subclouds.memberships import KnownMemberships, MembershipStatement
from p2p.types import AccountId, NetworkId, PeerId, Role, network_id
from tests.fakes.subclouds import DELEGATE, a_policy

AUTHORITY = KeyPair(b"a" * 32)
NETWORK = network_id("evidence", AUTHORITY.public_key)
NODE, OTHER_NODE = KeyPair(b"n" * 32), KeyPair(b"o" * 32)
NODE_ACCOUNT, GATEWAY_ACCOUNT = AccountId("acct-" + "a" * 40), AccountId("acct-" + "b" * 40)
NEAR, NEARER, FAR = (KeyPair(letter * 32) for letter in (b"1", b"2", b"3"))
GATEWAY = KeyPair(b"g" * 32)
DIGEST = b"\x07" * 32
NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
POLICY = a_policy(delegate_keys=(DELEGATE.public_key.hex(),), expires_ms=2 * NOW_MS)


def a_configuration(**fields: Any) -> NetworkConfiguration:
    """Two landmarks near Germany, one in France; one model."""
    content: dict[str, Any] = {
        "network_id": NETWORK,
        "version": 1,
        "issued_ms": 0,
        "models": [
            {
                "name": "model",
                "version": "2",
                "digest": DIGEST.hex(),
                "context_tokens": 1024,
                "input_microcredits_per_million_tokens": 100,
                "output_microcredits_per_million_tokens": 200,
                "family": "llama",
            }
        ],
        "landmarks": [
            {"peer_id": NEAR.peer_id, "countries": ["DE", "FR"], "round_trip_ms_max": 5.0},
            {"peer_id": NEARER.peer_id, "countries": ["DE"], "round_trip_ms_max": 5.0},
            {"peer_id": FAR.peer_id, "countries": ["FR"], "round_trip_ms_max": 5.0},
        ],
    }
    return NetworkConfiguration.model_validate(content | fields)


def a_landmark_statement(
    landmark: KeyPair = NEAR, signer: KeyPair | None = None, **fields: Any
) -> Signed:
    """A landmark's word on the node: 4 ms."""
    content: dict[str, Any] = {
        "landmark": landmark.peer_id,
        "node": NODE.peer_id,
        "round_trip_us": 4000,
        "nonces_digest": b"d" * 32,
        "issued_ms": NOW_MS,
        "expires_ms": NOW_MS + HOUR_MS,
    }
    return (signer or landmark).sign(NETWORK, LandmarkStatement(**content | fields))


def an_attestation(signer: KeyPair = DELEGATE, **fields: Any) -> Signed:
    """A delegate's word on the node, in the subcloud of `POLICY`."""
    content: dict[str, Any] = {
        "attestation_id": b"i" * 16,
        "subcloud_id": POLICY.subcloud_id,
        "node": NODE.peer_id,
        "issued_ms": NOW_MS,
        "expires_ms": NOW_MS + HOUR_MS,
        "country": "DE",
        "gpus": (GpuHardware("A100", 80),),
    }
    return signer.sign(NETWORK, Attestation(**content | fields))


def gateway_chain(
    key: KeyPair = GATEWAY, account: AccountId = GATEWAY_ACCOUNT, role: Role = Role.GATEWAY
) -> tuple[Signed, ...]:
    """A certificate of the authority."""
    times: dict[str, Any] = {"issued_ms": NOW_MS, "lifetime_s": 10 * 3600}
    return (issue_certificate(AUTHORITY, NETWORK, key.peer_id, role, account, **times),)


def a_benchmark(tester: KeyPair = GATEWAY, signer: KeyPair | None = None, **fields: Any) -> Signed:
    """A gateway's measurement of the node: 50 tokens a second."""
    content: dict[str, Any] = {
        "benchmark_id": b"b" * 16,
        "tester": tester.peer_id,
        "node": NODE.peer_id,
        "model_digest": DIGEST,
        "tokens_per_second": 50.0,
        "first_token_ms": 100,
        "output_tokens": 128,
        "issued_ms": NOW_MS,
        "expires_ms": NOW_MS + HOUR_MS,
        "chain": gateway_chain(tester),
    }
    return (signer or tester).sign(NETWORK, BenchmarkStatement(**content | fields))


def node_certificate() -> Certificate:
    """The node's own, opened."""
    return Certificate(NETWORK, NODE.peer_id, Role.NODE, NODE_ACCOUNT, 0, 2**50)


def a_statement(*evidence: Signed, country: str = "DE", **fields: Any) -> KnownMemberships:
    """The node's statement with that evidence, as if it had been verified."""
    content: dict[str, Any] = {
        "peer_id": NODE.peer_id,
        "sequence": 1,
        "issued_ms": NOW_MS,
        "expires_ms": NOW_MS + HOUR_MS,
        "chain": gateway_chain(),
        "memberships": (),
        "country": country,
        "evidence": evidence,
        "speeds": (DeclaredSpeed(DIGEST, 70.0),),
    }
    statement = MembershipStatement(**content | fields)
    return KnownMemberships(statement, NODE.sign(NETWORK, statement), node_certificate())


def an_advert(peer_id: PeerId = NODE.peer_id, network: NetworkId = NETWORK) -> KnownAdvert:
    """The node's advert: one model, a GPU."""
    model = ModelAdvert("other-name", DIGEST, DIGEST, 1024, "Q8_0", 4, ("chat",), ("text",))
    hardware = Hardware("cpu", 8, 16, 64, "system", (GpuHardware("RTX 4090", 24),))
    advert = Advert(
        peer_id,
        1,
        NOW_MS,
        NOW_MS + 45_000,
        gateway_chain(),
        (),
        (model,),
        "software",
        hardware=hardware,
    )
    return KnownAdvert(advert, NODE.sign(network, advert), node_certificate())
