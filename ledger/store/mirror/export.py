"""Owns exports: the ledger's records in the order of its log in one file, and auditing such a file.

A file is a line that names the format, then frames (`p2p.wire`): a MirrorWelcome, and the pages
that a mirror would get. It is read as a mirror reads them, into a database that is thrown away.
What waits for the log is not in it; nor are counters and balances, which the rules make again. It
holds what API keys are checked with: it is made readable for its owner only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from ledger.errors import LedgerError, StorageError
from ledger.store.audit.report import AuditReport
from ledger.store.audit.whole import audit
from ledger.store.database import as_ledger_error, open_engine
from ledger.store.log.tables import LOG_PENDING
from ledger.store.mirror.batch import Assembly, Batch
from ledger.store.mirror.copy import KnownKeys, MirrorCopy
from ledger.store.mirror.records import batch_pages, welcome
from p2p.codec import Message, decode_any_message, encode_message
from p2p.errors import MalformedError, P2PError
from p2p.mirror_messages import MirrorWelcome, RecordsPage
from p2p.types import NetworkId
from p2p.wire import FrameDecoder, encode_frame

FORMAT = b"resultity/ledger-export/1\n"
FILE_MODE = 0o600
_READ_BYTES = 1 << 20


def is_export(path: Path) -> bool:
    """Tell whether a file is an export. Raises: OSError."""
    with path.open("rb") as file:
        return file.read(len(FORMAT)) == FORMAT


def write_export(url: str, path: Path, network: NetworkId) -> tuple[int, int]:
    """Write all records that are logged into a new file, from one snapshot.

    Returns: how many leaves are in it, and how many sources wait for the log and are not.
    Raises: StorageError (the file exists or cannot be written, the database), MalformedError.
    """
    engine = open_engine(url, writer=False)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file, engine.begin() as connection:
            head = welcome(connection, network)
            file.write(FORMAT)
            _write(file, head)
            size = 0
            while size < head.log_size:
                for page in batch_pages(connection, size):
                    _write(file, page)
                    following = page.size
                size = following
            waiting = connection.execute(select(func.count()).select_from(LOG_PENDING))
            file.flush()
            os.fsync(file.fileno())
            return size, waiting.scalar_one()
    except FileExistsError as error:
        raise StorageError(f"{path} exists already, and is never written over") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
    except SQLAlchemyError as error:
        raise as_ledger_error(error) from error
    finally:
        engine.dispose()


def audit_export(path: Path, network: NetworkId, keys: KnownKeys) -> AuditReport:
    """Check an export: every record against the rules, its leaves, the tree and the checkpoints.

    Raises: StorageError (the file cannot be read).
    """
    report = AuditReport()
    with tempfile.TemporaryDirectory(prefix="resultity-audit-") as folder:
        url = f"sqlite:///{Path(folder) / 'ledger.sqlite'}"
        copy = MirrorCopy(url, network)
        try:
            copy.prepare()
            _replay(path, copy, keys)
            with copy.engine.begin() as connection:
                report = audit(
                    connection, network, keys.mint_keys, keys.dispute_keys, log_keys=keys.log_keys
                )
        except StorageError:
            raise
        except (LedgerError, P2PError) as error:
            report.problem(str(error))
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}") from error
        finally:
            copy.close()
    return report


def _replay(path: Path, copy: MirrorCopy, keys: KnownKeys) -> None:
    messages = _messages(path)
    head = next(messages, None)
    if not isinstance(head, MirrorWelcome):
        raise MalformedError(f"{path} is not an export of a ledger")
    copy.adopt(head)
    size = 0
    for batch in _batches(messages):
        if batch.base_size != size:
            raise MalformedError(f"the records from leaf {size} on are missing in {path}")
        size = batch.size
        copy.apply(batch, keys)
    copy.give_up()
    if size != head.log_size:
        raise MalformedError(f"{path} ends after leaf {size}, its log has {head.log_size}")


def _batches(messages: Iterator[Message]) -> Iterator[Batch]:
    assembly = Assembly()
    for item in messages:
        if not isinstance(item, RecordsPage):
            raise MalformedError(f"a {type(item).__name__} where records belong")
        batch = assembly.add(item)
        if batch is not None:
            assembly = Assembly()
            yield batch


def _messages(path: Path) -> Iterator[Message]:
    decoder = FrameDecoder()
    with path.open("rb") as file:
        if file.read(len(FORMAT)) != FORMAT:
            raise MalformedError(f"{path} is not an export of a ledger")
        while data := file.read(_READ_BYTES):
            for frame in decoder.feed(data):
                yield decode_any_message(frame)
    if decoder.bytes_pending:
        raise MalformedError(f"{path} ends in the middle of a record")


def _write(file: BinaryIO, item: Message) -> None:
    file.write(encode_frame(encode_message(item)))
