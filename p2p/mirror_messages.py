"""Owns the messages of mirrors and witnesses: the ledger's records in log order, cosignatures, and
alarms about a log that contradicts itself.

A page carries the rows of the ledger's tables behind one batch of the log, or a part of them. Rows
are msgpack lists in the order of the table's columns, so both sides must have the same revision of
the tables (`MirrorWelcome.revision`). The same pages, each in a frame, are what `resultity ledger
export` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, message
from p2p.job_messages import Digest
from p2p.limits import CERTIFICATES_MAX, FRAME_BYTES_MAX, NAME_CHARACTERS_MAX
from p2p.log_messages import NOTE_BYTES_MAX, Checkpoint, Position
from p2p.signing import Document, Signed

TABLES_PER_PAGE_MAX = 64
SOURCES_PER_BATCH_MAX = 65_536
SOURCE_BYTES_MAX = 512
WITNESS_LINE_BYTES_MAX = 512
ALARM_TEXT_CHARACTERS_MAX = 400


@message(140)
@dataclass(frozen=True, slots=True)
class RecordsRequest(Message):
    """Asks for the batch after the first `size` leaves, from its source number `source` on, and of
    that source from row number `row` on."""

    size: Position
    source: Position = 0
    row: Position = 0


@message(141)
@dataclass(frozen=True, slots=True)
class TableRows(Message):
    """Rows of one table: a msgpack list of lists."""

    table: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    rows: Annotated[bytes, Limit(FRAME_BYTES_MAX)]


@message(142)
@dataclass(frozen=True, slots=True)
class RecordsPage(Message):
    """One batch of the log, or a part: the records of sources `source` and following.

    `commitments` are the leaves' data, one after another, and `sources` the names of what they
    commit to; both stand in the batch's first page only. `next_source` is 0 in the last page.
    """

    base_size: Position
    size: Position
    checkpoint: Checkpoint
    source: Position
    row: Position
    next_source: Position
    next_row: Position
    commitments: Annotated[bytes, Limit(FRAME_BYTES_MAX)]
    sources: Annotated[
        tuple[Annotated[bytes, Limit(SOURCE_BYTES_MAX)], ...], Limit(SOURCES_PER_BATCH_MAX)
    ]
    rows: Annotated[tuple[TableRows, ...], Limit(TABLES_PER_PAGE_MAX)]


@message(143)
@dataclass(frozen=True, slots=True)
class MirrorWelcome(Message):
    """What a mirror must know to check leaves: the revision of the tables, the salts' secret."""

    network_id: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    revision: Annotated[str, Limit(16)]
    salt_secret: Annotated[bytes, Limit(32, 32)]
    log_size: Position


@message(144)
@dataclass(frozen=True, slots=True)
class Cosignature(Message):
    """A witness's signature line under the checkpoint of a size (C2SP tlog-cosignature)."""

    size: Position
    line: Annotated[bytes, Limit(WITNESS_LINE_BYTES_MAX)]


@message(145)
@dataclass(frozen=True, slots=True)
class LogAlarm(Document):
    """Somebody found the log wrong. Signed by a mirror, or by any certified peer if it is a proof.

    `kind` is `fork` (a proof that needs no trust): `first` and `second` are signed by log keys, and
    the tree under `second` does not start with the tree under `first`; `old_root` is what it does
    start with, and `proof` the consistency proof for that (both empty for equal sizes). Other kinds
    (`rule`, `leaf`, `missing`, `rollback`) are the signer's word; the evidence is with the signer.
    """

    PURPOSE: ClassVar[str] = "log-alarm"
    kind: Annotated[str, Limit(32)]
    size: Position
    other_size: Position
    text: Annotated[str, Limit(ALARM_TEXT_CHARACTERS_MAX)]
    first: Checkpoint | None
    second: Checkpoint | None
    old_root: Annotated[bytes, Limit(32)]
    proof: Annotated[tuple[Digest, ...], Limit(64)]
    issued_ms: int


@message(146)
@dataclass(frozen=True, slots=True)
class AlarmNotice(Message):
    """An alarm with its signer's certificate chain."""

    alarm: Signed
    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX)]


@message(147)
@dataclass(frozen=True, slots=True)
class Growth(Message):
    """The proof that the tree of `old_size` leaves is the start of the tree of `new_size`."""

    old_size: Position
    new_size: Position
    proof: Annotated[tuple[Digest, ...], Limit(64)]


assert NOTE_BYTES_MAX > 8 * WITNESS_LINE_BYTES_MAX
