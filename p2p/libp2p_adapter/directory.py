"""Owns the directory: who might provide a key, and small signed records, on a DHT of our own.

Theory of operation. py-libp2p's Kademlia finds the peers closest to a key and keeps their
records; its protocol ID carries the network's ID (`isolation`), and only members take part
(`host`). Its own reads answer from the local store first, for up to two days, so lookups are done
here: the closest peers are asked, each once, and of valid records the highest sequence number
wins. Nothing that is read is kept. What others may make us keep is bounded, and one peer can
occupy only a few of the handlers.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import libp2p.kad_dht.value_store as value_store_module
import trio
from libp2p.kad_dht import KadDHT
from libp2p.kad_dht.kad_dht import DHTMode
from libp2p.kad_dht.provider_store import ProviderRecord, ProviderStore
from libp2p.peer.id import ID
from libp2p.records.validator import NamespacedValidator, Validator

from p2p.errors import (
    DeadlineError,
    MalformedError,
    P2PError,
    PeerUnavailableError,
    StaleError,
)
from p2p.libp2p_adapter.connections import Link
from p2p.libp2p_adapter.host import GatedHost
from p2p.libp2p_adapter.isolation import Names
from p2p.libp2p_adapter.limits import (
    DIRECTORY_JOBS_MAX,
    DIRECTORY_PEERS_ASKED_AT_ONCE,
    DIRECTORY_PEERS_MAX,
    DIRECTORY_STREAMS_MAX,
    DIRECTORY_STREAMS_PER_PEER_MAX,
    DIRECTORY_TIMEOUT_S,
    PROVIDED_KEYS_MAX,
    PROVIDERS_PER_KEY_MAX,
    RECORD_BYTES_MAX,
    RECORD_KEY_BYTES_MAX,
    RECORDS_KEPT_MAX,
)
from p2p.network import Access, Provider, RecordCheck
from p2p.types import PeerId

_logger = logging.getLogger(__name__)

T = TypeVar("T")
_SHA256_MULTIHASH = b"\x12\x20"


class _Records(Validator):
    """Lets the RecordCheck decide about the records of our namespace."""

    def __init__(self, record_check: RecordCheck) -> None:
        self._record_check = record_check

    def sequence(self, key: str, value: bytes) -> int:
        """Give a valid record's sequence number. Raises: P2PError."""
        if len(value) > RECORD_BYTES_MAX:
            raise MalformedError(f"a record has at most {RECORD_BYTES_MAX} bytes")
        try:
            short_key = bytes.fromhex(key.rpartition("/")[2])
        except ValueError as error:
            raise MalformedError("a record's key is hexadecimal") from error
        return self._record_check(short_key, value)

    def validate(self, key: str, value: bytes) -> None:
        """Raise if a record is not valid."""
        self.sequence(key, value)

    def select(self, key: str, values: list[bytes]) -> int:
        """Give the index of the newest valid value (the first of equals)."""
        best, best_sequence = 0, -1
        for index, value in enumerate(values):
            try:
                sequence = self.sequence(key, value)
            except P2PError:
                continue
            if sequence > best_sequence:
                best, best_sequence = index, sequence
        return best


class _Providers(ProviderStore):
    """Keeps provider records: the newest for each key, a bounded number of keys."""

    def add_provider(self, key: bytes, provider: Any) -> None:
        """Keep a record; the oldest of a full key, or the oldest key, makes room."""
        records = self.providers.pop(key, {})
        name = str(provider.peer_id)
        records.pop(name, None)
        while len(records) >= PROVIDERS_PER_KEY_MAX:
            records.pop(next(iter(records)))
        records[name] = ProviderRecord(provider_info=provider, timestamp=time.time())
        while len(self.providers) >= PROVIDED_KEYS_MAX:
            self.providers.pop(next(iter(self.providers)))
        self.providers[key] = records


class _Dht(KadDHT):
    """py-libp2p's DHT, with bounds on what serves others."""

    def __init__(self, host: GatedHost, names: Names, records: _Records, *, server: bool) -> None:
        validator = NamespacedValidator({names.namespace: records}, strict_validation=True)
        self._streams_by_peer: Counter[ID] = Counter()
        super().__init__(
            host,
            DHTMode.SERVER if server else DHTMode.CLIENT,
            validator=validator,
            validator_changed=True,
            strict_validation=True,
        )
        self._protocol = names.directory
        providers = _Providers(host=host, peer_routing=self.peer_routing)
        self.provider_store = providers
        self._provider_rate_max = PROVIDERS_PER_KEY_MAX

    async def handle_stream(self, stream: Any) -> None:
        """Serve a member's queries, a few streams of each at once, each for a limited time."""
        peer_id = stream.muxed_conn.peer_id
        total = sum(self._streams_by_peer.values())
        if (
            self._streams_by_peer[peer_id] >= DIRECTORY_STREAMS_PER_PEER_MAX
            or total >= DIRECTORY_STREAMS_MAX
        ):
            await stream.reset()
            return
        self._streams_by_peer[peer_id] += 1
        try:
            with trio.move_on_after(DIRECTORY_TIMEOUT_S) as deadline:
                await self._do_handle_stream(stream)
            if deadline.cancelled_caught:
                await stream.reset()
        finally:
            self._streams_by_peer[peer_id] -= 1
            if not self._streams_by_peer[peer_id]:
                del self._streams_by_peer[peer_id]

    async def add_peer(self, peer_id: ID, *, skip_server_mode_check: bool = False) -> bool:
        """Put a member into the routing table if it is known to serve the DHT."""
        try:
            protocols = self.host.get_peerstore().get_protocols(peer_id)
        except Exception:  # the peer store's own exception: not identified yet
            return False
        if self._protocol not in protocols:
            return False
        added: bool = await self.routing_table.add_peer(peer_id, skip_server_mode_check=True)
        return added


class Directory:
    """The directory of one peer."""

    def __init__(
        self, host: GatedHost, names: Names, record_check: RecordCheck, *, server: bool
    ) -> None:
        value_store_module.MAX_VALUE_STORE_SIZE = RECORDS_KEPT_MAX
        self._host = host
        self._names = names
        self._records = _Records(record_check)
        self.service = _Dht(host, names, self._records, server=server)
        self._fresh_send, self._fresh_receive = trio.open_memory_channel[Link](DIRECTORY_JOBS_MAX)

    # --- members ----------------------------------------------------------------------------

    def admit(self, link: Link) -> None:
        """A peer became a member: learn its addresses, and whether it serves the DHT."""
        try:
            self._fresh_send.send_nowait(link)
        except trio.WouldBlock:
            _logger.warning("too many new members at once: one is not put on the DHT")

    def peer_gone(self, link: Link) -> None:
        """The last connection to a peer is gone: it leaves the routing table."""
        self.service.routing_table.remove_peer(link.libp2p_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Identify new members, for ever."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            async for link in self._fresh_receive:
                nursery.start_soon(self._identify, link)

    async def _identify(self, link: Link) -> None:
        try:
            with trio.move_on_after(DIRECTORY_TIMEOUT_S):
                await self._host.identify(link)
                if link.alive and link.access is Access.MEMBER:
                    await self.service.add_peer(link.libp2p_id)
        except Exception as error:  # what a peer says about itself may be anything
            _logger.debug("%s could not be identified: %r", link.peer_id, error)

    # --- providers --------------------------------------------------------------------------

    def _provider_key(self, key: bytes) -> bytes:
        scoped = self._names.network_id.encode() + b"\0" + key
        return _SHA256_MULTIHASH + hashlib.sha256(scoped).digest()

    async def provide(self, key: bytes) -> None:
        """Say that we provide a key. Raises: PeerUnavailableError, DeadlineError."""
        dht_key = self._provider_key(key)
        store = self.service.provider_store

        async def announce(peer_id: ID) -> bool:
            done: bool = await store._send_add_provider(peer_id, dht_key)
            return done

        answers = await self._ask_closest(dht_key, announce)
        if not any(answers):
            raise PeerUnavailableError("no peer of the directory took the announcement")

    async def find_providers(self, key: bytes) -> list[Provider]:
        """Ask who provides a key. Raises: DeadlineError."""
        dht_key = self._provider_key(key)
        store = self.service.provider_store

        async def ask(peer_id: ID) -> list[Any]:
            found, _ = await store._get_providers_from_peer_with_closers(peer_id, dht_key)
            return list(found)

        found = list(store.get_providers(dht_key))
        for answer in await self._ask_closest(dht_key, ask):
            found.extend(answer)
        addresses_by_peer: dict[PeerId, dict[str, None]] = {}
        for info in found:
            peer_id = PeerId(str(info.peer_id))
            whole = addresses_by_peer.setdefault(peer_id, {})
            for address in info.addrs:
                text = str(address)
                if "/p2p/" not in text:
                    text = f"{text}/p2p/{peer_id}"
                whole[text] = None
        return [Provider(peer_id, tuple(a)) for peer_id, a in addresses_by_peer.items()]

    # --- records ----------------------------------------------------------------------------

    async def put_record(self, key: bytes, value: bytes) -> None:
        """Store a record. Raises: MalformedError, UntrustedError, PeerUnavailableError."""
        dht_key = self._record_key(key)
        sequence = self._records.sequence(dht_key, value)
        key_bytes = dht_key.encode()
        store = self.service.value_store
        kept = store.get(key_bytes)
        if kept is not None and self._sequence_or_none(dht_key, kept.value, -1) > sequence:
            raise StaleError("a newer record is stored already")
        store.put(key_bytes, value)

        async def put(peer_id: ID) -> bool:
            done: bool = await store._store_at_peer(peer_id, key_bytes, value)
            return done

        if not await self._ask_closest(key_bytes, put):
            raise PeerUnavailableError("there is no peer of the directory to keep the record")

    async def get_record(self, key: bytes) -> bytes | None:
        """Look a record up, newest wins. Raises: DeadlineError."""
        dht_key = self._record_key(key)
        key_bytes = dht_key.encode()
        store = self.service.value_store

        async def ask(peer_id: ID) -> bytes | None:
            value: bytes | None = await store._get_from_peer(peer_id, key_bytes)
            return value

        kept = store.get(key_bytes)
        values = [kept.value] if kept is not None else []
        values += [value for value in await self._ask_closest(key_bytes, ask) if value]
        best: bytes | None = None
        best_sequence = -1
        for value in values:
            sequence = self._sequence_or_none(dht_key, bytes(value), -1)
            if sequence > best_sequence:
                best, best_sequence = bytes(value), sequence
        return best

    def _record_key(self, key: bytes) -> str:
        if not 0 < len(key) <= RECORD_KEY_BYTES_MAX:
            raise MalformedError(f"a record's key has 1 to {RECORD_KEY_BYTES_MAX} bytes")
        return self._names.record_key(key)

    def _sequence_or_none(self, dht_key: str, value: bytes, otherwise: int) -> int:
        try:
            return self._records.sequence(dht_key, value)
        except P2PError:
            return otherwise

    # --- asking -----------------------------------------------------------------------------

    async def _ask_closest(self, dht_key: bytes, ask: Callable[[ID], Awaitable[T]]) -> list[T]:
        """Ask the peers closest to a key, some at once; give the answers of those that answered.

        Raises: DeadlineError if not even the closest peers were found in time.
        """
        answers: list[T] = []
        limiter = trio.CapacityLimiter(DIRECTORY_PEERS_ASKED_AT_ONCE)

        async def one(peer_id: ID) -> None:
            async with limiter:
                try:
                    answers.append(await ask(peer_id))
                except Exception as error:  # py-libp2p raises many kinds for a peer that fails
                    _logger.debug("the directory at %s failed: %r", peer_id, error)

        asked = False
        with trio.move_on_after(DIRECTORY_TIMEOUT_S):
            found = await self.service.peer_routing.find_closest_peers_network(
                dht_key, DIRECTORY_PEERS_MAX
            )
            asked = True
            async with trio.open_nursery() as nursery:
                for peer_id in found:
                    if peer_id != self._host.get_id():
                        nursery.start_soon(one, peer_id)
        if not asked:
            raise DeadlineError(f"the directory did not answer in {DIRECTORY_TIMEOUT_S:g} s")
        return answers
