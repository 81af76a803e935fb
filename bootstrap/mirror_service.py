"""Owns following a primary bootstrap's log: fetch, check, keep, cosign.

Theory of operation. A mirror asks the primary for the batch after the last one that it has, until
there is none, and half a second later again. `MirrorLedger.apply` lets nothing through that is not
exactly what the rules make of signed documents. When the copy has grown, the witness signs the
newest checkpoint, writes that down (file `witness.last`) before anybody sees it, hands the line to
the primary and gossips the cosigned checkpoint. It never signs a checkpoint that is not consistent
with the one in that file, whatever became of the copy.

What is wrong raises an alarm once (after the configuration was fetched again: a mint key may be new
to us), and the batch is looked at again later. Meanwhile the mirror serves what it has, and signs
nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import trio

from bootstrap.limits import (
    EPOCH_CHECK_AFTER_MS,
    EPOCH_CHECK_INTERVAL_S,
    MIRROR_ALARM_PAUSE_S,
    MIRROR_INTERVAL_S,
    MIRROR_RETRY_S,
    MIRROR_WAITING_S_MAX,
)
from bootstrap.log_watch import LogWatch
from ledger import methods
from ledger.errors import LedgerError
from ledger.log.alarms import ROLLBACK, RULE, plain_text
from ledger.log.errors import ProofError
from ledger.log.notes import TreeHead, log_origin, read_head
from ledger.log.witness import cosign
from ledger.mirror_ledger import MirrorLedger
from ledger.store.log.proofs import checkpoint_message
from ledger.store.log.queries import checkpoint_of_size, latest_checkpoint
from ledger.store.mirror.batch import Assembly, Batch
from ledger.store.mirror.evidence import LogWrongError
from ledger.store.mirror.queries import add_cosignature, cosignable, due_epochs
from ledger.store.usage_check import epoch_problems
from p2p.calls import CallLink
from p2p.codec import decode_message, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.configuration_sync import fetch_configuration
from p2p.errors import P2PError, RefusedError, UntrustedError
from p2p.files import write_atomically
from p2p.log_messages import Checkpoint
from p2p.log_topics import CHECKPOINT_TOPIC
from p2p.membership import Membership
from p2p.mirror_messages import (
    Cosignature,
    LogAlarm,
    MirrorWelcome,
    RecordsPage,
    RecordsRequest,
)
from p2p.network import Network
from p2p.signing import KeyPair
from p2p.types import NetworkId, Role
from p2p.uplink import Uplink

log = logging.getLogger(__name__)


class Mirror:
    """Keeps one mirror's copy up with its primary."""

    def __init__(
        self,
        ledger: MirrorLedger,
        watch: LogWatch,
        book: ConfigurationBook,
        membership: Membership,
        witness_key: KeyPair,
        witness_file: Path,
        clock_ms: Callable[[], int],
    ) -> None:
        """Follow with a running ledger.

        Args:
            watch: raises alarms, and compares checkpoints.
            witness_key: cosigns, if the configuration names it as a witness's.
            witness_file: where the last cosigned checkpoint is kept.
        """
        self._ledger = ledger
        self._watch = watch
        self._book = book
        self._membership = membership
        self._witness_key = witness_key
        self._witness_file = witness_file
        self._clock_ms = clock_ms
        self._network_id: NetworkId = membership.network
        self._grown_s = 0.0
        self._welcomed = False
        self._epochs_checked: tuple[int, ...] = ()
        self._epochs_due_s = float("-inf")
        self._said = ""
        self._rolled_back = 0

    def uplink(self, network: Network, address: str) -> Uplink:
        """Make the link to the primary."""
        return Uplink(network, (address,), greeting=self._greet)

    async def run(self, network: Network, uplink: Uplink) -> None:
        """Follow until cancelled (`uplink` runs beside this)."""
        while True:
            pause_s = MIRROR_RETRY_S
            try:
                grown = await self.step(uplink)
                await self._cosign(network, uplink)
                pause_s = 0.0 if grown else MIRROR_INTERVAL_S
                self._say("")
            except LogWrongError as error:
                pause_s = await self._judge(error, uplink)
            except ProofError as error:
                self._say(f"nothing is cosigned: {error}")
            except (LedgerError, P2PError) as error:
                self._welcomed = False
                self._say(f"the primary's log is not followed at the moment: {error}")
            await trio.sleep(pause_s)

    async def step(self, uplink: Uplink) -> bool:
        """Take the next batch; tells whether the copy has grown.

        Raises: LogWrongError, LedgerError, P2PError.
        """
        if not self._welcomed:
            welcome = decode_message(await uplink.call(methods.LOG_WELCOME, b""), MirrorWelcome)
            await self._ledger.adopt(welcome)
            self._welcomed = True
        size = await self._ledger.log_size()
        batch = await self._fetch(uplink, size)
        if batch is None:
            await self._compare(uplink, size)
            if not self._ledger.waits:
                await self._check_epochs()
            elif trio.current_time() - self._grown_s > MIRROR_WAITING_S_MAX:
                await self._ledger.give_up()
            return False
        self._grown_s = trio.current_time()
        if not await self._ledger.apply(batch):
            log.info("the batch of %d leaves waits for the next one", batch.size)
        return True

    async def _fetch(self, uplink: Uplink, size: int) -> Batch | None:
        assembly, request = Assembly(), RecordsRequest(size)
        while True:
            try:
                answer = await uplink.call(methods.LOG_RECORDS, encode_message(request))
            except RefusedError as error:
                if error.code != "value_refused":
                    raise
                # It has another log than we have: its newest checkpoint says which.
                await self._compare(uplink, size)
                raise
            if not answer:
                return None
            page = decode_message(answer, RecordsPage)
            batch = assembly.add(page)
            if batch is not None:
                if batch.base_size != size:
                    raise UntrustedError("the primary gives other records than it was asked for")
                return batch
            request = RecordsRequest(size, page.next_source, page.next_row)

    async def _compare(self, uplink: Uplink, size: int) -> None:
        """Look at the primary's newest checkpoint: is it ours, and not shorter?"""
        if not size:
            return
        answer = decode_message(await uplink.call(methods.LOG_CHECKPOINT, b""), Checkpoint)
        head = (await self._watch.consider(answer)).head
        if head.size >= size or size == self._rolled_back:
            return
        self._rolled_back = size
        kept = await self._ledger.read(latest_checkpoint)
        assert kept is not None
        text = f"the primary's log has {head.size} leaves, and {size} were signed before"
        alarm = LogAlarm(
            ROLLBACK,
            size,
            head.size,
            text,
            checkpoint_message(kept),
            answer,
            b"",
            (),
            self._clock_ms(),
        )
        await self._watch.raise_alarm(alarm)

    # --- alarms ---------------------------------------------------------------------------------
    async def _judge(self, error: LogWrongError, uplink: Uplink) -> float:
        """Raise the alarm, unless a newer configuration explains it; gives the pause after it."""
        before = self._book.current.version
        try:
            await fetch_configuration(uplink, self._book)
        except P2PError as failure:
            log.info("the configuration is not fetched again: %s", failure)
        if self._book.current.version != before:
            return 0.0
        await self._raise(error.kind, error.base_size, error.size, str(error), error)
        return MIRROR_ALARM_PAUSE_S

    async def _raise(
        self, kind: str, base_size: int, size: int, text: str, error: LogWrongError | None
    ) -> None:
        alarm = LogAlarm(
            kind,
            base_size,
            size,
            plain_text(text),
            None,
            error.checkpoint if error is not None else None,
            b"",
            (),
            self._clock_ms(),
        )
        try:
            evidence = error.evidence if error is not None else b""
            await self._watch.raise_alarm(alarm, evidence)
        except (LedgerError, P2PError) as failure:
            log.error("an alarm could not be kept: %s (%s)", failure, text)

    async def _check_epochs(self) -> None:
        """Compute new epochs of contribution points again, once all work for them is here."""
        now_s = trio.current_time()
        if now_s < self._epochs_due_s:
            return
        self._epochs_due_s = now_s + EPOCH_CHECK_INTERVAL_S
        before_ms = self._clock_ms() - EPOCH_CHECK_AFTER_MS
        due = await self._ledger.read(lambda c: due_epochs(c, before_ms))
        if due == self._epochs_checked:
            return
        wrong = await self._ledger.read(lambda c: list(epoch_problems(c, self._network_id)))
        names = [f"the epoch of day {day}" for day in due]
        for text in [text for text in wrong if text.startswith(tuple(names))]:
            size = await self._ledger.log_size()
            await self._raise(RULE, size, size, text, None)
        self._epochs_checked = due

    # --- witness --------------------------------------------------------------------------------
    async def _cosign(self, network: Network, uplink: Uplink) -> None:
        """Sign the newest checkpoint, keep that, and only then show it."""
        named = [k for k in self._watch.witnesses() if k.public_key == self._witness_key.public_key]
        if not named or self._ledger.waits:
            return
        last = self._last_cosigned()
        kept = await self._ledger.read(lambda c: cosignable(c, last))
        if kept is None:
            return
        line = cosign(kept.note, named[0].name, self._witness_key, self._clock_ms() // 1000)
        await trio.to_thread.run_sync(write_atomically, self._witness_file, kept.note + line)
        cosignature = Cosignature(kept.size, line)
        await self._ledger.change_beside(lambda c: add_cosignature(c, cosignature, named))
        signed = await self._ledger.read(lambda c: checkpoint_of_size(c, kept.size))
        assert signed is not None
        await network.publish(CHECKPOINT_TOPIC, encode_message(checkpoint_message(signed)))
        try:
            await uplink.call(methods.LOG_COSIGN, encode_message(cosignature))
        except RefusedError as error:
            self._say(f"the primary does not take a cosignature: {error}")

    def _last_cosigned(self) -> TreeHead | None:
        """Read what this witness signed last. Raises: ProofError if the file is damaged."""
        if not self._witness_file.exists():
            return None
        return read_head(self._witness_file.read_bytes(), log_origin(self._network_id))

    async def _greet(self, link: CallLink) -> None:
        certificate = self._membership.certificate_of(link.link.remote)
        if certificate is None or certificate.role is not Role.BOOTSTRAP:
            raise UntrustedError("this peer is not a certified bootstrap")
        await fetch_configuration(link, self._book)
        self._welcomed = False

    def _say(self, text: str) -> None:
        if text and text != self._said:
            log.warning("%s", text)
        self._said = text
