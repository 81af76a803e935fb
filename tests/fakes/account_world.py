"""Owns the operations by which an account's owner manages keys, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ledger.operations import ChangeAccountKeys, ChangeKeyLimits, RotateKey
from p2p.account_messages import AccountKeyChange, ApiKeyRotation, KeyLimitsChange
from p2p.api_keys import new_api_key
from p2p.key_limits import NO_LIMITS
from p2p.signing import KeyPair
from tests.fakes.ledger_world import NETWORK, Tenant, World, key_pair

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def recovery_of(number: int = 0) -> KeyPair:
    """The recovery key of `World.tenant(number)`."""
    return key_pair(2000 + number)


def key_change(
    world: World,
    tenant: Tenant,
    number: int,
    *,
    added: tuple[KeyPair, ...] = (),
    removed: tuple[KeyPair, ...] = (),
    signer: KeyPair | None = None,
    recovery: KeyPair | None = None,
) -> ChangeAccountKeys:
    """A change of an account's keys, signed by its first key unless said otherwise."""
    document = AccountKeyChange(
        tenant.account_id,
        number,
        tuple(pair.public_key for pair in added),
        tuple(pair.public_key for pair in removed),
        world.now_ms,
        recovery.public_key if recovery else b"",
    )
    return ChangeAccountKeys((signer or tenant.keys).sign(NETWORK, document), document)


def rotation(
    world: World,
    tenant: Tenant,
    generation: int,
    *,
    grace_ms: int = HOUR_MS,
    secret: int = 1,
    signer: KeyPair | None = None,
) -> tuple[RotateKey, Tenant]:
    """A rotation of a tenant's API key, and the tenant with the new secret."""
    fresh = new_api_key(tenant.api_key.key_id.encode()[:10] + bytes([secret]) * 32)
    fresh = type(fresh)(tenant.api_key.key_id, fresh.secret)
    document = ApiKeyRotation(
        tenant.account_id, fresh.key_id, generation, fresh.hold_key(), grace_ms, world.now_ms
    )
    signed = (signer or tenant.keys).sign(NETWORK, document)
    renewed = Tenant(tenant.keys, tenant.founding, tenant.account_id, tenant.namespace, fresh)
    return RotateKey(signed, document), renewed


def limits_change(
    world: World,
    tenant: Tenant,
    number: int,
    *,
    signer: KeyPair | None = None,
    **changes: Any,
) -> ChangeKeyLimits:
    """A change of the limits of a tenant's API key; none but those that are named."""
    document = KeyLimitsChange(
        tenant.account_id, tenant.api_key.key_id, number, 0, 0, (), (), NO_LIMITS, world.now_ms
    )
    document = replace(document, **changes)
    return ChangeKeyLimits((signer or tenant.keys).sign(NETWORK, document), document)
