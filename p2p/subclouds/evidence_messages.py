"""Owns the documents that support what is said about a node: by landmarks, delegates, testers.
Pure.

Theory of operation. A node shows these with its memberships; each is signed by somebody else and
says for itself what it is about and until when. A landmark measures round trips: its challenges
hold nonces, the node's echoes sign them together with the landmark's ID, so that nobody else can
answer in the node's place (whoever holds the node's key can). A delegate attests. A tester (a
gateway, or a delegate) has the node run an unpaid, timed job. `docs/explanation/evidence.md` says
what each of them does not prove.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.hardware import GpuHardware
from p2p.limits import (
    CERTIFICATES_MAX,
    GPUS_PER_NODE_MAX,
    MODELS_PER_NODE_MAX,
    NAME_CHARACTERS_MAX,
    TOKENS_MAX,
)
from p2p.signing import Document, Signed
from p2p.subclouds.identity import SubcloudId
from p2p.types import PeerId

Id = Annotated[bytes, Limit(16, 16)]
Digest = Annotated[bytes, Limit(32, 32)]
Nonce = Annotated[bytes, Limit(32, 32)]
Peer = Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
Country = Annotated[str, Limit(2)]
Microseconds = Annotated[int, Range(0, 10**9)]
Milliseconds = Annotated[int, Range(0, 10**7)]
BENCHMARK_REQUEST_BYTES_MAX = 4096
BENCHMARK_TOKENS_MAX = 512

LANDMARK_PROTOCOL = "landmark/1"
BENCHMARK_PROTOCOL = "benchmark/1"


@message(172)
@dataclass(frozen=True, slots=True)
class LandmarkChallenge(Message):
    """A landmark asks for an echo: the time runs from here."""

    nonce: Nonce


@message(173)
@dataclass(frozen=True, slots=True)
class LandmarkEcho(Document):
    """A node answers one challenge of one landmark. Signed by the node."""

    PURPOSE: ClassVar[str] = "landmark-echo"
    landmark: Peer
    node: Peer
    nonce: Nonce


@message(174)
@dataclass(frozen=True, slots=True)
class LandmarkStatement(Document):
    """A landmark's measurement: the best of its direct round trips to a node. Signed by it.

    `nonces_digest`: SHA-256 over the nonces of all rounds.
    """

    PURPOSE: ClassVar[str] = "landmark-statement"
    landmark: Peer
    node: Peer
    round_trip_us: Microseconds
    nonces_digest: Digest
    issued_ms: int
    expires_ms: int


@message(175)
@dataclass(frozen=True, slots=True)
class DeclaredSpeed(Message):
    """How fast a node says that one of its models answers one request."""

    digest: Digest
    tokens_per_second: float


@message(176)
@dataclass(frozen=True, slots=True)
class Attestation(Document):
    """A delegate vouches for a node in one subcloud. Signed by one of the policy's `delegate_keys`.

    `country`: ISO 3166-1 alpha-2, or empty: nothing is said of it. `memory_bytes` 0 and no GPUs:
    nothing is said of the hardware. `speeds`: of its models. A revocation list takes it back by its
    ID.
    """

    PURPOSE: ClassVar[str] = "attestation"
    attestation_id: Id
    subcloud_id: Annotated[SubcloudId, Limit(NAME_CHARACTERS_MAX)]
    node: Peer
    issued_ms: int
    expires_ms: int
    country: Country = ""
    memory_bytes: Annotated[int, Range(0, 2**53)] = 0
    gpus: Annotated[tuple[GpuHardware, ...], Limit(GPUS_PER_NODE_MAX)] = ()
    speeds: Annotated[tuple[DeclaredSpeed, ...], Limit(MODELS_PER_NODE_MAX)] = ()


@message(177)
@dataclass(frozen=True, slots=True)
class BenchmarkStatement(Document):
    """What a tester measured of a timed job at a node. Signed by the tester.

    `tokens_per_second`: all tokens over the whole time from the question to the last of them.
    `chain`: the tester's certificate, if it is a gateway.
    """

    PURPOSE: ClassVar[str] = "benchmark-statement"
    benchmark_id: Id
    tester: Peer
    node: Peer
    model_digest: Digest
    tokens_per_second: float
    first_token_ms: Milliseconds
    output_tokens: Annotated[int, Range(1, BENCHMARK_TOKENS_MAX)]
    issued_ms: int
    expires_ms: int
    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX)] = ()


@message(178)
@dataclass(frozen=True, slots=True)
class BenchmarkOffer(Document):
    """A gateway asks a node for one timed job that nobody pays. Signed by the gateway.

    `request`: the JSON of a chat request (`p2p.job_messages.Offer`). Greedy: `seed` draws nothing.
    """

    PURPOSE: ClassVar[str] = "benchmark-offer"
    benchmark_id: Id
    tester: Peer
    node: Peer
    model_digest: Digest
    request: Annotated[bytes, Limit(BENCHMARK_REQUEST_BYTES_MAX)]
    output_tokens_max: Annotated[int, Range(1, BENCHMARK_TOKENS_MAX)]
    seed: Annotated[int, Range(0, 2**32 - 1)]
    issued_ms: int
    expires_ms: int


@message(179)
@dataclass(frozen=True, slots=True)
class BenchmarkReceipt(Document):
    """The node's word on the output of a timed job so far. It proves no work that is paid."""

    PURPOSE: ClassVar[str] = "benchmark-receipt"
    benchmark_id: Id
    offer_hash: Digest
    output_hash: Digest
    input_tokens: Annotated[int, Range(0, TOKENS_MAX)]
    output_tokens: Annotated[int, Range(0, BENCHMARK_TOKENS_MAX)]
    final: bool
