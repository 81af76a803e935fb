"""Owns what an audit carries along: what it found, what it has made again, leaves it saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from ledger.book import Book
from ledger.disputes import Charge, Dispute
from ledger.errors import LedgerError
from ledger.log.leaves import Opening, leaf_data
from ledger.records import ApiKeyEntry
from ledger.store.log.tables import LOG_LEAVES, LOG_PENDING
from p2p.errors import P2PError
from p2p.types import NetworkId

PROBLEMS_MAX = 100
"""More would only repeat themselves."""
_PART = 500

# A damaged row shows as any of these: what is in it no longer has the type or form that it should.
DAMAGE = (
    SQLAlchemyError,
    LedgerError,
    P2PError,
    AssertionError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


@dataclass(slots=True)
class AuditReport:
    """What an audit checked (counts by name), and what it found wrong."""

    checked: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0

    def problem(self, text: str) -> None:
        """Note something that is wrong."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)

    def count(self, what: str, number: int = 1) -> None:
        """Note what was checked."""
        self.checked[what] = self.checked.get(what, 0) + number

    def compare(self, what: str, found: object, expected: object) -> None:
        """Note a problem if two values differ (their content is not shown)."""
        if found != expected:
            self.problem(f"{what} is not what the signed documents give")

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Note a problem if something in a row cannot be read or breaks a rule."""
        try:
            yield
        except DAMAGE as error:
            self.problem(f"{what}: {type(error).__name__}: {str(error)[:200]}")


class DisputeSource(Protocol):
    """Gives charges and disputes by the hold (`ledger.store.audit.disputes.DisputeRows`)."""

    def charge(self, hold_id: bytes) -> Charge | None:
        """The charge of a hold."""
        ...

    def dispute(self, hold_id: bytes) -> Dispute | None:
        """The dispute of a hold."""
        ...


@dataclass(slots=True)
class Replay:
    """The ledger as it is made again. `hold_keys`: every secret that a key ever had,
    `key_limits`: the key with each of its limits.

    `key_times` (by account): when each account key came and went; `unnumbered`: operations from
    before they were numbered. `write` is called after each record and transfer, while what it did
    stands in the book as new and changed: a mirror writes it down (`ledger.store.mirror.copy`).
    `dispute_keys` may have decided disputes; `dispute_rows` gives what those are judged by.
    """

    network: NetworkId
    mint_keys: frozenset[bytes]
    book: Book = field(default_factory=Book)
    hold_keys: dict[str, list[bytes]] = field(default_factory=dict)
    key_limits: dict[str, list[ApiKeyEntry]] = field(default_factory=dict)
    bindings: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    key_times: dict[str, dict[tuple[str, bytes], tuple[int, int]]] = field(default_factory=dict)
    unnumbered: Counter[str] = field(default_factory=Counter)
    write: Callable[[Book], None] | None = None
    dispute_keys: frozenset[bytes] = frozenset()
    dispute_rows: DisputeSource | None = None


class Leaves:
    """Compares the log's leaves with the openings that the ledger's rows give."""

    def __init__(self, connection: Connection, secret: bytes, report: AuditReport) -> None:
        """Read leaves from this connection; report to `report`."""
        self._connection = connection
        self._secret = secret
        self._report = report
        self._pending = set(connection.execute(select(LOG_PENDING.c.source)).scalars())
        self._seen_pending = 0
        self._matched = 0

    def match(self, openings: Mapping[bytes, Sequence[Opening]]) -> None:
        """Check that each source has exactly its leaves, or waits in the outbox."""
        sources = list(openings)
        found: dict[bytes, dict[int, bytes]] = {}
        for at in range(0, len(sources), _PART):
            for row in self._connection.execute(
                select(LOG_LEAVES).where(LOG_LEAVES.c.source.in_(sources[at : at + _PART]))
            ):
                found.setdefault(row.source, {})[row.part] = row.commitment
        for source, parts in openings.items():
            self._match_one(source, parts, found.get(source, {}))

    def _match_one(
        self, source: bytes, parts: Sequence[Opening], found: Mapping[int, bytes]
    ) -> None:
        name = f"the leaf of {source[:1].decode(errors='replace')} {source[1:].hex()[:32]}"
        if source in self._pending:
            self._seen_pending += 1
            self._report.count("waiting for the log")
            if found:
                self._report.problem(f"{name} is in the log and waits for it")
            return
        self._matched += len(found)
        expected = {part: leaf_data(self._secret, opening) for part, opening in enumerate(parts)}
        if found != expected:
            self._report.problem(
                f"{name} is not what its row gives" if found else f"{name} is missing from the log"
            )

    def finish(self) -> None:
        """Check that there is no leaf and nothing in the outbox that belongs to nothing."""
        if self._seen_pending != len(self._pending):
            self._report.problem("the log's outbox names things that are not in the ledger")
        total = self._connection.execute(select(func.count()).select_from(LOG_LEAVES)).scalar_one()
        if total != self._matched:
            self._report.problem(f"{total - self._matched} leaves belong to nothing in the ledger")
        self._report.count("leaves", self._matched)
