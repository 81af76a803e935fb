"""Owns how a bootstrap serves the network configuration: calls, gossip, and its operator's file."""

from __future__ import annotations

import logging
from pathlib import Path

import trio

from bootstrap.errors import BootstrapStartError
from bootstrap.limits import CONFIGURATION_GOSSIP_INTERVAL_S, CONFIGURATION_POLL_INTERVAL_S
from p2p.calls import Caller, CallHandler
from p2p.codec import decode_message, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.configuration_sync import GET, OFFER, publish_configuration
from p2p.errors import P2PError, RefusedError
from p2p.network import Network
from p2p.network_configuration import CONFIGURATION_BYTES_MAX
from p2p.signing import Signed

log = logging.getLogger(__name__)


class ConfigurationService:
    """Hands the configuration on. It cannot change it: only the authority's signature counts."""

    def __init__(self, book: ConfigurationBook, path: Path) -> None:
        """Serve `book` and watch the operator's file at `path`.

        Raises: BootstrapStartError if the file cannot be read or believed and nothing is known.
        """
        self._book = book
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._complaint = ""
        try:
            self._read()
        except (P2PError, OSError) as error:
            if not book.known:
                raise BootstrapStartError(f"configuration {path}: {error}") from error
            log.warning("configuration %s is not taken: %s", path, error)

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that everybody may make."""
        return {GET: self.get, OFFER: self.offer}

    async def get(self, caller: Caller, body: bytes) -> bytes:
        """Give the configuration as the authority signed it."""
        if self._book.signed is None:
            raise RefusedError("no_configuration", "no network configuration yet", 2.0)
        return encode_message(self._book.signed)

    async def offer(self, caller: Caller, body: bytes) -> bytes:
        """Take a newer configuration from a peer. Raises: UntrustedError, StaleError, ForkError."""
        if caller.certificate is None:
            raise RefusedError("not_entitled", "only certified peers may offer a configuration")
        if self._book.offer(decode_message(body, Signed)):
            log.info("configuration %d came from %s", self._book.current.version, caller.peer_id)
        return b""

    async def run(self, network: Network) -> None:
        """Watch the file, and gossip the configuration when it changes and now and then."""
        published = 0
        published_at = float("-inf")
        while True:
            self._poll()
            version = self._book.current.version
            due = trio.current_time() - published_at > CONFIGURATION_GOSSIP_INTERVAL_S
            if version != published or due:
                await publish_configuration(network, self._book)
                published, published_at = version, trio.current_time()
            await trio.sleep(CONFIGURATION_POLL_INTERVAL_S)

    def _poll(self) -> None:
        complaint = ""
        try:
            self._read()
        except (P2PError, OSError) as error:
            complaint = str(error)
            if complaint != self._complaint:  # a missing file is missed every second
                log.warning("configuration %s is not taken: %s", self._path, error)
        self._complaint = complaint

    def _read(self) -> None:
        status = self._path.stat()
        seen = (status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return
        self._seen = seen
        if status.st_size > 2 * CONFIGURATION_BYTES_MAX:
            raise RefusedError("too_large", "the file is too large for a configuration")
        if self._book.offer(decode_message(self._path.read_bytes(), Signed)):
            log.info("configuration %d is in force", self._book.current.version)
