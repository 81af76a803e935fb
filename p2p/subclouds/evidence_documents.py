"""Owns the reading of documents about a node: each is checked by itself, and opened once. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from p2p.certificates import Certificate, verify_chain
from p2p.codec import decode_any_message
from p2p.errors import MalformedError, P2PError, UntrustedError
from p2p.freshness import check_times
from p2p.limits import (
    ATTESTATION_LIFETIME_S_MAX,
    BENCHMARK_LIFETIME_S_MAX,
    LANDMARK_LIFETIME_S_MAX,
)
from p2p.signing import Signed, open_signed
from p2p.subclouds.evidence_messages import Attestation, BenchmarkStatement, LandmarkStatement
from p2p.subclouds.memberships import KnownMemberships
from p2p.subclouds.policy import SubcloudPolicy
from p2p.types import NetworkId, PeerId, Role


@dataclass(frozen=True, slots=True)
class KnownAttestation:
    """An attestation whose signature holds; whether its signer is a delegate, a policy says."""

    document: Attestation
    signer: bytes


@dataclass(frozen=True, slots=True)
class KnownBenchmark:
    """A benchmark whose signature holds, and its tester's certificate if that is a gateway."""

    document: BenchmarkStatement
    signer: bytes
    gateway: Certificate | None


EvidenceDocument = LandmarkStatement | KnownAttestation | KnownBenchmark


@dataclass(frozen=True, slots=True)
class NodeEvidence:
    """A node's statement, and those of its documents that are good by themselves."""

    known: KnownMemberships
    landmarks: tuple[LandmarkStatement, ...] = ()
    attestations: tuple[KnownAttestation, ...] = ()
    benchmarks: tuple[KnownBenchmark, ...] = ()


def open_document(
    signed: Signed, network: NetworkId, node: PeerId, now_ms: int
) -> EvidenceDocument:
    """Check one document about a node by itself: signature, whom it is about, times.

    Raises: UntrustedError, StaleError, WrongNetworkError, MalformedError.
    """
    claimed = decode_any_message(signed.body)
    if isinstance(claimed, LandmarkStatement):
        landmark = open_signed(signed, LandmarkStatement, network)
        _check(landmark, node, now_ms, LANDMARK_LIFETIME_S_MAX)
        if signed.peer_id != landmark.landmark or landmark.landmark == node:
            raise UntrustedError("a landmark's statement that the landmark did not sign")
        return landmark
    if isinstance(claimed, Attestation):
        attestation = open_signed(signed, Attestation, network)
        _check(attestation, node, now_ms, ATTESTATION_LIFETIME_S_MAX)
        return KnownAttestation(attestation, signed.signer)
    if isinstance(claimed, BenchmarkStatement):
        return _open_benchmark(signed, network, node, now_ms)
    raise MalformedError("this document is no evidence about a node")


def _open_benchmark(
    signed: Signed, network: NetworkId, node: PeerId, now_ms: int
) -> KnownBenchmark:
    benchmark = open_signed(signed, BenchmarkStatement, network)
    _check(benchmark, node, now_ms, BENCHMARK_LIFETIME_S_MAX)
    if signed.peer_id != benchmark.tester or benchmark.tester == node:
        raise UntrustedError("a benchmark that its tester did not sign")
    if not math.isfinite(benchmark.tokens_per_second) or benchmark.tokens_per_second <= 0:
        raise MalformedError("a benchmark without a speed")
    gateway = None
    if benchmark.chain:
        gateway = verify_chain(benchmark.chain, network, benchmark.tester, now_ms)
        if gateway.role is not Role.GATEWAY:
            raise UntrustedError("only gateways and delegates test nodes")
    return KnownBenchmark(benchmark, signed.signer, gateway)


def _check(
    document: LandmarkStatement | Attestation | BenchmarkStatement,
    node: PeerId,
    now_ms: int,
    lifetime_s_max: float,
) -> None:
    if document.node != node:
        raise UntrustedError(f"a {document.PURPOSE} about another node")
    check_times(document.issued_ms, document.expires_ms, now_ms)
    if document.expires_ms - document.issued_ms > lifetime_s_max * 1000:
        raise UntrustedError(f"a {document.PURPOSE} that claims to hold for too long")


def open_attestation(signed: Signed, policy: SubcloudPolicy, now_ms: int) -> Attestation:
    """Check that a delegate of a policy vouches for a node of its subcloud now.

    Raises: UntrustedError, StaleError, MalformedError.
    """
    network = NetworkId(policy.network_id)
    claimed = open_signed(signed, Attestation, network)
    _check(claimed, claimed.node, now_ms, ATTESTATION_LIFETIME_S_MAX)
    if signed.signer not in policy.delegate_public_keys:
        raise UntrustedError("this attestation is not signed by a delegate")
    if claimed.subcloud_id != policy.subcloud_id:
        raise UntrustedError("an attestation for another subcloud")
    return claimed


def open_evidence(
    known: KnownMemberships, network: NetworkId, now_ms: int, own: Iterable[Signed] = ()
) -> NodeEvidence:
    """Check all documents that a node shows (about 0.1 ms each: once for each new statement).

    Args: own: further ones, such as measurements of who asks.
    """
    landmarks: list[LandmarkStatement] = []
    attestations: list[KnownAttestation] = []
    benchmarks: list[KnownBenchmark] = []
    for signed in (*known.statement.evidence, *own):
        try:
            document = open_document(signed, network, known.statement.peer_id, now_ms)
        except P2PError:
            continue  # worth nothing, and no reason to refuse the rest
        if isinstance(document, LandmarkStatement):
            landmarks.append(document)
        elif isinstance(document, KnownAttestation):
            attestations.append(document)
        else:
            benchmarks.append(document)
    return NodeEvidence(known, tuple(landmarks), tuple(attestations), tuple(benchmarks))


def is_country(text: str) -> bool:
    """Tell whether a text has the form of an ISO 3166-1 alpha-2 code."""
    return len(text) == 2 and text.isascii() and text.isalpha() and text.isupper()
