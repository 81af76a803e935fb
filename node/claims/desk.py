"""Owns how a node sees to its pay: it notes what was delivered, asks, and claims what is not paid.

Theory of operation. Each delivery count that a gateway signs for an attempt is noted in a journal,
with the node's receipt. What was noted stays until the ledger says that the hold has ended: asked
in batches, a minute after an attempt ended, soon after the gateway's session was lost, and before
the node ends. A gateway that lives has settled by then. If the hold is open the node claims; the
ledger pays the claim at the hold's end unless the gateway settles before. If the gateway settled
less than it had countersigned, the node hands its proof in, and the ledger records that against the
gateway.

No job waits for any of this: a bootstrap that does not answer is asked again later.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from node.agent.attempt import Attempt, AttemptState
from node.claims.journal import Key, Owed, OwedJournal
from node.limits import (
    CLAIM_AFTER_END_S,
    CLAIM_AFTER_LOSS_S,
    CLAIM_BEFORE_EXPIRY_S,
    CLAIM_INTERVAL_S,
    CLAIM_PAID_WAIT_S,
    CLAIM_RETRY_S,
    OWED_FLUSH_S,
    SETTLE_UP_INTERVAL_S,
    SETTLE_UP_S,
)
from p2p.claim_messages import (
    CLAIM,
    HOLD_STANDINGS,
    Claim,
    ClaimResult,
    HoldQuery,
    HoldStandings,
)
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, P2PError, RefusedError
from p2p.job_messages import DeliveryCount, VoucherFrame
from p2p.lease_messages import LeaseVoucherFrame
from p2p.ledger_messages import Voucher
from p2p.limits import CALL_TIMEOUT_S, HOLDS_PER_QUERY_MAX
from p2p.signing import KeyPair, Signed
from p2p.types import NetworkId, PeerId

log = logging.getLogger(__name__)
_PASSING = (
    "internal",
    "ledger_busy",
    "ledger_integrity",
    "ledger_storage",
    "mirror_reads_only",
    "not_entitled",
    "rate_limited",
    "unavailable",
)
"""Refusals that say nothing about the claim: a ledger that is halted, a mirror, a certificate that
is being renewed."""


class Ask(Protocol):
    """Asks a bootstrap (`p2p.uplink.Uplink.call`)."""

    def __call__(
        self, method: str, body: bytes, timeout_s: float = CALL_TIMEOUT_S, /
    ) -> Awaitable[bytes]:
        """Raises: P2PError."""


class ClaimDesk:
    """What gateways owe one node. Used from the trio thread."""

    def __init__(
        self,
        journal: OwedJournal,
        key_pair: KeyPair,
        network: NetworkId,
        call: Ask,
        *,
        clock_ms: Clock,
    ) -> None:
        """Begin with what the journal has from an earlier run: its gateways' sessions are gone."""
        self._journal = journal
        self._key_pair = key_pair
        self._network = network
        self._call = call
        self._clock_ms = clock_ms
        now_ms = clock_ms()
        self._due_ms: dict[Key, int] = {
            key: self._due(owed, now_ms + _ms(CLAIM_AFTER_LOSS_S))
            for key, owed in journal.owed().items()
        }
        if self._due_ms:
            log.info("%d attempts of an earlier run may not be paid yet", len(self._due_ms))

    # --- what happens in sessions ---------------------------------------------------------------
    def note(self, attempt: Attempt, count: DeliveryCount) -> None:
        """Note the newest verified delivery count of an attempt."""
        receipt, delivery = attempt.receipt, attempt.delivery
        if receipt is None or delivery is None or not (count.output_tokens or count.input_tokens):
            return
        before = self._journal.get((count.hold_id, count.attempt))
        if before is not None and before.claimed:
            return
        expires_ms, leased_hold = _payment(attempt)
        claim = Claim(count.hold_id, receipt, delivery, 0, leased_hold)
        owed = Owed(claim, count, expires_ms)
        self._journal.owe(owed)
        ended = count.final or attempt.state is AttemptState.ENDED
        event_ms = self._clock_ms() if ended else attempt.offer.deadline_ms
        self._due_ms[owed.key] = self._due(owed, event_ms + _ms(CLAIM_AFTER_END_S))

    def session_ended(self, gateway_id: PeerId) -> None:
        """A gateway's session is over: what it owes is looked after soon."""
        soon_ms = self._clock_ms() + _ms(CLAIM_AFTER_LOSS_S)
        for key, owed in self._journal.owed().items():
            if owed.gateway_id == gateway_id and not owed.claimed:
                due_ms = self._due(owed, soon_ms)
                self._due_ms[key] = min(due_ms, self._due_ms.get(key, due_ms))

    def _due(self, owed: Owed, wanted_ms: int) -> int:
        if owed.claimed:
            return owed.expires_ms + _ms(CLAIM_PAID_WAIT_S)
        return min(wanted_ms, owed.expires_ms - _ms(CLAIM_BEFORE_EXPIRY_S))

    # --- what the node does about it --------------------------------------------------------------
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write the journal, ask and claim until cancelled."""
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._flush)
                while True:
                    await trio.sleep(CLAIM_INTERVAL_S)
                    await self.look()
        finally:
            self._journal.close()

    async def _flush(self) -> None:
        while True:
            await trio.sleep(OWED_FLUSH_S)
            self._journal.flush()

    async def look(self) -> None:
        """Ask about everything that is due, and claim what needs it."""
        now_ms = self._clock_ms()
        open_now = self._journal.owed()
        for gone in self._due_ms.keys() - open_now.keys():
            del self._due_ms[gone]
        due = [owed for key, owed in open_now.items() if self._due_ms.get(key, 0) <= now_ms]
        for first in range(0, len(due), HOLDS_PER_QUERY_MAX):
            batch = due[first : first + HOLDS_PER_QUERY_MAX]
            try:
                standings = await self._ask(batch)
            except P2PError as error:
                log.warning("nobody says how %d holds stand: %s", len(due), error)
                self._later(due)
                return
            for place, owed in enumerate(batch):
                paid = standings.input_tokens[place], standings.output_tokens[place]
                await self._see_to(owed, standings.states[place], *paid)

    async def settle_up(self, is_here: Callable[[PeerId], bool]) -> None:
        """Before the node ends: learn what the gateways that are still here have settled.

        Returns when they owe nothing more, or after SETTLE_UP_S; what is left is asked about, and
        claimed, when the node runs again.
        """
        with trio.move_on_after(SETTLE_UP_S):
            while True:
                owed = [one for one in self._journal.owed().values() if is_here(one.gateway_id)]
                batch = [one for one in owed if not one.claimed][:HOLDS_PER_QUERY_MAX]
                if not batch:
                    return
                try:
                    standings = await self._ask(batch)
                except P2PError as error:
                    log.warning("nobody says how %d holds stand: %s", len(owed), error)
                    return
                for place, one in enumerate(batch):
                    paid = standings.input_tokens[place], standings.output_tokens[place]
                    if standings.states[place] == "captured" and _is_paid(one.count, *paid):
                        self._journal.done(one.key)
                await trio.sleep(SETTLE_UP_INTERVAL_S)

    async def _ask(self, batch: Sequence[Owed]) -> HoldStandings:
        holds = tuple(owed.claim.hold_id for owed in batch)
        query = HoldQuery(holds, tuple(owed.lease_id for owed in batch))
        answer = await self._call(HOLD_STANDINGS, encode_message(query))
        standings = decode_message(answer, HoldStandings)
        lists = (standings.states, standings.input_tokens, standings.output_tokens)
        if any(len(one) != len(batch) for one in lists):
            raise MalformedError("the answer says nothing about some of the holds")
        return standings

    async def _see_to(self, owed: Owed, state: str, input_tokens: int, output_tokens: int) -> None:
        hold, count = owed.claim.hold_id.hex(), owed.count
        if state == "open":
            if owed.claimed or await self._claim(owed):
                self._later([owed])
            return
        if state == "unknown" and self._clock_ms() < owed.expires_ms:
            self._later([owed])  # this bootstrap may not have it yet
            return
        paid = _is_paid(count, input_tokens, output_tokens)
        if state in ("captured", "claimed") and paid:
            if owed.claimed:
                by = "the claim" if state == "claimed" else "the gateway after all"
                log.info("hold %s: %d output tokens paid by %s", hold, output_tokens, by)
        elif state in ("captured", "released") and not owed.claimed:
            log.warning(
                "hold %s: gateway %s settled %d of %d delivered tokens; handing the proof in",
                hold,
                owed.gateway_id,
                output_tokens,
                count.output_tokens,
            )
            if await self._claim(owed):
                self._later([owed])
                return
        else:
            log.warning("hold %s is %s: %d output tokens unpaid", hold, state, count.output_tokens)
        self._journal.done(owed.key)

    async def _claim(self, owed: Owed) -> bool:
        """Submit a claim. Returns: whether there is a reason to look again."""
        hold = owed.claim.hold_id.hex()
        document = Claim(
            owed.claim.hold_id,
            owed.claim.receipt,
            owed.claim.delivery,
            self._clock_ms(),
            owed.claim.leased_hold,
        )
        signed = self._key_pair.sign(self._network, document)
        try:
            answer = await self._call(CLAIM, encode_message(signed))
            result = decode_message(answer, ClaimResult)
        except RefusedError as error:
            if error.code in _PASSING:
                return True
            log.warning("hold %s: the claim was refused: %s", hold, error)
            self._journal.done(owed.key)
            return False
        except P2PError as error:
            log.warning("hold %s: not claimed yet: %s", hold, error)
            return True
        self._journal.claimed(owed.key)
        log.info(
            "hold %s: gateway %s did not settle; claimed %d output tokens (%d microcredits)",
            hold,
            owed.gateway_id,
            owed.count.output_tokens,
            result.amount,
        )
        return True

    def _later(self, several: Sequence[Owed]) -> None:
        retry_ms = self._clock_ms() + _ms(CLAIM_RETRY_S)
        for owed in several:
            kept = self._journal.get(owed.key)
            if kept is None:
                continue
            if not kept.claimed:
                self._due_ms[owed.key] = retry_ms
                continue
            self._due_ms[owed.key] = max(retry_ms, self._due(kept, 0))


def _payment(attempt: Attempt) -> tuple[int, Signed | None]:
    """Give when the hold that pays for an attempt ends, and the part of a lease if it is one."""
    match attempt.payment:
        case VoucherFrame(voucher=voucher):
            return decode_message(voucher.body, Voucher).expires_ms, None
        case LeaseVoucherFrame(hold=hold):
            assert attempt.lease is not None
            return attempt.lease.expires_ms, hold
    return attempt.offer.deadline_ms, None


def _is_paid(count: DeliveryCount, input_tokens: int, output_tokens: int) -> bool:
    return input_tokens >= count.input_tokens and output_tokens >= count.output_tokens


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
