"""Owns the newest of what each peer says about itself, kept until it ends. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from p2p.errors import StaleError
from p2p.signing import Signed
from p2p.types import PeerId


class Statement(Protocol):
    """What a peer says about itself: a newer sequence replaces an older one."""

    @property
    def peer_id(self) -> PeerId:
        """Who says it."""
        ...

    @property
    def sequence(self) -> int:
        """Its place among this peer's statements."""
        ...

    @property
    def expires_ms(self) -> int:
        """When it is worth nothing any more (milliseconds since 1970)."""
        ...


class Known(Protocol):
    """A statement that was verified, and its signed form."""

    @property
    def statement(self) -> Statement:
        """What is said."""
        ...

    @property
    def signed(self) -> Signed:
        """As it was signed."""
        ...


K = TypeVar("K", bound=Known)


class NewestBook(Generic[K]):
    """The newest valid statement of each peer, forgotten when it expires."""

    def __init__(self, entries_max: int) -> None:
        """Keep at most `entries_max` peers; more are refused until some expire."""
        self._entries_max = entries_max
        self._known: dict[PeerId, K] = {}

    def add(self, known: K, now_ms: int) -> bool:
        """Take a verified statement. Returns: whether it is newer than what was known.

        Raises: StaleError for an older one, or when the book is full.
        """
        peer_id = known.statement.peer_id
        present = self._known.get(peer_id)
        if present is not None and known.statement.sequence <= present.statement.sequence:
            if known.signed == present.signed:
                return False
            raise StaleError("older than what is known of this peer")
        if present is None and len(self._known) >= self._entries_max:
            self.prune(now_ms)
            if len(self._known) >= self._entries_max:
                raise StaleError("too many peers are known: dropped")
        self._known[peer_id] = known
        return True

    def expired(self, now_ms: int) -> tuple[K, ...]:
        """The statements that `prune` forgets."""
        return tuple(k for k in self._known.values() if k.statement.expires_ms <= now_ms)

    def prune(self, now_ms: int) -> tuple[PeerId, ...]:
        """Forget expired statements and say whose."""
        gone = tuple(p for p, k in self._known.items() if k.statement.expires_ms <= now_ms)
        for peer_id in gone:
            del self._known[peer_id]
        return gone

    def get(self, peer_id: PeerId, now_ms: int) -> K | None:
        """The valid statement of a peer, or None."""
        known = self._known.get(peer_id)
        return known if known is not None and known.statement.expires_ms > now_ms else None

    def live(self, now_ms: int) -> Iterator[K]:
        """All statements that have not expired."""
        return (known for known in self._known.values() if known.statement.expires_ms > now_ms)

    def __len__(self) -> int:
        """How many peers are known (expired ones included until pruned)."""
        return len(self._known)
