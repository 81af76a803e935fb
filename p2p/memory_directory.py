"""Owns the directory of the in-memory network: each serving member keeps what reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.errors import MalformedError, P2PError, PeerUnavailableError, StaleError
from p2p.network import Provider, RecordCheck
from p2p.types import PeerId

if TYPE_CHECKING:
    from p2p.memory_peer import MemoryNetwork

RECORD_BYTES_MAX = 16 * 1024
RECORD_KEY_BYTES_MAX = 48


class MemoryDirectory:
    """One peer's part of the directory, and its questions to the others."""

    def __init__(self, network: MemoryNetwork, record_check: RecordCheck) -> None:
        self._network = network
        self._record_check = record_check
        self.providers: dict[bytes, dict[PeerId, tuple[str, ...]]] = {}
        self.records: dict[bytes, bytes] = {}

    async def _servers(self) -> list[MemoryDirectory]:
        """Give the directories of the members that serve it and can be reached."""
        network = self._network
        hub = network.hub
        await trio.sleep(hub.draw_delay_s(network.local, network.local))
        if not network.gossip_hops():
            return []
        return [
            other.directory
            for peer_id, other in sorted(hub.networks.items())
            if other is not network
            and other.directory_server
            and other.network_id == network.network_id
            and other.gossip_hops()
            and not hub.silent_between(network.local, peer_id)
        ]

    async def provide(self, key: bytes) -> None:
        """Say that we provide a key. Raises: PeerUnavailableError."""
        servers = await self._servers()
        if not servers:
            raise PeerUnavailableError("no peer of the directory took the announcement")
        for server in servers:
            kept = server.providers.setdefault(key, {})
            kept[self._network.local] = self._network.addresses()

    async def find_providers(self, key: bytes) -> list[Provider]:
        """Ask who provides a key."""
        found: dict[PeerId, tuple[str, ...]] = dict(self.providers.get(key, {}))
        for server in await self._servers():
            found.update(server.providers.get(key, {}))
        return [Provider(peer_id, addresses) for peer_id, addresses in found.items()]

    async def put_record(self, key: bytes, value: bytes) -> None:
        """Store a record. Raises: MalformedError, UntrustedError, PeerUnavailableError."""
        if not 0 < len(key) <= RECORD_KEY_BYTES_MAX:
            raise MalformedError(f"a record's key has 1 to {RECORD_KEY_BYTES_MAX} bytes")
        if len(value) > RECORD_BYTES_MAX:
            raise MalformedError(f"a record has at most {RECORD_BYTES_MAX} bytes")
        sequence = self._record_check(key, value)
        if key in self.records and self._record_check(key, self.records[key]) > sequence:
            raise StaleError("a newer record is stored already")
        self.records[key] = value
        servers = await self._servers()
        if not servers:
            raise PeerUnavailableError("there is no peer of the directory to keep the record")
        for server in servers:
            server.keep_record(key, value)

    def keep_record(self, key: bytes, value: bytes) -> None:
        """Keep another peer's record if it is valid and newer than ours."""
        try:
            sequence = self._record_check(key, value)
            if key in self.records and self._record_check(key, self.records[key]) >= sequence:
                return
        except P2PError:
            return
        self.records[key] = value

    async def get_record(self, key: bytes) -> bytes | None:
        """Look a record up, newest wins."""
        best: bytes | None = None
        best_sequence = -1
        for directory in [self, *await self._servers()]:
            value = directory.records.get(key)
            if value is None:
                continue
            try:
                sequence = self._record_check(key, value)
            except P2PError:
                continue
            if sequence > best_sequence:
                best, best_sequence = value, sequence
        return best
