"""Owns what a refused hold is told when the credit is there, but leased to gateways. Pure.

Theory of operation. The rules see a namespace's balance, not who holds what of it. When they refuse
a hold for want of credit, whoever answers the call reads the open leases beside it and says here
whether they are the reason. That is an explanation, made a moment after the refusal; nothing is
decided by it. If enough has come back in that moment, the hold is tried again instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.errors import (
    CreditLeasedError,
    InsufficientFundsError,
    KeyCapError,
    KeyDayCapError,
    RequestError,
)


@dataclass(frozen=True, slots=True)
class OpenLeaseView:
    """A lease that has not ended: whose, what it has left, and until when it may keep it."""

    key_id: str
    left: int
    expires_ms: int
    usage_day: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What a key could spend at one moment (microcredits), and the open leases of its namespace.

    `used`: of its cap in total; `day_used`: of its cap of `usage_day`.
    """

    key_id: str
    available: int
    used: int
    usage_day: int
    day_used: int
    leases: tuple[OpenLeaseView, ...]


def shortage_of(
    error: RequestError, standing: Standing
) -> tuple[RequestError | None, frozenset[str]]:
    """Say whether leases are why a hold was refused, and the keys that they are leased for.

    Args:
        error: what the rules refused a hold with.
        standing: its key's, a moment later.
    Returns: a CreditLeasedError and whose leases to ask for; None if the credit is there by now; or
        the error as it was and nobody: if all leases together would not suffice, waiting for them
        does not help.
    """
    own = [lease for lease in standing.leases if lease.key_id == standing.key_id]
    match error:
        case InsufficientFundsError():
            concerned, missing = list(standing.leases), error.needed - standing.available
        case KeyCapError():
            concerned, missing = own, standing.used + error.needed - error.cap
        case KeyDayCapError():
            concerned = [lease for lease in own if lease.usage_day == standing.usage_day]
            missing = standing.day_used + error.needed - error.cap
        case _:
            return error, frozenset()
    if missing <= 0:
        return None, frozenset()
    concerned = [lease for lease in concerned if lease.left]
    leased = sum(lease.left for lease in concerned)
    if leased < missing:
        return error, frozenset()
    back_ms = max(lease.expires_ms for lease in concerned)
    keys = frozenset(lease.key_id for lease in concerned)
    return CreditLeasedError(error, leased, back_ms), keys
