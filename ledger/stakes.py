"""Owns what the ledger knows of stakes for subclouds, and what can be asked of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from p2p.signing import Signed
from p2p.stake_messages import SubcloudStake, SubcloudUnstake
from p2p.types import NetworkId

UNUSED_RETURN_MS = 86_400_000
"""A stake whose subcloud nobody knows can be taken back after a day: until then it may be on its
way to be published at another bootstrap."""


class OpenStake(NamedTuple):
    """What is set aside for a subcloud now (0: it was given back), by which namespace, since
    when."""

    subcloud_id: str
    namespace: str
    amount: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class StakeSubcloud:
    """Set credits aside. `amount_min`: what the network's configuration asks for.

    `any_key`: every key that the account ever had counts (an audit: it had it then).
    """

    signed: Signed
    document: SubcloudStake
    network_id: NetworkId
    amount_min: int
    any_key: bool = False


@dataclass(frozen=True, slots=True)
class ReturnStake:
    """Give a stake back. `ended`: the subcloud's policy has ended; None: no policy is known."""

    signed: Signed
    document: SubcloudUnstake
    ended: bool | None
    any_key: bool = False
