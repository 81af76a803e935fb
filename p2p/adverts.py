"""Owns adverts: what a node says about itself, and the book of what is known about all nodes. Pure.

Theory of operation. A node signs an advert when something changes and at a slow heartbeat, and
publishes it on the topic shard of each subcloud it serves (the global pool is the subcloud with the
empty ID). An advert is a claim of one peer about itself: signed by it, with its certificate chain,
a sequence number and an expiry. A newer sequence replaces an older one; an expired advert is as
good as none. Load does not travel here (see `LoadReport`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.certificates import Certificate, verify_chain
from p2p.codec import Limit, Message, Range, message
from p2p.errors import UntrustedError
from p2p.freshness import check_times
from p2p.hardware import Hardware
from p2p.limits import (
    ADDRESSES_MAX,
    ADVERT_LIFETIME_S_MAX,
    ADVERTS_KNOWN_MAX,
    CERTIFICATES_MAX,
    MODELS_PER_NODE_MAX,
    NAME_CHARACTERS_MAX,
    TOKENS_MAX,
    TOPIC_SHARDS,
)
from p2p.newest_book import NewestBook
from p2p.signing import Document, Signed, open_signed
from p2p.types import NetworkId, PeerId, Role, public_key_of

Name = Annotated[str, Limit(NAME_CHARACTERS_MAX)]
Digest = Annotated[bytes, Limit(32, 32)]
GLOBAL_POOL = ""
HIDDEN = "hidden"


@message(80)
@dataclass(frozen=True, slots=True)
class ModelAdvert(Message):
    """One model that a node has active.

    `verified`: the node read the whole file that has this digest; False for a server that nobody
    can verify (`p2p.approved_models`). `mode`: `reproducible` or `throughput`, or empty where it is
    not known (nothing is loaded, another server).
    """

    TRIMMED: ClassVar[int] = 2
    name: Name
    digest: Digest
    model_id: Digest
    context_tokens: Annotated[int, Range(1, TOKENS_MAX)]
    quantisation: Name
    slots: Annotated[int, Range(1, 100_000)]
    tasks: Annotated[tuple[str, ...], Limit(16)]
    modalities: Annotated[tuple[str, ...], Limit(8)]
    verified: bool = True
    mode: Annotated[str, Limit(16)] = ""


@message(81)
@dataclass(frozen=True, slots=True)
class Advert(Document):
    """A node's signed statement about itself.

    `reach` is `hidden` if the node cannot be dialled: its addresses then lead through relays.
    `hardware` is what it says of its machine; None if it says nothing.
    """

    PURPOSE: ClassVar[str] = "advert"
    TRIMMED: ClassVar[int] = 2
    peer_id: Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
    sequence: Annotated[int, Range(0, 2**63 - 1)]
    issued_ms: int
    expires_ms: int
    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX, 1)]
    addresses: Annotated[tuple[str, ...], Limit(ADDRESSES_MAX)]
    models: Annotated[tuple[ModelAdvert, ...], Limit(MODELS_PER_NODE_MAX)]
    software: Name
    draining: bool = False
    reach: Annotated[str, Limit(16)] = ""
    hardware: Hardware | None = None


@dataclass(frozen=True, slots=True)
class KnownAdvert:
    """An advert that was verified, with its signed form and the certificate behind it."""

    advert: Advert
    signed: Signed
    certificate: Certificate

    @property
    def statement(self) -> Advert:
        """The advert, as `NewestBook` calls it."""
        return self.advert


def advert_topic(subcloud_id: str = GLOBAL_POOL) -> str:
    """Give the topic shard that carries the adverts of a subcloud."""
    digest = hashlib.sha256(subcloud_id.encode()).digest()
    return f"adverts/{int.from_bytes(digest[:4], 'big') % TOPIC_SHARDS}"


def all_advert_topics() -> tuple[str, ...]:
    """All topic shards (gateways and bootstraps subscribe to each once)."""
    return tuple(f"adverts/{shard}" for shard in range(TOPIC_SHARDS))


def model_key(digest: bytes) -> bytes:
    """The DHT key under which nodes say that they might serve a model (32 bytes)."""
    return hashlib.sha256(b"resultity/model/" + digest).digest()


def advert_key(peer_id: PeerId) -> bytes:
    """The DHT key of a node's advert record (39 bytes). Raises: MalformedError."""
    return b"advert/" + public_key_of(peer_id)


def verify_advert(signed: Signed, network: NetworkId, now_ms: int) -> KnownAdvert:
    """Check an advert: signature, certificate, role, time.

    Raises: UntrustedError, StaleError, WrongNetworkError, MalformedError.
    """
    advert = open_signed(signed, Advert, network)
    if signed.peer_id != advert.peer_id:
        raise UntrustedError("an advert about another peer")
    check_times(advert.issued_ms, advert.expires_ms, now_ms)
    if advert.expires_ms - advert.issued_ms > ADVERT_LIFETIME_S_MAX * 1000:
        raise UntrustedError("an advert that claims to hold for too long")
    certificate = verify_chain(advert.chain, network, advert.peer_id, now_ms)
    if certificate.role is not Role.NODE:
        raise UntrustedError("only nodes advertise models")
    return KnownAdvert(advert, signed, certificate)


def check_record(network: NetworkId, now_ms: int, key: bytes, value: Signed) -> int:
    """Validate a DHT record that claims to be a node's advert; gives its sequence number.

    Raises: as `verify_advert`; UntrustedError if it is stored under another peer's key.
    """
    known = verify_advert(value, network, now_ms)
    if key != advert_key(known.advert.peer_id):
        raise UntrustedError("an advert under another peer's key")
    return known.advert.sequence


class AdvertBook(NewestBook[KnownAdvert]):
    """The newest valid advert of each node, forgotten when it expires."""

    def __init__(self, entries_max: int = ADVERTS_KNOWN_MAX) -> None:
        """Keep at most `entries_max` nodes; more are refused until some expire."""
        super().__init__(entries_max)
