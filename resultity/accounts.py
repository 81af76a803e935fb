"""Owns the documents that an account's owner or a mint key's holder signs for the ledger."""

from __future__ import annotations

import os
from decimal import Decimal, InvalidOperation

from p2p.account_file import AccountKeys
from p2p.account_messages import ApiKeyRotation, KeyListRequest
from p2p.api_keys import KEY_ID_RANDOM_BYTES, SECRET_BYTES, ApiKey, new_api_key
from p2p.key_limits import NO_LIMITS, KeyLimits
from p2p.ledger_messages import (
    EarningsRequest,
    Grant,
    KeyCreation,
    KeyRevocation,
    NamespaceOpening,
    StatementRequest,
)
from p2p.limits import AMOUNT_MICROCREDITS_MAX
from p2p.opening_messages import Referral
from p2p.signing import KeyPair, Signed
from p2p.types import AccountId, NetworkId
from resultity.errors import SettingsError

MICROCREDITS_PER_CREDIT = 10**6


def parse_credits(text: str) -> int:
    """Read an amount of credits (at most six decimals) as microcredits. Raises: SettingsError."""
    try:
        exact = Decimal(text) * MICROCREDITS_PER_CREDIT
        amount = int(exact)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise SettingsError(f"not an amount of credits: {text[:40]!r}") from error
    if amount != exact:
        raise SettingsError("an amount of credits has at most six decimals")
    if not 0 < amount <= AMOUNT_MICROCREDITS_MAX:
        raise SettingsError("an amount of credits is more than zero and at most 10^11")
    return amount


def show_credits(microcredits: int) -> str:
    """Show an amount in credits, exactly."""
    whole, part = divmod(abs(microcredits), MICROCREDITS_PER_CREDIT)
    return f"{'-' if microcredits < 0 else ''}{whole}.{part:06d}"


def opening(keys: AccountKeys, network: NetworkId, namespace: str, now_ms: int) -> Signed:
    """Open a namespace of an account."""
    return keys.signing.sign(network, NamespaceOpening(keys.account_id, namespace, now_ms))


def new_key(
    keys: AccountKeys,
    network: NetworkId,
    namespace: str,
    now_ms: int,
    *,
    name: str,
    expires_ms: int = 0,
    credit_cap_total: int = 0,
    models: tuple[str, ...] = (),
    gateways: tuple[str, ...] = (),
    limits: KeyLimits = NO_LIMITS,
) -> tuple[ApiKey, Signed]:
    """Make an API key and the document that registers it. The secret is in the first only.

    Args:
        expires_ms: 0 means never.
        credit_cap_total: microcredits, 0 means no cap.
        models: names of the models that it may use, none means all.
        gateways: peer IDs of the gateways that may use it, none means all.
    """
    api_key = new_api_key(os.urandom(KEY_ID_RANDOM_BYTES + SECRET_BYTES))
    document = KeyCreation(
        keys.account_id,
        namespace,
        api_key.key_id,
        api_key.hold_key(),
        name,
        now_ms,
        expires_ms,
        credit_cap_total,
        models,
        gateways,
        limits,
    )
    return api_key, keys.signing.sign(network, document)


def key_rotation(
    keys: AccountKeys,
    network: NetworkId,
    key_id: str,
    generation: int,
    grace_ms: int,
    now_ms: int,
) -> tuple[ApiKey, Signed]:
    """Give an API key a new secret: the key as it is typed from now on, and the document.

    Args:
        generation: how often the key has been rotated, this time included.
        grace_ms: how long the old secret stays good.
    """
    api_key = ApiKey(key_id, os.urandom(SECRET_BYTES))
    document = ApiKeyRotation(
        keys.account_id, key_id, generation, api_key.hold_key(), grace_ms, now_ms
    )
    return api_key, keys.signing.sign(network, document)


def key_list_request(
    keys: AccountKeys, network: NetworkId, namespace: str, after: str, now_ms: int
) -> Signed:
    """Ask for the API keys of a namespace that come after one ID."""
    document = KeyListRequest(keys.account_id, namespace, os.urandom(16), now_ms, after)
    return keys.signing.sign(network, document)


def earnings_request(keys: AccountKeys, network: NetworkId, now_ms: int) -> Signed:
    """Ask what an account's nodes and gateways earned."""
    return keys.signing.sign(network, EarningsRequest(keys.account_id, os.urandom(16), now_ms))


def revocation(keys: AccountKeys, network: NetworkId, key_id: str, now_ms: int) -> Signed:
    """End an API key."""
    return keys.signing.sign(network, KeyRevocation(keys.account_id, key_id, now_ms))


def grant(
    mint: KeyPair,
    network: NetworkId,
    account_id: AccountId,
    namespace: str,
    amount: int,
    memo: str,
    now_ms: int,
) -> Signed:
    """Make credit (microcredits) for a namespace, by a mint key."""
    document = Grant(os.urandom(16), account_id, namespace, amount, memo, now_ms)
    return mint.sign(network, document)


def referral(keys: AccountKeys, network: NetworkId, referrer: AccountId, now_ms: int) -> Signed:
    """Say who brought an account here."""
    return keys.signing.sign(network, Referral(keys.account_id, referrer, now_ms))


def statement_request(keys: AccountKeys, network: NetworkId, namespace: str, now_ms: int) -> Signed:
    """Ask for a namespace's balance and grants as its owner."""
    document = StatementRequest(keys.account_id, namespace, os.urandom(16), now_ms)
    return keys.signing.sign(network, document)
