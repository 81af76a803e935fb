"""Owns the limits that an API key's owner sets: the message, and which networks an address is in.

The ledger checks what costs credit inside the transaction of each hold; a gateway counts requests
and tokens a minute, each gateway for itself. Source networks: the gateway, which alone sees the
client's address, states in the signed hold in which of the key's networks it is, and the ledger
refuses a hold without such a statement. The address itself never leaves the gateway.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.errors import MalformedError
from p2p.job_messages import Amount
from p2p.limits import NAME_CHARACTERS_MAX
from p2p.subclouds.identity import parse_subcloud_id

KEY_NETWORKS_MAX = 16
NETWORK_CHARACTERS_MAX = 49
"""The longest network in CIDR form: an IPv6 address and `/128`, with room to spare."""
RATE_MAX = 10**12
KEY_SUBCLOUDS_MAX = 64
GLOBAL_POOL = "global"
"""Names the global pool among subclouds' IDs (no label may be this word)."""

SourceNetwork = Annotated[str, Limit(NETWORK_CHARACTERS_MAX)]
SubcloudName = Annotated[str, Limit(NAME_CHARACTERS_MAX)]


@message(130)
@dataclass(frozen=True, slots=True)
class KeyLimits(Message):
    """What an API key may use, beside its cap in total. 0 means no limit, no networks means any.

    `networks` are in CIDR form as `ipaddress` writes it. Days are UTC days. `subclouds` are IDs, or
    `global` for the global pool; none means any. `default_subcloud` is where a request goes that
    names none (empty: the global pool).
    """

    TRIMMED: ClassVar[int] = 2
    microcredits_per_day: Amount = 0
    requests_per_minute: Annotated[int, Range(0, RATE_MAX)] = 0
    tokens_per_minute: Annotated[int, Range(0, RATE_MAX)] = 0
    networks: Annotated[tuple[SourceNetwork, ...], Limit(KEY_NETWORKS_MAX)] = ()
    subclouds: Annotated[tuple[SubcloudName, ...], Limit(KEY_SUBCLOUDS_MAX)] = ()
    default_subcloud: SubcloudName = ""


NO_LIMITS = KeyLimits()


def allows_subcloud(limits: KeyLimits, subcloud_id: str) -> bool:
    """Tell whether a key may be used in a subcloud (its ID; empty: the global pool)."""
    return not limits.subclouds or (subcloud_id or GLOBAL_POOL) in limits.subclouds


def subclouds_problem(limits: KeyLimits) -> str:
    """Say why a key's subclouds cannot be used as they are; empty if they can."""
    default = limits.default_subcloud
    for name in (*limits.subclouds, *([default] if default else [])):
        if name == GLOBAL_POOL:
            continue
        try:
            parse_subcloud_id(name)
        except MalformedError as error:
            return str(error)
    if len(set(limits.subclouds)) != len(limits.subclouds):
        return "a subcloud is named twice"
    if default and not allows_subcloud(limits, "" if default == GLOBAL_POOL else default):
        return f"the key's default subcloud {default} is not one that it may be used in"
    return ""


def is_network(text: str) -> bool:
    """Tell whether a text is a network in CIDR form, written as it is compared."""
    try:
        return str(ipaddress.ip_network(text)) == text
    except ValueError:
        return False


def network_of(networks: Sequence[str], address: str) -> str:
    """Give the first of some networks that an address is in; an empty text if it is in none."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return next((text for text in networks if found in ipaddress.ip_network(text)), "")
