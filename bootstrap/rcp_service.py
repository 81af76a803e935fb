"""Owns contribution points at a bootstrap: records uptime, freezes epochs, answers for them.

Theory of operation. Every few seconds it looks which nodes are alive; every few minutes it signs
the minutes of the day and keeps them in the ledger, where all bootstraps on one database find them.
Some time after an epoch's end, whichever bootstrap comes first computes the scores (`ledger.rcp`),
signs and freezes them. The ledger takes one freezing of each epoch only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import trio

from bootstrap.ledger_checks import require_role
from bootstrap.limits import (
    EPOCH_GRACE_MS,
    EPOCHS_PER_ROUND_MAX,
    UPTIME_RECORD_INTERVAL_S,
    UPTIME_SAMPLE_INTERVAL_S,
)
from bootstrap.uptime import UptimeCounter
from ledger import methods
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.operations import FreezeEpoch, KeepUptime
from ledger.rcp import (
    Days,
    SeenNode,
    next_epoch,
    parameters_of,
    scores_digest,
    scores_of,
    seen_nodes,
)
from ledger.store.rcp_queries import rcp_inputs, rcp_report, rcp_state, uptime_records
from ledger.usage import DAY_MS, day_of
from p2p.calls import Caller, CallHandler
from p2p.certificates import Chain
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError, RefusedError
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import KeyPair, Signed, open_signed
from p2p.types import AccountId, NetworkId, PeerId, Role
from p2p.usage_messages import RcpEpoch, RcpQuery, UptimeRecord

log = logging.getLogger(__name__)


class RcpService:
    """Keeps the epochs of one network, together with the other bootstraps on its database."""

    def __init__(
        self,
        ledger: Ledger,
        key_pair: KeyPair,
        chain: Chain,
        network_id: NetworkId,
        configuration: Callable[[], NetworkConfiguration],
        live_nodes: Callable[[], Iterable[tuple[PeerId, AccountId]]],
        clock_ms: Clock,
    ) -> None:
        """Sign with a bootstrap's key; `live_nodes` gives who is alive at the moment."""
        self._ledger = ledger
        self._key_pair = key_pair
        self._chain = chain
        self._network_id = network_id
        self._configuration = configuration
        self._live_nodes = live_nodes
        self._clock_ms = clock_ms
        self._counter = UptimeCounter()

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that members may make."""
        return {methods.RCP: self.report}

    async def report(self, caller: Caller, body: bytes) -> bytes:
        """Give a frozen epoch with some of its scores.

        Raises: RefusedError `epoch_unknown`.
        """
        require_role(caller, *Role)
        query = decode_message(body, RcpQuery)
        try:
            found = await self._ledger.read(lambda c: rcp_report(c, query))
        except LedgerError as error:
            raise RefusedError(error.code, str(error), error.retry_after_s) from error
        if found is None:
            raise RefusedError("epoch_unknown", "there is no frozen epoch of that day yet")
        return encode_message(found)

    async def run(self) -> None:
        """Look, record and freeze until cancelled."""
        await self._restore()
        due_s = trio.current_time()
        while True:
            self._counter.observe(self._clock_ms(), self._live_nodes())
            if trio.current_time() >= due_s:
                due_s = trio.current_time() + UPTIME_RECORD_INTERVAL_S
                try:
                    await self.record()
                    await self.freeze()
                except (LedgerError, P2PError) as error:
                    log.warning("contribution points: %s; it is tried again", error)
            await trio.sleep(UPTIME_SAMPLE_INTERVAL_S)

    async def _restore(self) -> None:
        today = day_of(self._clock_ms())
        own = self._key_pair.peer_id
        try:
            found = await self._ledger.read(
                lambda c: uptime_records(c, Days(today, today), bootstrap_id=own)
            )
        except LedgerError as error:
            log.warning("today's uptime begins at nothing: %s", error)
            return
        self._counter.restore(record for _, record in self._opened(found))

    async def record(self) -> None:
        """Sign and keep the minutes so far. Raises: LedgerError."""
        now_ms = self._clock_ms()
        for record in self._counter.records(now_ms):
            signed = self._key_pair.sign(self._network_id, record)
            await self._ledger.submit(KeepUptime(signed, record, self._key_pair.peer_id))
        self._counter.forget(now_ms)

    async def freeze(self) -> int:
        """Freeze the epochs whose end is past; gives how many. Raises: LedgerError."""
        for count in range(EPOCHS_PER_ROUND_MAX):
            state = await self._ledger.read(rcp_state)
            length_days = self._configuration().rcp.epoch_days
            days = next_epoch(state.frozen_day, state.started_day, length_days)
            if days is None or self._clock_ms() < (days.last + 1) * DAY_MS + EPOCH_GRACE_MS:
                return count
            await self._freeze_one(days)
        return EPOCHS_PER_ROUND_MAX

    async def _freeze_one(self, days: Days) -> None:
        configuration = self._configuration()
        inputs = await self._ledger.read(lambda c: rcp_inputs(c, days))
        seen: list[SeenNode] = []
        for signed, record in self._opened(inputs.uptime):
            seen += seen_nodes(signed.peer_id, record)
        parameters = parameters_of(configuration.rcp)
        scores = scores_of(parameters, inputs.work, seen, inputs.referred)
        document = RcpEpoch(
            days.first,
            days.last - days.first + 1,
            configuration.version,
            parameters,
            len(scores),
            scores_digest(scores),
            self._clock_ms(),
            self._chain,
        )
        signed = self._key_pair.sign(self._network_id, document)
        result = await self._ledger.submit(FreezeEpoch(signed, document, scores))
        if not result.exists:
            log.info("epoch of day %d frozen with %d accounts", days.first, len(scores))

    def _opened(self, found: tuple[Signed, ...]) -> list[tuple[Signed, UptimeRecord]]:
        """The records whose signatures are good."""
        opened = []
        for signed in found:
            try:
                opened.append((signed, open_signed(signed, UptimeRecord, self._network_id)))
            except P2PError as error:
                log.error("an uptime record in the database is not acceptable: %s", error)
        return opened
