"""Owns what a delegate says when it vouches for a node: the attestation from what was typed."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence

from p2p.hardware import GpuHardware
from p2p.limits import (
    ATTESTATION_LIFETIME_S_MAX,
    GPUS_PER_NODE_MAX,
    MODELS_PER_NODE_MAX,
    NAME_CHARACTERS_MAX,
)
from p2p.subclouds.evidence_documents import is_country
from p2p.subclouds.evidence_messages import Attestation, DeclaredSpeed
from p2p.subclouds.identity import SubcloudId
from p2p.types import PeerId
from resultity.errors import SettingsError
from resultity.subclouds.kinds import memory

_MEMORY = memory()
BYTES_MAX = 2**53


def make_attestation(
    identity: SubcloudId,
    node: PeerId,
    *,
    country: str = "",
    memory_text: str = "",
    gpus: Sequence[str] = (),
    speeds: Sequence[str] = (),
    lifetime_s: int,
    now_ms: int,
) -> Attestation:
    """Make an attestation.

    Args: gpus: each `NAME` or `NAME=24GiB`. speeds: each `DIGEST=TOKENS_PER_SECOND`.
    Raises: SettingsError.
    """
    if country and not is_country(country):
        raise SettingsError(f"not a country's code like DE or FR: {country[:20]!r}")
    if not (country or memory_text or gpus or speeds):
        raise SettingsError("what is attested? give --country, --memory, --gpu or --speed")
    if len(gpus) > GPUS_PER_NODE_MAX or len(speeds) > MODELS_PER_NODE_MAX:
        raise SettingsError(
            f"a node has at most {GPUS_PER_NODE_MAX} GPUs and {MODELS_PER_NODE_MAX} models"
        )
    if not 0 < lifetime_s <= ATTESTATION_LIFETIME_S_MAX:
        days = int(ATTESTATION_LIFETIME_S_MAX // 86_400)
        raise SettingsError(f"an attestation holds for at most {days} days")
    return Attestation(
        secrets.token_bytes(16),
        identity,
        node,
        now_ms,
        now_ms + lifetime_s * 1000,
        country,
        _bytes_of(memory_text) if memory_text else 0,
        tuple(_gpu(text) for text in gpus),
        tuple(_speed(text) for text in speeds),
    )


def _speed(text: str) -> DeclaredSpeed:
    digest, _, value = text.partition("=")
    try:
        raw, speed = bytes.fromhex(digest), float(value)
    except ValueError:
        raw, speed = b"", 0.0
    if len(raw) != 32 or not (math.isfinite(speed) and speed > 0):
        raise SettingsError(f"not a model's speed like DIGEST=40: {text[:80]!r}")
    return DeclaredSpeed(raw, speed)


def _gpu(text: str) -> GpuHardware:
    name, separator, size = text.rpartition("=")
    if not separator:
        name, size = text, ""
    name = name.strip()
    if not name or len(name) > NAME_CHARACTERS_MAX:
        raise SettingsError(f"not a GPU like `RTX 4090=24GiB`: {text[:60]!r}")
    return GpuHardware(name, _bytes_of(size) if size else 0)


def _bytes_of(text: str) -> int:
    try:
        value = _MEMORY.parse(text.strip())
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if not isinstance(value, int) or not 0 < value <= BYTES_MAX:
        raise SettingsError(f"not a size of memory: {text[:40]!r}")
    return value
