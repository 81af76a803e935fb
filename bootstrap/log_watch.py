"""Owns the watch over the log: records for mirrors, cosignatures, and alarms.

Theory of operation. Every bootstrap, primary or mirror, reads the checkpoints that are gossiped and
compares each with the log that it keeps: a checkpoint that a log key signed, and that is not of
this log, proves a fork by itself. What is found is kept with its evidence, logged, and gossiped as
a signed alarm again and again; alarms of others are believed only as far as they prove themselves,
or as far as a certified bootstrap's word goes (`ledger.log.alarms`). Witness lines in a checkpoint
are collected, if the configuration names the witness.

Records are given to the peers that the configuration names as mirrors, and to nobody else: they
hold everything that the ledger knows, the secrets that API keys are checked with among it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from bootstrap.ledger_checks import require_role
from bootstrap.limits import (
    ALARM_GOSSIP_INTERVAL_S,
    ALARMS_PER_GOSSIP_MAX,
    ALARMS_REPLY_BYTES_MAX,
)
from ledger import methods
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.log.alarms import AlarmBook, HeadBook, believe
from ledger.log.proofs import VerifiedHead, verify_checkpoint
from ledger.log.witness import WitnessKey
from ledger.store.mirror.queries import add_alarm, add_cosignature, contradiction, kept_alarms
from ledger.store.mirror.records import records_page, welcome
from p2p.calls import Caller, CallHandler
from p2p.certificates import Chain
from p2p.codec import decode_message, encode_message, encode_messages
from p2p.errors import P2PError, RefusedError
from p2p.log_messages import Checkpoint
from p2p.log_topics import ALARM_TOPIC, CHECKPOINT_TOPIC
from p2p.mirror_messages import AlarmNotice, Cosignature, LogAlarm, RecordsRequest
from p2p.network import Network
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import KeyPair
from p2p.types import NetworkId, Role

log = logging.getLogger(__name__)


class LogWatch:
    """Compares what is said about the log with the log that one ledger keeps."""

    def __init__(
        self,
        ledger: Ledger,
        key_pair: KeyPair,
        chain: Chain,
        network_id: NetworkId,
        configuration: Callable[[], NetworkConfiguration],
        clock_ms: Callable[[], int],
    ) -> None:
        """Watch for a bootstrap with this key pair and certificate."""
        self._ledger = ledger
        self._key_pair = key_pair
        self._chain = tuple(chain)
        self._network_id = network_id
        self._configuration = configuration
        self._clock_ms = clock_ms
        self._heads = HeadBook(network_id)
        self._alarms = AlarmBook()
        self._told = trio.Event()

    def handlers(self) -> dict[str, CallHandler]:
        """Give the handler of each method, for `p2p.calls.serve_calls`."""
        return {
            methods.LOG_WELCOME: self._refusing(self._welcome),
            methods.LOG_RECORDS: self._refusing(self._records),
            methods.LOG_COSIGN: self._refusing(self._cosign),
            methods.LOG_ALARMS: self._refusing(self._give_alarms),
        }

    async def run(self, network: Network) -> None:
        """Listen, compare and tell until cancelled."""
        await self._restore()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, network, CHECKPOINT_TOPIC, self._on_checkpoint)
            nursery.start_soon(self._follow, network, ALARM_TOPIC, self._on_alarm)
            nursery.start_soon(self._tell, network)

    def witnesses(self) -> list[WitnessKey]:
        """The witnesses that the configuration names."""
        return [
            WitnessKey(witness.name, bytes.fromhex(witness.public_key))
            for witness in self._configuration().witnesses
        ]

    async def consider(self, checkpoint: Checkpoint) -> VerifiedHead:
        """Compare a checkpoint with our log and with all that were heard of.

        Raises: ProofError (it does not count), StorageError.
        """
        keys = self._configuration().log_public_keys
        verified = verify_checkpoint(checkpoint, self._network_id, keys)
        now_ms = self._clock_ms()
        alarm = self._heads.add(checkpoint, now_ms, keys)
        if alarm is None:
            alarm = await self._ledger.read(
                lambda c: contradiction(
                    c, checkpoint, verified.head, self._network_id, now_ms, keys
                )
            )
        if alarm is not None:
            await self.raise_alarm(alarm)
        elif b"\n\n" in checkpoint.note:
            await self._collect(verified.head.size, checkpoint.note)
        return verified

    async def raise_alarm(self, alarm: LogAlarm, evidence: bytes = b"") -> None:
        """Keep and tell an alarm of our own; the same one once."""
        signed = self._key_pair.sign(self._network_id, alarm)
        await self._take(AlarmNotice(signed, self._chain), evidence)

    # --- keeping --------------------------------------------------------------------------------
    async def _take(self, notice: AlarmNotice, evidence: bytes) -> None:
        keys = self._configuration().log_public_keys
        found = believe(notice, self._network_id, self._clock_ms(), keys)
        if not self._alarms.add(found):
            return
        log.error(
            "ALARM about the ledger's log (%s, %s, sizes %d and %d), by %s: %s",
            found.alarm.kind,
            "proven" if found.proven else "not provable to others",
            found.alarm.size,
            found.alarm.other_size,
            found.signer,
            found.alarm.text,
        )
        await self._ledger.change_beside(lambda c: add_alarm(c, found, evidence))
        self._told.set()

    async def _restore(self) -> None:
        try:
            for notice in await self._ledger.read(kept_alarms):
                keys = self._configuration().log_public_keys
                issued_ms = self._clock_ms()
                self._alarms.add(believe(notice, self._network_id, issued_ms, keys))
        except (LedgerError, P2PError) as error:
            log.warning("a kept alarm is not told again: %s", error)

    async def _collect(self, size: int, note: bytes) -> None:
        """Keep the lines of witnesses that a checkpoint brought along."""
        lines = note.rpartition(b"\n\n")[2].splitlines(keepends=True)
        for key in self.witnesses():
            start = f"— {key.name} ".encode()
            for line in [line for line in lines if line.startswith(start)]:
                try:
                    cosignature = Cosignature(size, line)
                    await self._add_line(cosignature)
                except LedgerError as error:
                    log.debug("a witness line is not kept: %s", error)

    async def _add_line(self, cosignature: Cosignature) -> None:
        witnesses = self.witnesses()
        await self._ledger.change_beside(lambda c: add_cosignature(c, cosignature, witnesses))

    # --- gossip ---------------------------------------------------------------------------------
    async def _follow(self, network: Network, topic: str, take: Callable[[bytes], object]) -> None:
        async for item in network.subscribe(topic):
            if item.author == network.local:
                continue
            try:
                await take(item.data)  # type: ignore[misc]
            except (LedgerError, P2PError) as error:
                log.info("%s from %s: %s", topic, item.author, error)

    async def _on_checkpoint(self, data: bytes) -> None:
        await self.consider(decode_message(data, Checkpoint))

    async def _on_alarm(self, data: bytes) -> None:
        await self._take(decode_message(data, AlarmNotice), b"")

    async def _tell(self, network: Network) -> None:
        """Gossip the alarms: a new one at once, all of them from time to time."""
        while True:
            with trio.move_on_after(ALARM_GOSSIP_INTERVAL_S):
                await self._told.wait()
            self._told = trio.Event()
            for found in self._alarms.all()[-ALARMS_PER_GOSSIP_MAX:]:
                try:
                    await network.publish(ALARM_TOPIC, encode_message(found.notice))
                except P2PError as error:
                    log.warning("an alarm was not told: %s", error)

    # --- calls ----------------------------------------------------------------------------------
    def _require_mirror(self, caller: Caller) -> None:
        require_role(caller, Role.BOOTSTRAP)
        if caller.peer_id not in self._configuration().mirror_peers:
            raise RefusedError(
                "not_entitled",
                "only the bootstraps under `mirror_peers` in the network configuration get records",
            )

    async def _welcome(self, caller: Caller, body: bytes) -> bytes:
        self._require_mirror(caller)
        return encode_message(await self._ledger.read(lambda c: welcome(c, self._network_id)))

    async def _records(self, caller: Caller, body: bytes) -> bytes:
        self._require_mirror(caller)
        request = decode_message(body, RecordsRequest)
        page = await self._ledger.read(lambda c: records_page(c, request))
        return b"" if page is None else encode_message(page)

    async def _cosign(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, *Role)
        await self._add_line(decode_message(body, Cosignature))
        return b""

    async def _give_alarms(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, *Role)
        found: list[AlarmNotice] = []
        size_bytes = 0
        for kept in reversed(self._alarms.all()):
            size_bytes += len(encode_message(kept.notice))
            if size_bytes > ALARMS_REPLY_BYTES_MAX:
                break
            found.append(kept.notice)
        return encode_messages(found) if found else b""

    def _refusing(self, handler: CallHandler) -> CallHandler:
        async def handle(caller: Caller, body: bytes) -> bytes:
            try:
                return await handler(caller, body)
            except LedgerError as error:
                raise RefusedError(error.code, str(error), error.retry_after_s) from error

        return handle
