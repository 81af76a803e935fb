"""Owns the limits of API keys that cost credit, judged inside the transaction of each hold. Pure.

Theory of operation. A key's use of a UTC day is what the holds placed on that day charged, running
ones counted with their maximum: what a hold gives back at its end is given back to the day on which
it was placed. A key remembers the newest day only, and days never go back: where clocks disagree
about midnight, the later day counts. Rates (requests and tokens a minute) are not judged here but
by the gateways, each for itself: they protect from haste, not from loss.
"""

from __future__ import annotations

from ledger.errors import KeyCapError, KeyDayCapError, KeyNotAllowedError
from ledger.records import ApiKeyEntry, Hold, KeyUsage
from p2p.key_limits import GLOBAL_POOL, allows_subcloud
from p2p.lease_messages import LeaseRequest
from p2p.ledger_messages import HoldRequest
from p2p.types import PeerId

DAY_MS = 86_400_000


def used_on_day(usage: KeyUsage, day: int) -> int:
    """Give what a key has used on a day (number of days since 1970): 0 for an earlier one."""
    return usage.day_used if usage.day == day else 0


def usage_day(usage: KeyUsage, now_ms: int) -> int:
    """Give the day that a hold placed now counts for."""
    return max(usage.day, now_ms // DAY_MS)


def usage_after_hold(key: ApiKeyEntry, usage: KeyUsage, maximum: int, now_ms: int) -> KeyUsage:
    """Give a key's use after a hold of `maximum` microcredits.

    Raises: KeyCapError, KeyDayCapError.
    """
    cap = key.credit_cap_total
    if cap and usage.spent + usage.held + maximum > cap:
        raise KeyCapError(usage.spent + usage.held, maximum, cap)
    day, cap = usage_day(usage, now_ms), key.limits.microcredits_per_day
    used = used_on_day(usage, day)
    if cap and used + maximum > cap:
        raise KeyDayCapError(used, maximum, cap, (day + 1) * DAY_MS, now_ms)
    return KeyUsage(key.key_id, usage.spent, usage.held + maximum, day, used + maximum)


def usage_after_end(usage: KeyUsage, hold: Hold, charged: int) -> KeyUsage:
    """Give a key's use after one of its holds ended and `charged` microcredits were taken."""
    returned = hold.maximum - charged if hold.usage_day == usage.day else 0
    return KeyUsage(
        usage.key_id,
        usage.spent + charged,
        usage.held - hold.maximum,
        usage.day,
        usage.day_used - returned,
    )


def check_allowed(
    key: ApiKeyEntry, gateway_id: PeerId, document: HoldRequest | LeaseRequest
) -> None:
    """Refuse a gateway, a model, a source network or a subcloud that the key does not allow.

    Raises: KeyNotAllowedError.
    """
    check_gateway(key, gateway_id)
    model = document.terms.model_name
    if key.models and model not in key.models:
        raise KeyNotAllowedError(f"API key {key.key_id} does not allow the model {model}")
    networks = key.limits.networks
    if networks and document.source_network not in networks:
        raise KeyNotAllowedError(
            f"API key {key.key_id} is limited to the source networks {', '.join(networks)}"
        )
    subcloud = document.terms.subcloud_id
    if not allows_subcloud(key.limits, subcloud):
        where = f"the subcloud {subcloud}" if subcloud else f"the {GLOBAL_POOL} pool"
        raise KeyNotAllowedError(f"API key {key.key_id} does not allow {where}")


def check_gateway(key: ApiKeyEntry, gateway_id: PeerId) -> None:
    """Refuse a gateway that the key does not allow. Raises: KeyNotAllowedError."""
    if key.gateways and gateway_id not in key.gateways:
        raise KeyNotAllowedError(f"API key {key.key_id} does not allow this gateway")
