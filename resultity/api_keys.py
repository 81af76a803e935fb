"""Owns how an account's owner sees API keys: reading them all, and showing their limits."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import Any

from p2p.account_file import AccountKeys
from p2p.account_messages import KeyList, KeySummary
from p2p.clock import system_clock_ms
from p2p.errors import P2PError
from p2p.types import NetworkId, PeerId, public_key_of
from resultity.account_keys import Carrier
from resultity.accounts import key_list_request, show_credits
from resultity.errors import GatewayCallError, SettingsError

PAGES_MAX = 40
"""A namespace has at most 1000 keys: five pages."""


def read_keys(
    carrier: Carrier, keys: AccountKeys, network: NetworkId, namespace: str
) -> list[KeySummary]:
    """Read all API keys of a namespace. Raises: GatewayCallError."""
    found: list[KeySummary] = []
    for _ in range(PAGES_MAX):
        after = found[-1].key_id if found else ""
        request = key_list_request(keys, network, namespace, after, system_clock_ms())
        page = carrier.send("keys", request, KeyList)
        found += page.keys
        if not page.more:
            return found
        if not page.keys or page.keys[0].key_id <= after:
            break
    raise GatewayCallError("the ledger's list of API keys does not end")


def parse_source(text: str) -> str:
    """Read a source network, or one address, as the ledger writes it. Raises: SettingsError."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise SettingsError(f"not a network such as 192.0.2.0/24: {error}") from error


def parse_gateway(text: str) -> str:
    """Check a gateway's peer ID. Raises: SettingsError."""
    try:
        public_key_of(PeerId(text))
    except P2PError as error:
        raise SettingsError(f"not a gateway's peer ID: {text[:80]!r}") from error
    return text


def key_as_record(key: KeySummary, now_ms: int) -> dict[str, Any]:
    """Give an API key as JSON has it; times in UTC, null where there is no limit."""
    limits = key.limits
    return {
        "key_id": key.key_id,
        "name": key.name,
        "state": state_of(key, now_ms),
        "created": _time(key.created_ms),
        "expires": _time(key.expires_ms),
        "revoked": _time(key.revoked_ms),
        "rotations": key.generation,
        "old_secret_until": _time(key.previous_until_ms if key.previous_until_ms > now_ms else 0),
        "spent_microcredits": key.spent,
        "held_microcredits": key.held,
        "spent_today_microcredits": key.spent_today,
        "limits": {
            "microcredits_total": key.credit_cap_total or None,
            "microcredits_per_day": limits.microcredits_per_day or None,
            "requests_per_minute": limits.requests_per_minute or None,
            "tokens_per_minute": limits.tokens_per_minute or None,
            "models": list(key.models) or None,
            "gateways": list(key.gateways) or None,
            "source_networks": list(limits.networks) or None,
            "subclouds": list(limits.subclouds) or None,
            "default_subcloud": limits.default_subcloud or None,
        },
    }


def key_as_text(key: KeySummary, now_ms: int) -> str:
    """Give an API key as one line: what it is called, its state, its use and its limits."""
    limits = key.limits
    parts = [f"{key.key_id}  {key.name:<16}  {state_of(key, now_ms):<8}"]
    parts.append(f"spent {_of(key.spent + key.held, key.credit_cap_total)}")
    if limits.microcredits_per_day:
        parts.append(f"today {_of(key.spent_today, limits.microcredits_per_day)}")
    if limits.requests_per_minute:
        parts.append(f"{limits.requests_per_minute} requests/min")
    if limits.tokens_per_minute:
        parts.append(f"{limits.tokens_per_minute} tokens/min")
    for what, names in (
        ("models", key.models),
        ("gateways", key.gateways),
        ("from", limits.networks),
        ("subclouds", limits.subclouds),
        ("default subcloud", (limits.default_subcloud,) if limits.default_subcloud else ()),
    ):
        if names:
            parts.append(f"{what} {', '.join(names)}")
    if key.expires_ms:
        parts.append(f"expires {_time(key.expires_ms)}")
    if key.previous_until_ms > now_ms:
        parts.append(f"old secret until {_time(key.previous_until_ms)}")
    return "  ".join(parts)


def state_of(key: KeySummary, now_ms: int) -> str:
    """Say whether an API key can be used: `active`, `revoked` or `expired`."""
    if key.revoked_ms:
        return "revoked"
    return "expired" if 0 < key.expires_ms <= now_ms else "active"


def _of(amount: int, limit: int) -> str:
    return f"{show_credits(amount)} of {show_credits(limit)}" if limit else show_credits(amount)


def _time(at_ms: int) -> str | None:
    if not at_ms:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
