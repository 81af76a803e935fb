"""Owns what a bootstrap tells gateways by gossip about its ledger: changed keys, wanted leases.

Theory of operation. Whoever changes a key, or finds that leases are why a hold was refused, names
the key here and goes on. A short moment later all that was named goes out as one signed notice with
this bootstrap's certificate (`p2p.ledger_notices` says when it is believed). Wanted leases are told
at most once a second: somebody who is refused again and again must not fill the network with
gossip. A notice that is lost costs time only: caches of keys, and leases, end by themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import trio

from bootstrap.limits import NOTICE_DELAY_S, WANTED_NOTICE_INTERVAL_S
from ledger.operations import ChangeKeyLimits, Operation, RevokeKey, RotateKey
from p2p.certificates import Chain
from p2p.errors import P2PError
from p2p.lease_messages import LEDGER_NOTICE_TOPIC, LedgerNotice, key_mark
from p2p.ledger_notices import encode_notice
from p2p.limits import NOTICE_MARKS_MAX
from p2p.network import Network
from p2p.signing import KeyPair
from p2p.types import NetworkId

log = logging.getLogger(__name__)


class _Names:
    """Keys that were named and not yet told, at most as many as one notice can carry."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._named = trio.Event()

    def add(self, key_ids: Iterable[str]) -> None:
        for key_id in key_ids:
            if len(self._names) < NOTICE_MARKS_MAX:
                self._names[key_id] = None
            self._named.set()

    async def take(self) -> tuple[str, ...]:
        """Wait until there are some, and a short moment for more of them."""
        await self._named.wait()
        await trio.sleep(NOTICE_DELAY_S)
        found, self._names, self._named = tuple(self._names), {}, trio.Event()
        return found


class Notices:
    """What is to be told, and when. `run` tells it."""

    def __init__(
        self,
        key_pair: KeyPair,
        chain: Chain,
        network_id: NetworkId,
        clock_ms: Callable[[], int],
    ) -> None:
        """Sign with the bootstrap's key pair; `chain` certifies it."""
        self._key_pair = key_pair
        self._chain = tuple(chain)
        self._network_id = network_id
        self._clock_ms = clock_ms
        self._changed, self._wanted = _Names(), _Names()

    def changed(self, key_id: str) -> None:
        """A key was revoked, rotated or limited."""
        self._changed.add([key_id])

    def wanted(self, key_ids: Iterable[str]) -> None:
        """Leases of these keys should give back what they do not need."""
        self._wanted.add(key_ids)

    def note_operation(self, operation: Operation) -> None:
        """Tell of an account operation that was done, if it changes an API key."""
        match operation:
            case RevokeKey() | RotateKey() | ChangeKeyLimits():
                self.changed(operation.document.key_id)

    async def run(self, network: Network) -> None:
        """Tell, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_changed, network)
            nursery.start_soon(self._tell_wanted, network)

    async def _tell_changed(self, network: Network) -> None:
        while True:
            await self._tell(network, changed=await self._changed.take())

    async def _tell_wanted(self, network: Network) -> None:
        while True:
            await self._tell(network, wanted=await self._wanted.take())
            await trio.sleep(WANTED_NOTICE_INTERVAL_S)

    async def _tell(
        self, network: Network, *, changed: tuple[str, ...] = (), wanted: tuple[str, ...] = ()
    ) -> None:
        notice = LedgerNotice(
            self._clock_ms(),
            tuple(key_mark(key_id) for key_id in changed),
            tuple(key_mark(key_id) for key_id in wanted),
        )
        try:
            data = encode_notice(notice, self._key_pair, self._network_id, self._chain)
            await network.publish(LEDGER_NOTICE_TOPIC, data)
        except P2PError as error:
            log.warning("a notice about %d keys was not told: %s", len(changed + wanted), error)
