"""Owns the repairs of py-libp2p 0.8.1, each with what goes wrong without it.

1. Every dial takes 250 ms: the swarm waits for a failure that a success never signals. Here 1 ms.
2. A closed inbound connection keeps its slot until the host stops: after 250 the host is deaf.
   Repaired in `RepairedSwarm`.
3. The 257th open stream of a connection waits for ever. Replaced by `muxer.Muxer`.
4. Both directions busy: pings are answered under the write lock, both sides stop for good.
   Replaced by `muxer.Muxer`.
5. Listeners share their port with other processes (SO_REUSEPORT), so that "in use" is never
   reported. Repaired in `_reuse_address`.
6. `logging.debug()` on the root logger installs a handler that prints to stderr: replaced.

`tests/contract/test_libp2p_repairs.py` shows each defect on the code as it comes: when one of those
tests fails, upstream has repaired it, and the repair can go.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import libp2p.network.connection.swarm_connection as swarm_connection_module
import libp2p.network.swarm as swarm_module
import libp2p.transport.tcp.tcp as tcp_module
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm

HAPPY_EYEBALLS_DELAY_S = 0.001
_applied = False


class RepairedSwarm(Swarm):
    """The swarm, without what would dial by itself and without slots that are never given back."""

    def _init_connection_management(self) -> None:
        """Whom to dial is decided above the port: the auto-connector does nothing."""
        super()._init_connection_management()
        self.auto_connector.maybe_connect = _do_nothing
        self.auto_connector.run_background_task = _do_nothing

    async def _do_handle_inbound_connection(
        self, read_write_closer: Any, maddr: Any, failure_event: Any
    ) -> None:
        """Keep the slot while the connection lives (repair 2), not until the host ends."""
        raw = RawConnection(read_write_closer, False)
        try:
            muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
            await muxed.event_closed.wait()
        except Exception as error:  # a stranger's handshake may fail in any way
            logging.getLogger(__name__).debug("an inbound connection failed: %s", error)
            await raw.close()

    async def notify_opened_stream(self, stream: Any) -> None:
        """Nobody listens, and upstream's way costs a nursery for each stream."""

    async def notify_closed_stream(self, stream: Any) -> None:
        """Nobody listens."""
        stream._resource_released = True

    def _schedule_auto_connect(self) -> None:
        """Whom to dial is decided above the port."""

    def _schedule_prune(self) -> None:
        """Connections are bounded; none is closed to make room."""


async def _do_nothing(*arguments: Any) -> None:
    """Stand in for what must not happen."""


def _reuse_address(sock: Any) -> None:
    """Allow a restart on the same port at once, but never two listeners on it (repair 5)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def apply_repairs() -> None:
    """Apply the repairs that change modules of py-libp2p (once for each process)."""
    global _applied
    if _applied:
        return
    _applied = True
    swarm_module._HAPPY_EYEBALLS_DELAY = HAPPY_EYEBALLS_DELAY_S
    tcp_module._set_reuse_flags = _reuse_address
    swarm_connection_module.logging = logging.getLogger(swarm_connection_module.__name__)
    _quieten_logs()


def _quieten_logs() -> None:
    """Send the library's records where ours go, from ERROR on, except two that are routine."""
    root = logging.getLogger("libp2p")
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith("libp2p."):
            logging.getLogger(name).setLevel(logging.NOTSET)
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.propagate = True
    root.setLevel(logging.ERROR)
    for routine in ("network.swarm", "kad_dht", "host.basic_host", "stream_muxer", "transport"):
        # They log an unreachable or leaving peer as an error; the adapter reports it to its caller.
        logging.getLogger(f"libp2p.{routine}").setLevel(logging.CRITICAL)
