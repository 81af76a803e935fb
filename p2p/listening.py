"""Owns the choice of listening addresses: a peer that asked for any free port keeps the one it got.

Others remember where a peer was; a restart on the same port is found again at once. Multiaddresses
are handled as texts here (`/ip4/<address>/tcp/<port>`), so that nothing but the adapter needs a
multiaddr library.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from pathlib import Path

from p2p.errors import MalformedError, PeerUnavailableError
from p2p.files import write_atomically

_ANY_PORT = re.compile(r"^(/ip[46]/([0-9a-fA-F.:]+)/tcp/)0$")
_WITH_PORT = re.compile(r"^/ip[46]/([0-9a-fA-F.:]+)/tcp/(\d{1,5})(/p2p/.*)?$")


def listens_not(listen: Sequence[str]) -> bool:
    """Tell whether a peer is asked not to listen: by no address, or by the word `none`."""
    return tuple(listen) in ((), ("none",))


def choose_listen_addresses(listen: Sequence[str], port_file: Path) -> tuple[str, ...]:
    """Put the remembered port where `/tcp/0` stands, if it is still free; `none` is no address.

    Raises: MalformedError for an address of another form; PeerUnavailableError if a port that was
        asked for by number is in use.
    """
    if listens_not(listen):
        return ()
    remembered = _read_port(port_file)
    chosen = []
    for address in listen:
        match = _WITH_PORT.match(address)
        if match is None or int(match[2]) > 65_535:
            raise MalformedError(f"not a listening address (/ip4/<address>/tcp/<port>): {address}")
        any_port = _ANY_PORT.match(address)
        if any_port is None:
            if not _is_free(match[1], int(match[2])):
                raise PeerUnavailableError(f"port {match[2]} on {match[1]} is in use")
            chosen.append(address)
        elif remembered and _is_free(any_port[2], remembered):
            chosen.append(f"{any_port[1]}{remembered}")
        else:
            chosen.append(address)
    return tuple(chosen)


def remember_port(addresses: Sequence[str], port_file: Path) -> None:
    """Keep the port of the first address for the next start."""
    for address in addresses:
        match = _WITH_PORT.match(address)
        if match is not None:
            write_atomically(port_file, match[2].encode())
            return


def _read_port(port_file: Path) -> int:
    try:
        port = int(port_file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return port if 0 < port <= 65_535 else 0


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
