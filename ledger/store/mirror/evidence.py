"""Owns what a mirror keeps when a log is wrong: the batch's page with the records in question, and
the inclusion of their leaves under the signed checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ledger.errors import LedgerError
from ledger.log.errors import ProofError
from ledger.log.leaves import leaf_data, salt_of
from ledger.log.merkle import inclusion_proof
from ledger.log.tiles import TileNodes
from ledger.store.mirror.batch import Batch, read_records
from ledger.store.mirror.records import pack_items, source_items
from p2p.codec import Message, encode_message, encode_messages
from p2p.errors import P2PError
from p2p.log_messages import Checkpoint, Inclusion
from p2p.mirror_messages import RecordsPage

EVIDENCE_BYTES_MAX = 900 * 1024
LEAVES_IN_EVIDENCE_MAX = 4096


class LogWrongError(LedgerError):
    """The log that is followed is wrong.

    `kind` is one of `ledger.log.alarms`, `base_size` and `size` say which batch, `checkpoint` is
    signed over it, `evidence` is encoded messages (a RecordsPage, then Inclusions).
    """

    code = "log_wrong"

    def __init__(
        self,
        kind: str,
        base_size: int,
        size: int,
        text: str,
        checkpoint: Checkpoint,
        evidence: bytes,
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.base_size = base_size
        self.size = size
        self.checkpoint = checkpoint
        self.evidence = evidence


def evidence_of(
    batch: Batch,
    sources: Sequence[bytes],
    given: Connection | None,
    nodes: TileNodes,
    secret: bytes,
) -> bytes:
    """Put together what shows that a record of a batch is wrong, within EVIDENCE_BYTES_MAX."""
    commitments = batch.commitments[:LEAVES_IN_EVIDENCE_MAX]
    items = []
    inclusions: list[Message] = []
    if given is not None and sources:
        try:
            items = [item for part in source_items(given, sources).values() for item in part]
            inclusions += _inclusions(batch, sources, given, nodes, secret)
        except (SQLAlchemyError, LedgerError, P2PError, LookupError, ArithmeticError):
            pass  # the rows are what is wrong: the page below has them as far as they can be read
    page = RecordsPage(
        batch.base_size,
        batch.size,
        batch.checkpoint,
        0,
        0,
        0,
        0,
        b"".join(commitments),
        tuple(sources),
        pack_items(items),
    )
    found = encode_messages([page, *inclusions])
    return found if len(found) <= EVIDENCE_BYTES_MAX else encode_message(batch.checkpoint)


def _inclusions(
    batch: Batch,
    sources: Sequence[bytes],
    given: Connection,
    nodes: TileNodes,
    secret: bytes,
) -> list[Inclusion]:
    found = []
    for openings in read_records(given, sources).openings.values():
        for opening in openings:
            encoded = encode_message(opening)
            data = leaf_data(secret, opening)
            if data not in batch.commitments:
                continue
            position = batch.base_size + batch.commitments.index(data)
            try:
                proof = inclusion_proof(nodes, position, batch.size)
            except (ProofError, KeyError):
                continue
            found.append(Inclusion(encoded, salt_of(secret, encoded), position, proof))
    return found
