"""Owns a ledger for gateway tests: one namespace, in memory, strict about what it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from gateway.peer.ledger_port import ReturnedLease
from p2p.api_keys import ApiKey, new_api_key
from p2p.clock import Clock
from p2p.codec import decode_any_message, decode_message
from p2p.errors import P2PError, PeerUnavailableError, RefusedError, UntrustedError
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.key_limits import NO_LIMITS, KeyLimits
from p2p.lease_messages import (
    CaptureOutcome,
    Lease,
    LeasedCapture,
    LeasedHold,
    LeaseResult,
)
from p2p.ledger_messages import (
    CaptureRequest,
    HoldResult,
    KeyRecord,
    Statement,
    TransferResult,
    Voucher,
)
from p2p.prices import PriceTerms, charge
from p2p.signing import KeyPair, Signed, open_signed
from p2p.types import AccountId, NetworkId, PeerId, public_key_of
from p2p.usage_messages import UsageReport, UsageRow

ACCOUNT = AccountId("acct-" + "c" * 40)
NAMESPACE = "default"


def api_key(name: str = "consumer") -> ApiKey:
    """A key that is the same in every run."""
    seed = hashlib.sha512(name.encode()).digest()
    return new_api_key(seed[:42])


@dataclass(frozen=True, slots=True)
class PaidLeg:
    """What one node was paid for."""

    node_id: PeerId
    attempt: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0


@dataclass(slots=True)
class FakeLease:
    """A lease as the fake ledger keeps it; `left` is what is neither captured nor returned."""

    amount: int
    terms: PriceTerms
    expires_ms: int
    left: int = field(init=False)
    ended: bool = False
    failed: int = 0
    client_left: int = 0
    returns: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left = self.amount


def _worth(terms: PriceTerms, legs: tuple[PaidLeg, ...]) -> int:
    return charge(
        terms,
        sum(leg.input_tokens for leg in legs),
        sum(leg.output_tokens for leg in legs),
        sum(leg.cached_input_tokens for leg in legs),
    )


@dataclass(slots=True)
class FakeLedger:
    """Implements `gateway.peer.ledger_port.LedgerPort`."""

    network: NetworkId
    issuer: KeyPair
    gateway_id: PeerId
    clock_ms: Clock
    available: int = 10**9
    cache_s: float = 5.0
    models: tuple[str, ...] = ()
    keys: set[ApiKey] = field(default_factory=lambda: {api_key()})
    down: bool = False
    delay_s: float = 0.0
    refuse_hold: RefusedError | None = None
    holds: dict[bytes, tuple[int, bytes, PriceTerms]] = field(default_factory=dict)
    ended: dict[bytes, str] = field(default_factory=dict)
    captured: dict[bytes, tuple[Signed, int, tuple[PaidLeg, ...]]] = field(default_factory=dict)
    lookups: int = 0
    statements: int = 0
    forged: bool = False
    started_holds: int = 0
    limits: KeyLimits = NO_LIMITS
    source_networks: list[str] = field(default_factory=list)
    callers: list[tuple[Signed | None, str]] = field(default_factory=list)
    outcomes: dict[bytes, str] = field(default_factory=dict)
    usage_rows: tuple[UsageRow, ...] = ()
    usage_page: int = 2
    leases: dict[bytes, FakeLease] = field(default_factory=dict)
    refuse_lease: RefusedError | None = None
    lose_leases: bool = False
    refuse_holds: int = 0
    """How many holds `refuse_hold` refuses; 0: all."""
    batches: list[int] = field(default_factory=list)

    async def _answer(self) -> None:
        if self.down:
            raise PeerUnavailableError("no bootstrap can be reached at the moment")
        if self.delay_s:
            await trio.sleep(self.delay_s)

    async def key_lookup(self, key: ApiKey) -> KeyRecord:
        self.lookups += 1
        await self._answer()
        if key not in self.keys:
            raise RefusedError("key_unknown", "no such key")
        return KeyRecord(
            key.key_id,
            ACCOUNT,
            NAMESPACE,
            "test",
            0,
            self.models,
            self.available,
            self.cache_s,
            self.limits,
        )

    async def hold(
        self,
        key: ApiKey,
        *,
        hold_id: bytes,
        job_id: bytes,
        maximum: int,
        terms: PriceTerms,
        expires_ms: int,
        source_network: str = "",
        caller_token: Signed | None = None,
        caller_network: str = "",
    ) -> HoldResult:
        self.started_holds += 1
        self.source_networks.append(source_network)
        self.callers.append((caller_token, caller_network))
        await self._answer()
        if self.refuse_hold is not None:
            self.refuse_holds -= 1
            raise self.refuse_hold if self.refuse_holds else self._last_refusal()
        if key not in self.keys:
            raise RefusedError("key_revoked", "the key was revoked")
        if maximum > self.available:
            raise RefusedError(
                "insufficient_funds",
                f"{maximum} microcredits are needed, {self.available} are available",
            )
        self.available -= maximum
        self.holds[hold_id] = (maximum, job_id, terms)
        voucher = Voucher(
            hold_id, job_id, self.gateway_id, maximum, terms, self.clock_ms(), expires_ms
        )
        return HoldResult(self.issuer.sign(self.network, voucher), self.available, False)

    def _last_refusal(self) -> RefusedError:
        """The last of `refuse_holds` refusals (0: they never end)."""
        assert self.refuse_hold is not None
        refusal, self.refuse_hold = self.refuse_hold, None
        return refusal

    async def release(self, hold_id: bytes, outcome: str = "") -> TransferResult:
        await self._answer()
        self.outcomes[hold_id] = outcome
        maximum = self._end(hold_id, "released")
        self.available += maximum
        return TransferResult(bytes(16), maximum, self.available, False)

    async def capture(self, signed: Signed) -> TransferResult:
        await self._answer()
        request = open_signed(signed, CaptureRequest, self.network, public_key_of(self.gateway_id))
        if request.capture_id in self.captured:
            amount = self.captured[request.capture_id][1]
            return TransferResult(request.capture_id, amount, self.available, True)
        maximum, job_id, terms = self.holds[request.hold_id]
        legs = tuple(self._check(leg.receipt, leg.delivery, job_id) for leg in request.legs)
        assert len({leg.attempt for leg in legs}) == len(legs)
        assert sum(leg.input_tokens > 0 for leg in legs) <= 1
        amount = _worth(terms, legs)
        assert amount <= maximum
        self._end(request.hold_id, "captured")
        self.outcomes[request.hold_id] = request.outcome
        self.available += maximum - amount
        self.captured[request.capture_id] = (signed, amount, legs)
        return TransferResult(request.capture_id, amount, self.available, False)

    async def captures(self, batch: Sequence[Signed]) -> Sequence[CaptureOutcome]:
        self.batches.append(len(batch))
        outcomes = []
        for signed in batch:
            try:
                if isinstance(decode_any_message(signed.body), LeasedCapture):
                    result = await self._leased_capture(signed)
                else:
                    result = await self.capture(signed)
                outcomes.append(CaptureOutcome(result))
            except RefusedError as error:
                outcomes.append(CaptureOutcome(None, error.code, str(error)))
        return outcomes

    # --- leases ---------------------------------------------------------------------------------
    async def lease(
        self,
        key: ApiKey,
        *,
        lease_id: bytes,
        amount: int,
        terms: PriceTerms,
        expires_ms: int,
        source_network: str = "",
        caller_network: str = "",
    ) -> LeaseResult:
        await self._answer()
        if self.refuse_lease is not None:
            raise self.refuse_lease
        if key not in self.keys:
            raise RefusedError("key_revoked", "the key was revoked")
        if amount > self.available:
            raise RefusedError("insufficient_funds", "too little for a lease")
        self.available -= amount
        self.leases[lease_id] = FakeLease(amount, terms, expires_ms)
        if self.lose_leases:
            raise PeerUnavailableError("the link broke")
        now_ms = self.clock_ms()
        lease = Lease(lease_id, self.gateway_id, amount, terms, now_ms, expires_ms)
        return LeaseResult(self.issuer.sign(self.network, lease), self.available, False)

    async def lease_return(self, document: ReturnedLease) -> TransferResult:
        await self._answer()
        lease = self.leases.get(document.lease_id)
        if lease is None:
            raise RefusedError("hold_unknown", "no such lease")
        if document.return_id not in lease.returns:
            if lease.ended:
                raise RefusedError("hold_ended", "the lease has ended")
            amount = lease.left if document.final else document.amount
            assert 0 <= amount <= lease.left
            lease.left -= amount
            lease.ended = document.final
            lease.failed += document.failed
            lease.client_left += document.client_left
            lease.returns[document.return_id] = amount
            self.available += amount
        amount = lease.returns[document.return_id]
        return TransferResult(document.return_id, amount, self.available, False)

    async def _leased_capture(self, signed: Signed) -> TransferResult:
        await self._answer()
        gateway_key = public_key_of(self.gateway_id)
        document = open_signed(signed, LeasedCapture, self.network, gateway_key)
        hold = open_signed(document.hold, LeasedHold, self.network, gateway_key)
        if hold.hold_id in self.captured:
            amount = self.captured[hold.hold_id][1]
            return TransferResult(hold.hold_id, amount, self.available, True)
        lease = self.leases[hold.lease_id]
        assert hold.expires_ms <= lease.expires_ms
        if lease.ended:
            raise RefusedError("hold_ended", "the lease has ended")
        legs = tuple(self._check(leg.receipt, leg.delivery, hold.job_id) for leg in document.legs)
        amount = _worth(lease.terms, legs)
        assert amount <= hold.maximum
        if amount > lease.left:
            raise RefusedError("lease_exhausted", "the lease has too little left")
        lease.left -= amount
        self.outcomes[hold.hold_id] = document.outcome
        self.captured[hold.hold_id] = (signed, amount, legs)
        return TransferResult(hold.hold_id, amount, self.available, False)

    @property
    def leased(self) -> int:
        """What is set aside in leases."""
        return sum(lease.left for lease in self.leases.values())

    @property
    def leased_captures(self) -> int:
        """How many captures came out of leases."""
        return len(self.captured) - sum(how == "captured" for how in self.ended.values())

    def _end(self, hold_id: bytes, how: str) -> int:
        if hold_id not in self.holds:
            raise RefusedError("hold_unknown", "no such hold")
        if hold_id in self.ended:
            raise RefusedError("hold_ended", f"ended already: {self.ended[hold_id]}")
        self.ended[hold_id] = how
        return self.holds[hold_id][0]

    def _check(self, signed_receipt: Signed, signed_count: Signed, job_id: bytes) -> PaidLeg:
        count = open_signed(
            signed_count, DeliveryCount, self.network, public_key_of(self.gateway_id)
        )
        receipt = open_signed(
            signed_receipt, NodeReceipt, self.network, public_key_of(count.node_id)
        )
        assert receipt.job_id == count.job_id == job_id
        assert (receipt.attempt, receipt.offer_hash) == (count.attempt, count.offer_hash)
        assert receipt.hold_id == count.hold_id
        assert count.input_tokens in (0, receipt.input_tokens)
        assert count.output_tokens <= receipt.output_tokens
        assert count.cached_input_tokens == (
            receipt.cached_input_tokens if count.input_tokens else 0
        )
        return PaidLeg(
            count.node_id,
            count.attempt,
            count.input_tokens,
            count.output_tokens,
            count.cached_input_tokens,
        )

    async def statement(self, key: ApiKey, account_id: AccountId, namespace: str) -> Statement:
        await self._answer()
        self.statements += 1
        if self.forged:
            raise UntrustedError("a grant that no mint key signed")
        spent = self.spent
        held = sum(m for h, (m, _, _) in self.holds.items() if h not in self.ended)
        return Statement(self.available, held, spent, self.available + held + spent, ())

    async def usage(
        self, key: ApiKey, record: KeyRecord, first_day: int, last_day: int, after: UsageRow | None
    ) -> UsageReport:
        await self._answer()
        rows = [row for row in self.usage_rows if first_day <= row.day <= last_day]
        if after is not None:
            rows = rows[rows.index(after) + 1 :]
        return UsageReport(tuple(rows[: self.usage_page]), len(rows) > self.usage_page)

    # --- for tests ------------------------------------------------------------------------------
    @property
    def spent(self) -> int:
        """The sum of all captures."""
        return sum(amount for _, amount, _ in self.captured.values())

    @property
    def paid(self) -> list[PaidLeg]:
        """All paid legs in order."""
        return [leg for _, _, legs in self.captured.values() for leg in legs]

    @property
    def open_holds(self) -> int:
        """How many holds have not ended."""
        return len(self.holds) - len(self.ended)

    async def settled(self, count: int, timeout_s: float = 20) -> None:
        """Wait until `count` holds have been made and none is open."""
        with trio.fail_after(timeout_s):
            while len(self.holds) < count or self.open_holds:
                await trio.sleep(0.01)


class DroppingLedger(FakeLedger):
    """Does what it is asked to, but its answers to captures are lost `drops` times."""

    drops = 1

    async def capture(self, signed: Signed) -> TransferResult:
        result = await FakeLedger.capture(self, signed)
        if self.drops:
            self.drops -= 1
            raise PeerUnavailableError("the link broke")
        return result


def hold_of(signed: Signed) -> bytes:
    """The hold that a capture is about."""
    return decode_message(signed.body, CaptureRequest).hold_id


__all__ = ["ACCOUNT", "NAMESPACE", "FakeLedger", "P2PError", "PaidLeg", "api_key", "hold_of"]
