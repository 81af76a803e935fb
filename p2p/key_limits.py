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
from typing import Annotated

from p2p.codec import Limit, Message, Range, message
from p2p.job_messages import Amount

KEY_NETWORKS_MAX = 16
NETWORK_CHARACTERS_MAX = 49
"""The longest network in CIDR form: an IPv6 address and `/128`, with room to spare."""
RATE_MAX = 10**12

SourceNetwork = Annotated[str, Limit(NETWORK_CHARACTERS_MAX)]


@message(130)
@dataclass(frozen=True, slots=True)
class KeyLimits(Message):
    """What an API key may use, beside its cap in total. 0 means no limit, no networks means any.

    `networks` are in CIDR form as `ipaddress` writes it. Days are UTC days.
    """

    microcredits_per_day: Amount = 0
    requests_per_minute: Annotated[int, Range(0, RATE_MAX)] = 0
    tokens_per_minute: Annotated[int, Range(0, RATE_MAX)] = 0
    networks: Annotated[tuple[SourceNetwork, ...], Limit(KEY_NETWORKS_MAX)] = ()


NO_LIMITS = KeyLimits()


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
