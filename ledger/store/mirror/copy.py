"""Owns a mirror's copy of a ledger: every record is decided again before it is written down.

Theory of operation. The copy is a ledger of the same tables. It grows by whole batches of the log,
each in a transaction: the batch's leaves must be what the signed checkpoint covers, they must be
what the given records commit to, and every record must come out of the rules exactly as it is given
(`replay_record`, `replay_transfer`: the audit's own functions, on the book that the audit keeps in
memory, which holds what is live: accounts, keys, open holds). What the rules make is written by the
ledger's own `write_book`, so a new kind of operation comes along once the audit knows it. A batch
that is wrong changes nothing, and raises `LogWrongError` with the evidence.

Operations of accounts come before transfers in a batch, as the log's names sort; one that the rules
refuse is tried again after the others, and again with each batch that follows (a log that lags may
name an operation before what it needs): the transaction stays open until then. A start audits the
whole copy: that makes the book again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import Connection, update
from sqlalchemy.exc import SQLAlchemyError

from ledger.errors import IntegrityError
from ledger.store.audit.disputes import DisputeRows
from ledger.store.audit.report import Replay
from ledger.store.audit.whole import audit
from ledger.store.database import as_ledger_error, open_engine, prepare
from ledger.store.log.queries import salt_secret
from ledger.store.log.tables import SALT_SECRET
from ledger.store.log.writing import log_size
from ledger.store.mirror.batch import Batch, Scratch
from ledger.store.mirror.step import Step, forget_changes
from ledger.store.rcp_writing import load_frozen_day
from ledger.store.schema import newest_revision
from ledger.store.tables import META
from p2p.mirror_messages import MirrorWelcome
from p2p.types import NetworkId


class KnownKeys(NamedTuple):
    """Keys that count by the network configuration, now or ever (`log_keys` empty: not named)."""

    mint_keys: Collection[bytes]
    dispute_keys: Collection[bytes] = ()
    log_keys: Collection[bytes] = ()


class MirrorCopy:
    """The database of a mirror. Used by one thread at a time."""

    def __init__(self, url: str, network: NetworkId) -> None:
        """Keep the copy in this database (`sqlite:///...` or `postgresql+psycopg://...`)."""
        self._network = network
        self.engine = open_engine(url, writer=True)
        self._scratch = Scratch()
        self._replay: Replay | None = None
        self._connection: Connection | None = None
        self._step: Step | None = None

    def prepare(self) -> None:
        """Make or upgrade the tables. Raises: IntegrityError, StorageError."""
        prepare(self.engine, self._network)

    def close(self) -> None:
        """Let go of the database."""
        self._roll_back()
        self.engine.dispose()
        self._scratch.close()

    def adopt(self, welcome: MirrorWelcome) -> None:
        """Take over the secret of the leaves' salts before the first batch.

        Raises: IntegrityError if the other side is of another network or has other tables, or the
            secret is not the one that this copy was made with.
        """
        if welcome.network_id != self._network:
            raise IntegrityError(f"these are records of the network {welcome.network_id}")
        if welcome.revision != newest_revision():
            raise IntegrityError(
                f"the records are of tables of version {welcome.revision}, this program has "
                f"{newest_revision()}: both sides must run the same version of Resultity"
            )
        with self._transaction() as connection:
            if log_size(connection):
                if salt_secret(connection) != welcome.salt_secret:
                    raise IntegrityError("the leaves' salts come from another secret than before")
                return
            value = welcome.salt_secret.hex()
            connection.execute(update(META).where(META.c.name == SALT_SECRET).values(value=value))

    def size(self) -> int:
        """Give how many leaves the copy has, with those held back. Raises: StorageError."""
        if self._step is not None:
            return self._step.size
        with self._transaction() as connection:
            return log_size(connection)

    def load(self, keys: KnownKeys) -> None:
        """Audit the copy, which makes the book again. Raises: IntegrityError, StorageError."""
        replay = Replay(self._network, frozenset(keys.mint_keys))
        with self._transaction() as connection:
            report = audit(
                connection,
                self._network,
                keys.mint_keys,
                keys.dispute_keys,
                log_keys=keys.log_keys,
                replay=replay,
            )
            replay.book.frozen_day = load_frozen_day(connection, lock=False)
        if report.problem_count:
            raise IntegrityError(f"this mirror's own copy is damaged: {report.problems[0]}")
        forget_changes(replay.book)
        self._replay = replay

    def apply(self, batch: Batch, keys: KnownKeys) -> bool:
        """Check the batch that follows, and write it down.

        Returns: False if an operation in it needs something that a later batch has to bring; until
            then nothing is committed, and nobody else sees it.
        Raises: LogWrongError (the log or its records are wrong), StorageError, IntegrityError (our
            own copy). Whatever fails, the copy is as it was when it was last committed.
        """
        step = self._begin(keys)
        try:
            step.run(batch)
            if step.waits:
                return False
            self._commit()
        except BaseException as error:
            self._roll_back()
            if isinstance(error, SQLAlchemyError):
                raise as_ledger_error(error) from error
            raise
        return True

    def give_up(self) -> None:
        """Nothing follows: what still waits is wrong. Raises: LogWrongError."""
        try:
            if self._step is not None:
                self._step.give_up()
        finally:
            self._roll_back()

    @property
    def waits(self) -> bool:
        """Whether batches are held back until a later one brings what they need."""
        return self._step is not None

    def _begin(self, keys: KnownKeys) -> Step:
        if self._step is not None:
            return self._step
        if self._replay is None:
            self.load(keys)
        replay = self._replay
        assert replay is not None
        replay.mint_keys = replay.mint_keys | frozenset(keys.mint_keys)
        replay.dispute_keys = replay.dispute_keys | frozenset(keys.dispute_keys)
        try:
            self._connection = connection = self.engine.connect()
            connection.begin()
            replay.dispute_rows = DisputeRows(connection)
            self._step = Step(connection, replay, self._scratch, self._network, keys.log_keys)
        except SQLAlchemyError as error:
            self._roll_back()
            raise as_ledger_error(error) from error
        return self._step

    def _commit(self) -> None:
        connection, self._connection, self._step = self._connection, None, None
        assert connection is not None
        with connection:
            connection.commit()

    def _roll_back(self) -> None:
        """Forget what is not committed; the book has seen it, so it is made again."""
        connection, self._connection = self._connection, None
        if self._step is not None:
            self._step, self._replay = None, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise as_ledger_error(error) from error
