"""Owns what the evaluation of a policy knows of a node: values with the evidence behind them. Pure.

A peer gathers these from adverts, certificates, its own measurements and the ledger's receipts.
What is not known is None or empty, and fails closed wherever a policy asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from p2p.subclouds.grades import HardwareGrade, RegionGrade
from p2p.types import PeerId


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model that a node has active. `name` and `version` are the network's, empty if it approves
    no such file; prices are the network's list prices (None with no name)."""

    digest: bytes
    name: str = ""
    version: str = ""
    family: str = ""
    quantisation: str = ""
    modalities: tuple[str, ...] = ("text",)
    verified: bool = True
    slots: int = 1
    tokens_per_second: float | None = None
    tokens_per_second_grade: HardwareGrade = HardwareGrade.DECLARED
    input_price: int | None = None
    output_price: int | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """A country (ISO 3166-1 alpha-2) and how well it is supported, until when (ms since 1970)."""

    country: str
    grade: RegionGrade
    until_ms: int = 2**62


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as it names itself."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a node has, under one grade of evidence."""

    grade: HardwareGrade
    memory_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True, slots=True)
class Reputation:
    """A node's standing from receipted jobs and recorded failures (basis points)."""

    share: int
    jobs: int
    gateways: int


@dataclass(frozen=True, slots=True)
class Service:
    """What was observed of a node within the policy's window."""

    jobs: int
    first_token_ms: float
    tokens_per_second: float
    uptime: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A node's membership of one subcloud as it can be shown.

    Attributes:
        policy_digest: the version (hex) that an open member signed; empty for a certificate.
        certified: a delegate's certificate that is valid and not revoked.
        until_ms: when it ends. suspended_until_ms: below the service level until then.
        cooldown_until_ms: it left or was removed, and stays out until then.
        isolated: it consented to leave the global pool for this subcloud.
    """

    policy_digest: str = ""
    certified: bool = False
    until_ms: int = 0
    suspended_until_ms: int = 0
    cooldown_until_ms: int = 0
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Everything about one node that a policy may ask."""

    peer_id: PeerId
    models: tuple[OfferedModel, ...] = ()
    regions: tuple[Region, ...] = ()
    hardware: tuple[Hardware, ...] = ()
    reputation: Reputation | None = None
    service: Service | None = None
    stores_no_content: bool = False
    banned: bool = False
    standing: Standing = field(default_factory=Standing)
