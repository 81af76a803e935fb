"""Owns how much of other people's credit one gateway may have in its hands. Pure.

Theory of operation. A gateway's exposure is what it holds now (open holds, and what its leases have
left) and what was charged through it on this UTC day. A gateway that was broken into, or that
forges usage together with a node, can take no more than the network's cap in a day, whatever API
keys it was shown. The cap is checked inside the transaction of each hold and lease, on one row for
each gateway. That row is no place where processes meet: a gateway talks to one bootstrap at a time,
and every hold of it locks the row only for the group of operations that is being committed.

What counts is read from the entries of each transfer, so that no kind of transfer can be forgotten:
what a `held:` account gains or loses is what the gateway holds more or less, and what leaves
`held:` without coming back to the namespace was charged. `day` is the newest UTC day with a charge;
a charge that comes with an older time (a clock went back over midnight) is not counted again.
"""

from __future__ import annotations

from typing import NamedTuple

from ledger.errors import GatewayExposureError
from ledger.records import Transfer
from ledger.usage import DAY_MS, day_of
from p2p.types import PeerId

RETRY_AFTER_OPEN_S = 5.0
"""When open holds are in the way: they end all the time."""


class GatewayExposure(NamedTuple):
    """What one gateway holds now, and what was charged through it on `day` (microcredits)."""

    gateway_id: PeerId
    held: int = 0
    day: int = 0
    charged: int = 0

    def charged_on(self, day: int) -> int:
        """What counts of the charges for a hold on this day."""
        return self.charged if self.day >= day else 0


def check_exposure(exposure: GatewayExposure, amount: int, exposure_max: int, now_ms: int) -> None:
    """Refuse a hold or lease that would bring a gateway above the network's cap (microcredits).

    Raises: GatewayExposureError.
    """
    day = day_of(now_ms)
    charged = exposure.charged_on(day)
    if exposure.held + charged + amount <= exposure_max:
        return
    resets_ms = (max(day, exposure.day if charged else 0) + 1) * DAY_MS
    wait_s = (resets_ms - now_ms) / 1000
    if charged + amount <= exposure_max:
        wait_s = min(wait_s, RETRY_AFTER_OPEN_S)
    raise GatewayExposureError(
        exposure.held, charged, amount, exposure_max, resets_ms, max(0.0, wait_s)
    )


def moved(exposure: GatewayExposure, transfer: Transfer) -> GatewayExposure:
    """Give a gateway's exposure after one of its transfers."""
    held = returned = 0
    for account, amount in transfer.entries:
        # "held:...", "namespace:...": no other kind of account begins like that.
        if account[0] == "h":
            held += amount
        elif account[0] == "n":
            returned += amount
    if not held:  # a correction, for example: it is not the gateway's doing
        return exposure
    gateway_id, before, day, charged_before = exposure
    charged, today = -(held + returned), transfer.at_ms // DAY_MS
    if not charged or today < day:
        return GatewayExposure(gateway_id, before + held, day, charged_before)
    if today > day:
        charged_before = 0
    return GatewayExposure(gateway_id, before + held, today, charged_before + charged)
