"""Owns the task that keeps the log growing: what the ledger commits is logged within a second."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from ledger.errors import ConflictError, LedgerError
from ledger.ledger import Ledger
from ledger.limits import LOG_BATCH_SOURCES_MAX, LOG_INTERVAL_S, LOG_RETRY_S
from ledger.log.appending import LogSigner
from ledger.operations import AppendLog
from ledger.store.log.sequencer import next_batch
from p2p.errors import P2PError

log = logging.getLogger(__name__)


class Sequencer:
    """Appends what waits to the log of one ledger. Several processes may run one each."""

    def __init__(
        self,
        ledger: Ledger,
        signer: LogSigner,
        *,
        interval_s: float = LOG_INTERVAL_S,
        sources_max: int = LOG_BATCH_SOURCES_MAX,
        may_sign: Callable[[], bool] = lambda: True,
    ) -> None:
        """Sequence a running ledger, looking for work every `interval_s` seconds.

        Args:
            may_sign: whether checkpoints of this key count by the configuration in force.
        """
        self._may_sign = may_sign
        self._ledger = ledger
        self._signer = signer
        self._interval_s = interval_s
        self._sources_max = sources_max

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            if not self._may_sign():
                log.error(
                    "the log does not grow here: the network configuration names other `log_keys` "
                    "than %s",
                    self._signer.key_pair.public_key.hex(),
                )
                await trio.sleep(LOG_RETRY_S)
                continue
            try:
                await self.catch_up()
            except (LedgerError, P2PError, KeyError) as error:
                # A row that cannot be read stops the log here: nothing may be left out.
                log.error("the log does not grow: %s: %s", type(error).__name__, error)
                await trio.sleep(LOG_RETRY_S)
            await trio.sleep(self._interval_s)

    async def catch_up(self) -> int:
        """Log everything that waits now; gives how many leaves this process added.

        Raises: StorageError, LedgerBusyError, MalformedError or KeyError (a damaged row).
        """
        added = 0
        while True:
            batch = await self._ledger.read(
                lambda c: next_batch(c, self._signer, self._sources_max)
            )
            if batch is None:
                return added
            try:
                await self._ledger.submit(AppendLog(batch))
            except ConflictError as error:
                log.debug("another sequencer was faster: %s", error)
                continue
            added += len(batch.leaves)
            if len(batch.sources) < self._sources_max:
                return added
