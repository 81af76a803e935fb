"""Owns when a gateway asks for a lease, for how much, and what of it is spent, held or free. Pure.

Theory of operation. A lease (`p2p.lease_messages`) pays where a key's jobs come one after another:
from the second within LEASE_DEMAND_S on. It is asked for beside a job, never before it, and is
renewed the same way while it is used. Within it, a job's maximum is held from its admission to its
end; what is charged counts as spent from the end on, although the ledger hears of it a little
later. So the free part (`room`) is never more than the ledger would let us have: local holds, what
was spent and what was given back never add up to more than the lease.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.limits import (
    LEASE_DEMAND_S,
    LEASE_IDLE_S,
    LEASE_JOBS_MAX,
    LEASE_JOBS_MIN,
    LEASE_SHARE_OF_BALANCE,
)
from p2p.certificates import Chain
from p2p.signing import Signed


def lease_amount(available: int, maximum: int, amount_max: int) -> int:
    """Say how much to ask for (microcredits); 0 if a lease is not worth asking for.

    Args:
        available: the namespace's balance as far as it is known. maximum: of the job at hand.
        amount_max: the most that the configuration lets one lease set aside.
    """
    amount = min(amount_max, available // LEASE_SHARE_OF_BALANCE, LEASE_JOBS_MAX * maximum)
    return amount if maximum and amount >= LEASE_JOBS_MIN * maximum else 0


def is_in_demand(last_job_s: float | None, now_s: float) -> bool:
    """Whether a job now, after the one at `last_job_s`, makes a lease worth having."""
    return last_job_s is not None and now_s - last_job_s <= LEASE_DEMAND_S


@dataclass(slots=True)
class LocalLease:
    """One lease as this gateway keeps account of it. Amounts in microcredits.

    Attributes:
        signed: the ledger's promise; None for a lease of an earlier run, which only goes back.
        usable_until_ms: it takes new jobs until then; expires_ms: it can be settled until then.
        used_s: when it took a job last (monotonic seconds).
        jobs: hold ID -> what is held for it; 0 once it is charged and waits for the ledger.
        chain: the certificates of the bootstrap that signed it.
        closing: it takes no new jobs and goes back, bit by bit, until it has ended.
        failed, client_left: jobs that cost nothing, which the ledger was not told of yet.
    """

    lease_id: bytes
    amount: int
    signed: Signed | None
    issued_ms: int
    usable_until_ms: int
    expires_ms: int
    used_s: float
    spent: int = 0
    returned: int = 0
    held: int = 0
    jobs: dict[bytes, int] = field(default_factory=dict)
    chain: Chain = ()
    closing: bool = False
    ended: bool = False
    failed: int = 0
    client_left: int = 0

    @property
    def room(self) -> int:
        """What is neither held, spent nor given back."""
        return self.amount - self.spent - self.returned - self.held

    def is_usable(self, now_ms: int) -> bool:
        """Whether it takes new jobs."""
        return not self.closing and now_ms < self.usable_until_ms

    def fits(self, maximum: int, deadline_ms: int, now_ms: int) -> bool:
        """Whether it can pay for a job that may cost `maximum` and run until `deadline_ms`."""
        return self.is_usable(now_ms) and maximum <= self.room and deadline_ms <= self.expires_ms

    def take(self, hold_id: bytes, maximum: int, now_s: float) -> None:
        """Hold a job's maximum; it fits."""
        assert hold_id not in self.jobs
        assert 0 <= maximum <= self.room
        self.jobs[hold_id] = maximum
        self.held += maximum
        self.used_s = now_s

    def charge(self, hold_id: bytes, amount: int) -> None:
        """A job is over and will be charged `amount`; its capture is on its way."""
        maximum = self.jobs[hold_id]
        assert 0 <= amount <= maximum
        self.jobs[hold_id] = 0
        self.held -= maximum
        self.spent += amount

    def settle(self, hold_id: bytes) -> None:
        """The ledger has given its last word about a job, or the job cost nothing."""
        self.held -= self.jobs.pop(hold_id)

    def renewal_is_due(self, now_ms: int) -> bool:
        """Whether three quarters of it are used, or three quarters of its time are over."""
        usable_ms = self.usable_until_ms - self.issued_ms
        return (
            not self.is_usable(now_ms)
            or 4 * self.room <= self.amount
            or 4 * (self.usable_until_ms - now_ms) <= usable_ms
        )

    def is_to_close(self, now_s: float, now_ms: int) -> bool:
        """Whether its time is over, or nothing has used it for long."""
        return now_ms >= self.usable_until_ms or now_s - self.used_s >= LEASE_IDLE_S

    def next_return(self) -> tuple[int, bool] | None:
        """What can go back now: (amount, whether that ends it); None: nothing at the moment."""
        if not self.closing:
            return None
        if not self.jobs:
            return 0, True
        return (self.room, False) if self.room > 0 else None
