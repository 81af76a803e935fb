"""Owns what this gateway knows of the ledger's log: the newest checkpoint, who cosigned it, alarms.

Theory of operation. A gateway keeps no ledger. It hears checkpoints and alarms by gossip, and asks
its bootstrap and the mirrors that its operator names, so that no single one of them can keep an
alarm from it. Two checkpoints with one size and different roots prove a fork: it tells that itself,
under its own signature. Of other alarms it believes what certified bootstraps say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import trio

from gateway.limits import LOG_POLL_S
from ledger import methods
from ledger.errors import LedgerError
from ledger.log.alarms import AlarmBook, HeadBook, believe
from ledger.log.errors import ProofError
from ledger.log.witness import WitnessKey, witnesses_of
from p2p.certificates import Chain
from p2p.clock import Clock
from p2p.codec import decode_message, decode_messages, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import P2PError, RefusedError
from p2p.log_messages import Checkpoint
from p2p.log_topics import ALARM_TOPIC, CHECKPOINT_TOPIC
from p2p.mirror_messages import AlarmNotice
from p2p.network import Network
from p2p.signing import KeyPair
from p2p.types import NetworkId
from p2p.uplink import Uplink

log = logging.getLogger(__name__)


class LogWatch:
    """Listens to what is said about the log, for as long as the gateway runs."""

    def __init__(
        self,
        key_pair: KeyPair,
        chain: Chain,
        network_id: NetworkId,
        configuration: ConfigurationBook,
        clock_ms: Clock,
    ) -> None:
        """Sign alarms with a gateway's key and certificate."""
        self._key_pair = key_pair
        self.chain = tuple(chain)
        """Our certificate; set anew when it was renewed."""
        self._network_id = network_id
        self._configuration = configuration
        self._clock_ms = clock_ms
        self._heads = HeadBook(network_id)
        self._alarms = AlarmBook()

    async def run(self, network: Network, uplink: Uplink, mirrors: Sequence[str]) -> None:
        """Listen and ask until cancelled (`uplink` runs beside this)."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, network, CHECKPOINT_TOPIC, self._on_checkpoint)
            nursery.start_soon(self._follow, network, ALARM_TOPIC, self._on_alarm)
            nursery.start_soon(self._ask, network, uplink)
            for address in mirrors:
                link = Uplink(network, (address,))
                nursery.start_soon(link.run)
                nursery.start_soon(self._ask, network, link)

    def facts(self) -> dict[str, Any]:
        """What is shown to everybody."""
        newest, checkpoint = self._heads.newest, None
        if newest is not None:
            head = newest[0].head
            checkpoint = {
                "origin": head.origin,
                "size": head.size,
                "root": head.root.hex(),
                "bootstrap": newest[0].bootstrap_id,
                "witnesses": self._witnesses(newest[1].note),
            }
        alarms = [found.facts() for found in self._alarms.all()]
        return {"checkpoint": checkpoint, "alarms": alarms}

    async def take_checkpoint(self, checkpoint: Checkpoint, network: Network) -> None:
        """Compare a checkpoint with the others. Raises: ProofError (it does not count)."""
        alarm = self._heads.add(checkpoint, self._clock_ms(), self._log_keys())
        if alarm is None:
            return
        signed = self._key_pair.sign(self._network_id, alarm)
        notice = AlarmNotice(signed, self.chain)
        if self.take_alarm(notice):
            await network.publish(ALARM_TOPIC, encode_message(notice))

    def take_alarm(self, notice: AlarmNotice) -> bool:
        """Keep an alarm if it is believed; tells whether it is new. Raises: ProofError."""
        found = believe(notice, self._network_id, self._clock_ms(), self._log_keys())
        if not self._alarms.add(found):
            return False
        log.error(
            "ALARM about the ledger's log (%s), by %s: %s",
            found.alarm.kind,
            found.signer,
            found.alarm.text,
        )
        return True

    def _log_keys(self) -> frozenset[bytes]:
        book = self._configuration
        return book.current.log_public_keys if book.known else frozenset()

    def _witnesses(self, note: bytes) -> list[dict[str, Any]]:
        named = self._configuration.current.witnesses if self._configuration.known else ()
        keys = [WitnessKey(w.name, bytes.fromhex(w.public_key)) for w in named]
        try:
            found = witnesses_of(note, keys)
        except ProofError:
            return []
        return [{"name": witness.name, "at_ms": witness.at_s * 1000} for witness in found]

    async def _follow(
        self, network: Network, topic: str, take: Callable[[bytes, Network], Any]
    ) -> None:
        async for item in network.subscribe(topic):
            try:
                await take(item.data, network)
            except (LedgerError, P2PError) as error:
                log.info("%s from %s: %s", topic, item.author, error)

    async def _on_checkpoint(self, data: bytes, network: Network) -> None:
        await self.take_checkpoint(decode_message(data, Checkpoint), network)

    async def _on_alarm(self, data: bytes, network: Network) -> None:
        self.take_alarm(decode_message(data, AlarmNotice))

    async def _ask(self, network: Network, link: Uplink) -> None:
        """Ask one bootstrap or mirror again and again."""
        while True:
            await link.wait_up()
            for ask in (partial(self._ask_checkpoint, network), self._ask_alarms):
                try:
                    await ask(link)
                except RefusedError as error:
                    log.debug("about the log: %s", error)
                except (LedgerError, P2PError) as error:
                    log.info("what %s says of the log does not count: %s", link.bootstrap, error)
            await trio.sleep(LOG_POLL_S)

    async def _ask_checkpoint(self, network: Network, link: Uplink) -> None:
        answer = await link.call(methods.LOG_CHECKPOINT, b"")
        await self.take_checkpoint(decode_message(answer, Checkpoint), network)

    async def _ask_alarms(self, link: Uplink) -> None:
        answer = await link.call(methods.LOG_ALARMS, b"")
        for notice in decode_messages(answer) if answer else []:
            if isinstance(notice, AlarmNotice):
                self.take_alarm(notice)
