"""Owns what a process tells the service manager that started it: ready, stopping, still alive.

sd_notify(3): a datagram to the Unix socket that NOTIFY_SOCKET names (`@` begins an abstract one).
WATCHDOG_USEC says within how many microseconds a sign of life is expected. Without those variables
nothing is sent. They are taken out of the environment, so that no child speaks in our name.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

import trio

log = logging.getLogger(__name__)
_SIGNS_PER_PERIOD = 3


class ServiceNotice:
    """The way to the service manager, if there is one."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Read where to send, and how often."""
        self._address = environment.pop("NOTIFY_SOCKET", "")
        pid = environment.pop("WATCHDOG_PID", "")
        period = environment.pop("WATCHDOG_USEC", "")
        meant = not pid or pid == str(os.getpid())
        self.watchdog_s = int(period) / 1e6 if period.isdecimal() and meant else 0.0

    def ready(self) -> None:
        """It serves."""
        self._send("READY=1")

    def stopping(self) -> None:
        """It ends, or finishes what it has before it does."""
        self._send("STOPPING=1")

    async def live(self) -> None:
        """Give signs of life from the trio loop for as long as it turns; returns if none are
        wanted."""
        while self._address and self.watchdog_s > 0:
            self._send("WATCHDOG=1")
            await trio.sleep(self.watchdog_s / _SIGNS_PER_PERIOD)

    def _send(self, text: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), address)
        except OSError as error:
            log.debug("the service manager was not told %s: %s", text, error)
