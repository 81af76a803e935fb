"""Owns the mapping of py-libp2p's exceptions to the errors of the port, in one place."""

from __future__ import annotations

from collections.abc import Iterator

from libp2p.exceptions import MultiError
from libp2p.transport.exceptions import UpgradeFailure

from p2p.errors import P2PError, PeerUnavailableError, UntrustedError

_OTHER_PEER = ("PeerIDMismatchesPubkey", "Peer ID mismatch")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an exception and all that it wraps."""
    seen: set[int] = set()
    todo: list[BaseException] = [error]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, MultiError):
            todo.extend(each for each in one.args if isinstance(each, BaseException))
        todo.extend(each for each in (one.__cause__, one.__context__) if each is not None)


def dial_error(error: Exception, address: str) -> P2PError:
    """Say in the port's terms why a dial failed."""
    causes = list(_causes(error))
    for cause in causes:
        text = f"{type(cause).__name__}: {cause}"
        if any(sign in text for sign in _OTHER_PEER):
            return UntrustedError(f"another peer than the address names answers at {address}")
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return PeerUnavailableError(f"cannot reach {address}: {cause.strerror}")
    if any(isinstance(cause, UpgradeFailure) for cause in causes):
        return PeerUnavailableError(f"{address} answers, but not as a peer of this kind of network")
    return PeerUnavailableError(f"cannot reach {address}: {error}")
