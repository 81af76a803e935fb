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
    """What a node has, under one grade of evidence, until when (ms since 1970)."""

    grade: HardwareGrade
    memory_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()
    until_ms: int = 2**62


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a node's model (its digest) answers one request, under one grade of evidence."""

    digest: bytes
    tokens_per_second: float
    grade: HardwareGrade
    until_ms: int = 2**62


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
    """A node's membership of one subcloud as it can be shown, and what counts in this one only.

    Attributes:
        policy_digest: the version (hex) that an open member signed; empty for a certificate.
        certified: a delegate's certificate that is valid and not revoked.
        until_ms: when it ends. suspended_until_ms: below the service level until then.
        cooldown_until_ms: it left or was removed, and stays out until then.
        isolated: it consented to leave the global pool for this subcloud.
        models: the only ones (digests) that its certificate lets it serve here; empty: any.
        slots_max: how many of its slots its certificate lets count here; 0: all.
        regions, hardware, speeds: evidence beside the node's facts: signed by the subcloud's
            delegates, or by gateways that the policy admits.
        reputation, service: how it did, as far as this subcloud counts it.
        isolated_until_ms: how long the consent holds, where that is longer than `until_ms`.
        problem: why the membership does not count (`p2p.subclouds.standing`), or empty.
    """

    policy_digest: str = ""
    certified: bool = False
    until_ms: int = 0
    suspended_until_ms: int = 0
    cooldown_until_ms: int = 0
    isolated: bool = False
    models: tuple[bytes, ...] = ()
    slots_max: int = 0
    regions: tuple[Region, ...] = ()
    hardware: tuple[Hardware, ...] = ()
    speeds: tuple[Speed, ...] = ()
    reputation: Reputation | None = None
    service: Service | None = None
    problem: str = ""
    isolated_until_ms: int = 0


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Everything about one node that a policy may ask; the standing is that in its subcloud."""

    peer_id: PeerId
    models: tuple[OfferedModel, ...] = ()
    regions: tuple[Region, ...] = ()
    hardware: tuple[Hardware, ...] = ()
    stores_no_content: bool = False
    banned: bool = False
    standing: Standing = field(default_factory=Standing)
