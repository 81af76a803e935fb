"""Owns what pays for an attempt at the node: the ledger's voucher, or a gateway's part of a lease.

Theory of operation. A voucher is the ledger's promise for one job. With a lease the ledger promises
an amount to the gateway, and the gateway signs this job's part of it: the node checks both, and
that what is done here under the lease fits into it. What the gateway promises to other nodes is not
seen here; docs/explanation/trust.md says what a node risks. A lease comes once in a session and is
kept, whatever becomes of the offer that it came with.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from node.agent.issuers import IssuerBook
from node.agent.offer_rules import check_leased_hold, check_voucher
from node.limits import (
    LEASE_FULL_RETRY_S,
    LEASES_KEPT_PER_SESSION_MAX,
    LEASES_REMEMBERED_MAX,
)
from p2p.clock import Clock
from p2p.errors import P2PError, RefusedError, UntrustedError
from p2p.job_messages import Offer, VoucherFrame
from p2p.lease_messages import Lease, LeasedHold, LeaseVoucherFrame
from p2p.ledger_messages import Voucher
from p2p.signing import open_signed
from p2p.types import NetworkId

PaymentFrame = VoucherFrame | LeaseVoucherFrame


@dataclass(slots=True)
class _Use:
    amount: int
    expires_ms: int


class LeaseUse:
    """What this node does under each lease, over all sessions: never more than the lease is worth.

    A job counts with its maximum while it runs, and with what it can earn afterwards, until the
    lease has ended. Whatever a gateway promises to others, no more than that can be lost here.
    """

    def __init__(self, clock_ms: Clock) -> None:
        """Begin with nothing."""
        self._clock_ms = clock_ms
        self._uses: OrderedDict[bytes, _Use] = OrderedDict()

    def begin(self, lease: Lease, maximum: int) -> None:
        """Count an attempt. Raises: RefusedError (`needs_voucher`: too much for this lease)."""
        use = self._uses.get(lease.lease_id) or _Use(0, lease.expires_ms)
        if use.amount + maximum > lease.amount:
            raise RefusedError(
                "needs_voucher",
                f"{use.amount + maximum} microcredits are too much for a lease of {lease.amount}",
                retry_after_s=LEASE_FULL_RETRY_S,
            )
        use.amount += maximum
        self._uses[lease.lease_id] = use
        self._uses.move_to_end(lease.lease_id)
        if len(self._uses) > LEASES_REMEMBERED_MAX:
            self._forget()

    def end(self, lease_id: bytes, maximum: int, earned: int) -> None:
        """An attempt is over; it can earn this much."""
        use = self._uses.get(lease_id)
        if use is not None:
            use.amount += min(earned, maximum) - maximum

    def _forget(self) -> None:
        now_ms = self._clock_ms()
        for lease_id in [x for x, use in self._uses.items() if use.expires_ms <= now_ms]:
            del self._uses[lease_id]
        while len(self._uses) > LEASES_REMEMBERED_MAX:
            self._uses.popitem(last=False)


class Payments:
    """Checks what one gateway shows in one session."""

    def __init__(
        self,
        network: NetworkId,
        gateway_key: bytes,
        issuers: IssuerBook,
        uses: LeaseUse,
        *,
        accept_leases: bool,
    ) -> None:
        """`gateway_key` is the public key of the gateway at the other end."""
        self._network = network
        self._gateway_key = gateway_key
        self._issuers = issuers
        self._uses = uses
        self._accept_leases = accept_leases
        self._leases: OrderedDict[bytes, Lease] = OrderedDict()

    def note(self, frame: PaymentFrame, now_ms: int) -> None:
        """Keep the lease that a frame carries, if it is good (`check` says what is wrong)."""
        if isinstance(frame, LeaseVoucherFrame) and frame.lease is not None:
            try:
                lease = self._issuers.open_promise(frame.lease, Lease, frame.issuer_chain, now_ms)
            except P2PError:
                return
            self._leases[lease.lease_id] = lease
            self._leases.move_to_end(lease.lease_id)
            if len(self._leases) > LEASES_KEPT_PER_SESSION_MAX:
                self._leases.popitem(last=False)

    def check(self, offer: Offer, frame: PaymentFrame, now_ms: int) -> Lease | None:
        """Check that a frame pays for an offer. Returns: the lease, if that is what pays.

        Raises: RefusedError (`needs_voucher`), UntrustedError, StaleError, MalformedError.
        """
        if isinstance(frame, VoucherFrame):
            voucher = self._issuers.open_promise(frame.voucher, Voucher, frame.issuer_chain, now_ms)
            check_voucher(voucher, offer, now_ms)
            return None
        if not self._accept_leases:
            raise RefusedError("needs_voucher", "this node takes no leases")
        hold = open_signed(frame.hold, LeasedHold, self._network, self._gateway_key)
        lease = self._leases.get(hold.lease_id)
        if lease is None:
            if frame.lease is None:
                raise UntrustedError("the lease was not shown in this session")
            lease = self._issuers.open_promise(frame.lease, Lease, frame.issuer_chain, now_ms)
        else:
            self._leases.move_to_end(lease.lease_id)
        check_leased_hold(lease, hold, offer, now_ms)
        return lease

    def begin(self, offer: Offer, lease: Lease | None) -> None:
        """Count an attempt that begins. Raises: RefusedError (too much for its lease)."""
        if lease is not None:
            self._uses.begin(lease, offer.maximum)

    def end(self, offer: Offer, lease: Lease | None, earned: int) -> None:
        """An attempt is over that can be paid so much."""
        if lease is not None:
            self._uses.end(lease.lease_id, offer.maximum, earned)
