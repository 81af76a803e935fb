"""Owns the configuration that is in force at one peer: the last good one, kept in a file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from p2p.codec import decode_message, encode_message
from p2p.errors import ForkError, P2PError, RefusedError
from p2p.files import write_atomically
from p2p.network_configuration import (
    NetworkConfiguration,
    check_successor,
    configuration_digest,
    open_configuration,
)
from p2p.signing import Signed
from p2p.types import NetworkId

log = logging.getLogger(__name__)
EVIDENCE_MAX = 16


class ConfigurationBook:
    """Keeps the newest valid configuration and refuses everything else."""

    def __init__(self, network: NetworkId, path: Path | None = None) -> None:
        """Start empty, or with what `path` holds (a damaged or foreign file is refused).

        Raises: P2PError if the file exists but is not a valid configuration of this network.
        """
        self.network = network
        self.evidence: list[Signed] = []
        self._path = path
        self._listeners: list[Callable[[NetworkConfiguration], None]] = []
        self._signed: Signed | None = None
        self._current: NetworkConfiguration | None = None
        if path is not None and path.exists():
            self._load(path)

    @property
    def current(self) -> NetworkConfiguration:
        """The configuration in force. Raises: RefusedError if there is none yet."""
        if self._current is None:
            raise RefusedError("no_configuration", "no network configuration yet", 2.0)
        return self._current

    @property
    def known(self) -> bool:
        """Whether there is a configuration."""
        return self._current is not None

    @property
    def signed(self) -> Signed | None:
        """The configuration in force as signed by the authority, to hand on."""
        return self._signed

    def on_change(self, listener: Callable[[NetworkConfiguration], None]) -> None:
        """Call `listener` with each configuration that comes into force, the current one now."""
        self._listeners.append(listener)
        if self._current is not None:
            listener(self._current)

    def offer(self, signed: Signed) -> bool:
        """Take a configuration if it is valid and newer; it is on disk before it is in force.

        Returns: True if it is now in force, False if it was already.
        Raises: UntrustedError, StaleError, ForkError (evidence is kept), MalformedError.
        """
        proposed = open_configuration(signed, self.network)
        if self._current is not None and self._signed is not None:
            digest = configuration_digest(signed)
            try:
                newer = check_successor(
                    self._current, configuration_digest(self._signed), proposed, digest
                )
            except ForkError:
                if len(self.evidence) < EVIDENCE_MAX and signed not in self.evidence:
                    self.evidence.append(signed)
                raise
            if not newer:
                return False
        self._store(signed)
        self._install(signed)
        return True

    def offer_quietly(self, signed: Signed, source: str) -> bool:
        """Like `offer`, for hints from gossip and hellos: log a refusal instead of raising."""
        try:
            return self.offer(signed)
        except P2PError as error:
            log.warning("configuration from %s refused: %s", source, error)
            return False

    def _load(self, path: Path) -> None:
        try:
            self._install(decode_message(path.read_bytes(), Signed))
        except P2PError as error:
            raise type(error)(f"{path}: {error} (remove it to fetch it again)") from error

    def _install(self, signed: Signed) -> None:
        self._current = open_configuration(signed, self.network)
        self._signed = signed
        for listener in self._listeners:
            listener(self._current)

    def _store(self, signed: Signed) -> None:
        if self._path is None:
            return
        write_atomically(self._path, encode_message(signed))
