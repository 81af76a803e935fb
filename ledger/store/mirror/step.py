"""Owns one step of a mirror: check batches of the log and their records, and write them down.

Used within a transaction of the mirror's database (`ledger.store.mirror.copy` says how it works).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, delete
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import IntegrityError as ConstraintError

from ledger.book import Book
from ledger.errors import IntegrityError, RequestError, StorageError
from ledger.log.alarms import LEAF, MISSING, RULE
from ledger.log.batch import Leaf, LogBatch
from ledger.log.errors import ProofError
from ledger.log.leaves import LoggedTransfer, leaf_data
from ledger.log.merkle import leaf_hash, tree_root
from ledger.log.proofs import verify_checkpoint
from ledger.log.sources import TRANSFER, record_source, transfer_source
from ledger.log.tiles import Place, append
from ledger.operations import BindNode, FreezeEpoch, KeepUptime
from ledger.records import ApiKeyEntry, Binding
from ledger.rules import decide
from ledger.store.audit.accounts import record_order, replay_record
from ledger.store.audit.report import DAMAGE, AuditReport, Replay
from ledger.store.audit.transfers import replay_transfer
from ledger.store.database import plain_message
from ledger.store.log.queries import salt_secret, tile_nodes
from ledger.store.log.tables import LOG_PENDING
from ledger.store.log.writing import log_size, write_batch
from ledger.store.mirror.batch import Batch, RecordMissingError, Records, Scratch, read_records
from ledger.store.mirror.epochs import epoch_operations
from ledger.store.mirror.evidence import LogWrongError, evidence_of
from ledger.store.tables import GRANTS
from ledger.store.writing import write_book
from p2p.codec import decode_message, encode_message, encode_messages
from p2p.limits import CLOCK_SKEW_MS_MAX
from p2p.log_messages import BindingLeaf
from p2p.signing import Signed
from p2p.types import NetworkId
from p2p.usage_messages import RcpEpoch

Work = tuple[Batch, bytes, Callable[[], None]]
"""A record to do again: the batch that names it, its source, and how."""


class Step:
    """The work on batches that follow each other, in one transaction."""

    def __init__(
        self,
        connection: Connection,
        replay: Replay,
        scratch: Scratch,
        network: NetworkId,
        log_keys: Collection[bytes],
    ) -> None:
        """Work in this transaction."""
        self._connection = connection
        self._replay = replay
        self._scratch = scratch
        self._network = network
        self._log_keys = log_keys
        self._tiles: dict[Place, bytes] = {}
        self._refused: list[Work] = []
        self._reason = ""
        self.size = log_size(connection)

    @property
    def waits(self) -> bool:
        """Whether an operation needs something that a later batch has to bring."""
        return bool(self._refused)

    def run(self, batch: Batch) -> None:
        """Check the next batch, and write it.

        Raises: LogWrongError, StorageError, SQLAlchemyError.
        """
        try:
            given = self._scratch.fill(batch)
        except (SQLAlchemyError, ArithmeticError) as error:
            text = f"rows that no table can hold: {error}"
            raise self._wrong(batch, MISSING, text) from error
        with given:
            with self._judging(batch, LEAF, batch.sources[:1], given):
                records = read_records(given, batch.sources)
            write_batch(self._connection, self._append(batch, records, given))
            self._replay_all(batch, records, given)
            self._connection.execute(delete(LOG_PENDING))

    def give_up(self) -> None:
        """Nothing more comes. Raises: LogWrongError if an operation still waits."""
        if self._refused:
            batch, source, _ = self._refused[0]
            raise self._wrong(batch, RULE, f"{_name(source)} {self._reason}", [source])

    # --- leaves ---------------------------------------------------------------------------------
    def _append(self, batch: Batch, records: Records, given: Connection) -> LogBatch:
        """Check that the leaves are the checkpoint's and the records'."""
        checkpoint, base = batch.checkpoint, batch.base_size
        nodes = tile_nodes(self._connection)
        if self.size != base:
            raise StorageError(f"a batch from leaf {base} on does not follow leaf {self.size}")
        nodes.replace(self._tiles)
        changed = append(nodes, base, [leaf_hash(data) for data in batch.commitments])
        nodes.replace(changed)
        self._tiles.update(changed)
        self.size = batch.size
        try:
            verified = verify_checkpoint(checkpoint, self._network, self._log_keys)
        except ProofError as error:
            text = f"the checkpoint of {batch.size} leaves does not count: {error}"
            raise self._wrong(batch, LEAF, text) from error
        if (verified.head.size, verified.head.root) != (batch.size, tree_root(nodes, batch.size)):
            text = f"the leaves that are given are not those under the checkpoint of {batch.size}"
            raise self._wrong(batch, LEAF, text)
        secret = salt_secret(self._connection)
        leaves = [
            Leaf(source, part, leaf_data(secret, opening))
            for source in batch.sources
            for part, opening in enumerate(records.openings[source])
        ]
        leaves.sort(key=lambda leaf: leaf.commitment)
        if tuple(leaf.commitment for leaf in leaves) != batch.commitments:
            raise self._unlike(batch, leaves, given)
        return LogBatch(
            base,
            batch.sources,
            tuple(leaves),
            tuple(changed.items()),
            checkpoint.note,
            verified.public_key,
            encode_message(checkpoint.log_key),
            encode_messages(checkpoint.chain),
        )

    def _unlike(self, batch: Batch, leaves: list[Leaf], given: Connection) -> LogWrongError:
        """Say what does not fit between leaves and records."""
        stand, made = set(batch.commitments), {leaf.commitment for leaf in leaves}
        wrong = [leaf.source for leaf in leaves if leaf.commitment not in stand]
        if wrong:
            text = f"{_name(wrong[0])} is not what its leaf commits to"
            return self._wrong(batch, LEAF, text, wrong[:1], given)
        if stand - made:
            text = f"{len(stand - made)} leaves of the log have no record that was given"
            return self._wrong(batch, MISSING, text)
        text = "the leaves of a batch are not in the order of their commitments, once each"
        return self._wrong(batch, LEAF, text)

    # --- records --------------------------------------------------------------------------------
    def _replay_all(self, batch: Batch, records: Records, given: Connection) -> None:
        replay = self._replay
        replay.book.numbers = {t.transfer_id: t.number for t in records.transfers}
        for source, leaf in records.bindings:
            with self._judging(batch, RULE, [source], given):
                self._bind(leaf)
        grants = {row.number: row for row in given.execute(GRANTS.select())}
        final: dict[str, ApiKeyEntry] = {}
        work, self._refused = self._refused, []
        with self._judging(batch, RULE, (), given):
            rows = sorted(records.records, key=_order)
        for row in rows:
            source = record_source(row.digest)
            with self._judging(batch, RULE, [source], given):
                work.append((batch, source, self._record_work(row, given, final)))
        start_ms = min([transfer.at_ms for transfer in records.transfers], default=0)

        def transfer_work(transfer: LoggedTransfer) -> Callable[[], None]:
            def do() -> None:
                self._relax_keys(final, start_ms)
                report = AuditReport()
                replay.write = self._write
                replay_transfer(replay, transfer, grants.get(transfer.number), {}, report)
                _require(report)

            return do

        work += [(batch, transfer_source(t.number), transfer_work(t)) for t in records.transfers]
        self._do_all(work, given)
        replay.book.keys.update(final)
        replay.write = None
        replay.book.numbers = {}
        forget_changes(replay.book)

    def _do_all(self, work: list[Work], given: Connection) -> None:
        """Do everything in order; what is refused comes again before the next refused transfer.

        So transfers keep their order (balances follow it), and an operation that needs one of them
        comes right after it.
        """
        refused: list[Work] = []
        for item in work:
            if self._did(item, given):
                continue
            if item[1].startswith(TRANSFER):
                refused = self._again(refused, given)
                if self._did(item, given):
                    continue
            refused.append(item)
        refused = self._again(refused, given)
        for item in refused:
            if item[1].startswith(TRANSFER):
                assert not self._did(item, given)
                text = f"{_name(item[1])} {self._reason}"
                raise self._wrong(item[0], RULE, text, [item[1]], given)
        self._refused = refused

    def _again(self, refused: list[Work], given: Connection) -> list[Work]:
        """Try everything again for as long as that helps; gives what is still refused."""
        while refused:
            left = [item for item in refused if not self._did(item, given)]
            if len(left) == len(refused):
                break
            refused = left
        return refused

    def _did(self, item: Work, given: Connection) -> bool:
        """Do one record again; tells whether the rules allow it now."""
        batch, source, do = item
        try:
            with self._judging(batch, RULE, [source], given):
                do()
        except _RefusedError as error:
            self._reason = f"breaks a rule: {error}"
            return False
        return True

    def _record_work(
        self, row: Any, given: Connection, final: dict[str, ApiKeyEntry]
    ) -> Callable[[], None]:
        replay = self._replay
        if row.purpose == RcpEpoch.PURPOSE:
            operations = epoch_operations(given, row, self._network)
            return lambda: self._freeze(row, operations)

        def do() -> None:
            for key_id in [k for k in final if k == row.subject]:
                replay.book.keys[key_id] = final.pop(key_id)
            report = AuditReport()
            replay.write = lambda book: self._write_record(book, row)
            replay_record(row, replay, report)
            _require(report)

        return do

    def _freeze(self, row: Any, operations: Sequence[FreezeEpoch | KeepUptime]) -> None:
        """Take a frozen epoch with its scores and uptime (the scores are checked later)."""
        book = self._replay.book
        for operation in operations:
            change = decide(book, operation, row.at_ms)
            if isinstance(operation, FreezeEpoch):
                record = change.record
                if record is None or record.signed != row.signed or record.digest != row.digest:
                    raise IntegrityError("this epoch is there twice, or not what was signed")
            book.apply(change)
            self._write(book)

    def _bind(self, leaf: BindingLeaf) -> None:
        replay = self._replay
        history = replay.bindings.setdefault(leaf.peer_id, [])
        newest = max(history, default=None)
        if newest is not None and newest[0] > leaf.bound_ms:
            history.append((leaf.bound_ms, leaf.account_id))  # the log lagged: this one is over
            history.sort()
            return
        book = replay.book
        book.bindings.pop(leaf.peer_id, None)
        if newest is not None:
            book.bindings[leaf.peer_id] = Binding(leaf.peer_id, newest[1], newest[0])  # type: ignore[arg-type]
        change = decide(book, BindNode(leaf.peer_id, leaf.account_id), leaf.bound_ms)
        if change.binding is None:
            raise IntegrityError(f"node {leaf.peer_id} is bound to the same account twice")
        book.apply(change)
        self._write(book)
        history.append((leaf.bound_ms, leaf.account_id))

    def _relax_keys(self, final: dict[str, ApiKeyEntry], start_ms: int) -> None:
        """Let keys that were revoked lately do what they did before, if the clocks allow it."""
        if final:
            return
        keys = self._replay.book.keys
        final.update(keys)
        for key in final.values():
            if key.revoked_ms and key.revoked_ms > start_ms - CLOCK_SKEW_MS_MAX:
                keys[key.key_id] = replace(key, revoked_ms=0)

    # --- writing --------------------------------------------------------------------------------
    def _write(self, book: Book) -> None:
        write_book(self._connection, book)
        forget_changes(book)

    def _write_record(self, book: Book, row: Any) -> None:
        """Write an account operation as its row is: one from before numbers has none here too."""
        account_id = row.account_id or book.new_records[-1].account_id
        before = self._replay.unnumbered[account_id]
        account = book.accounts.get(account_id)
        if before and account is not None:
            book.accounts[account_id] = replace(account, operations=account.operations - before)
        book.new_records[-1] = replace(
            book.new_records[-1], account_id=row.account_id, operation=row.operation
        )
        self._write(book)
        if account is not None:
            book.accounts[account_id] = account

    # --- what is wrong --------------------------------------------------------------------------
    @contextmanager
    def _judging(
        self, batch: Batch, kind: str, sources: Sequence[bytes], given: Connection
    ) -> Iterator[None]:
        """Tell a rule that is broken from a database that fails."""
        try:
            yield
        except (LogWrongError, StorageError):
            raise
        except (RequestError, LookupError) as error:
            raise _RefusedError(f"{type(error).__name__}: {error}") from error
        except DBAPIError as error:
            if not isinstance(error, ConstraintError):
                raise
            text = f"{_name(*sources)} is there twice: {plain_message(error)}"
            raise self._wrong(batch, kind, text, sources, given) from error
        except RecordMissingError as error:
            text = f"the record of {_name(error.source)} is not given, and its leaf is in the log"
            raise self._wrong(batch, MISSING, text, [error.source], given) from error
        except DAMAGE as error:
            text = f"{_name(*sources)}: {type(error).__name__}: {error}"
            raise self._wrong(batch, kind, text, sources, given) from error

    def _wrong(
        self,
        batch: Batch,
        kind: str,
        text: str,
        sources: Sequence[bytes] = (),
        given: Connection | None = None,
    ) -> LogWrongError:
        nodes = tile_nodes(self._connection)
        nodes.replace(self._tiles)
        evidence = evidence_of(batch, sources, given, nodes, salt_secret(self._connection))
        return LogWrongError(kind, batch.base_size, batch.size, text, batch.checkpoint, evidence)


class _RefusedError(Exception):
    """The rules refuse a record where it stands."""


def _order(row: Any) -> tuple[object, ...]:
    """Sort records as the audit does, and epochs that were frozen in one moment by their days."""
    if row.purpose != RcpEpoch.PURPOSE:
        return (*record_order(row), 0)
    epoch = decode_message(decode_message(row.signed, Signed).body, RcpEpoch)
    return (*record_order(row), epoch.first_day)


def forget_changes(book: object) -> None:
    """Take what was written out of a book: all that its `new_...` and `changed_...` fields name."""
    assert dataclasses.is_dataclass(book)
    for item in dataclasses.fields(book):
        value = getattr(book, item.name)
        transient = ("consumed", "worked", "past", "minted")
        if item.name.startswith(("new_", "changed_")) or item.name in transient:
            value.clear()
        elif dataclasses.is_dataclass(value):
            forget_changes(value)


def _require(report: AuditReport) -> None:
    if report.problem_count:
        raise IntegrityError(report.problems[0])


def _name(*sources: bytes) -> str:
    kinds = {b"t": "transfer number", b"r": "the operation", b"b": "the binding"}
    if not sources:
        return "the batch"
    source = sources[0]
    shown = str(int.from_bytes(source[1:], "big")) if source[:1] == b"t" else source[1:].hex()[:32]
    return f"{kinds.get(source[:1], 'the record')} {shown}"
