"""Owns keeping and reading what others say about the log: cosignatures and alarms; and finding out
whether a checkpoint is one of the log that is kept here."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, delete, func, insert, select

from ledger.errors import ValueRefusedError
from ledger.log.alarms import ALARMS_MAX, BelievedAlarm, fork_alarm
from ledger.log.errors import ProofError
from ledger.log.merkle import consistency_proof, tree_root
from ledger.log.notes import TreeHead
from ledger.log.witness import WitnessKey, verify_line
from ledger.store.log.proofs import checkpoint_message
from ledger.store.log.queries import (
    KeptCheckpoint,
    checkpoint_of_size,
    latest_checkpoint,
    tile_nodes,
)
from ledger.store.log.tables import LOG_CHECKPOINTS
from ledger.store.mirror.tables import ALARMS, COSIGNATURES
from ledger.store.tables import RECORDS
from p2p.codec import decode_message, encode_message
from p2p.log_messages import Checkpoint
from p2p.mirror_messages import AlarmNotice, Cosignature, LogAlarm
from p2p.signing import Signed
from p2p.types import NetworkId
from p2p.usage_messages import RcpEpoch

EPOCHS_MAX = 32
"""Epochs that are computed again at once."""


# --- cosignatures --------------------------------------------------------------------------------
def add_cosignature(
    connection: Connection, cosignature: Cosignature, witnesses: Sequence[WitnessKey]
) -> bool:
    """Keep a witness's line under a checkpoint of ours, the newest one of each witness and size.

    Returns: whether it is new. Raises: ValueRefusedError (no such checkpoint, not a witness that
        the configuration names, or the line does not verify).
    """
    row = connection.execute(
        select(LOG_CHECKPOINTS.c.note).where(LOG_CHECKPOINTS.c.size == cosignature.size)
    ).first()
    if row is None:
        raise ValueRefusedError(f"this log has no checkpoint of {cosignature.size} leaves")
    for key in witnesses:
        try:
            found = verify_line(row.note, cosignature.line, key)
        except ProofError:
            continue
        same = (COSIGNATURES.c.size == cosignature.size) & (COSIGNATURES.c.name == key.name)
        kept = connection.execute(select(COSIGNATURES.c.at_s).where(same)).scalar_one_or_none()
        if kept is not None and kept >= found.at_s:
            return False
        connection.execute(delete(COSIGNATURES).where(same))
        values = (cosignature.size, key.name, cosignature.line, found.at_s)
        connection.execute(insert(COSIGNATURES).values(values))
        return True
    raise ValueRefusedError("this is no cosignature of a witness that the configuration names")


# --- alarms --------------------------------------------------------------------------------------
def add_alarm(connection: Connection, found: BelievedAlarm, evidence: bytes) -> bool:
    """Keep an alarm with what it was raised over; tells whether it is new and was kept."""
    digest = found.notice.alarm.digest()
    known = connection.execute(select(ALARMS.c.digest).where(ALARMS.c.digest == digest)).first()
    count = connection.execute(select(func.count()).select_from(ALARMS)).scalar_one()
    if known is not None or count >= ALARMS_MAX:
        return False
    alarm = found.alarm
    notice = encode_message(found.notice)
    values = (digest, alarm.kind, alarm.size, notice, evidence, alarm.issued_ms)
    connection.execute(insert(ALARMS).values(values))
    return True


def kept_alarms(connection: Connection) -> list[AlarmNotice]:
    """Read all alarms, oldest first. Raises: MalformedError (a damaged row)."""
    rows = connection.execute(select(ALARMS.c.notice).order_by(ALARMS.c.at_ms, ALARMS.c.digest))
    return [decode_message(row.notice, AlarmNotice) for row in rows]


def kept_evidence(connection: Connection) -> list[tuple[bytes, bytes]]:
    """Read the evidence of the alarms that were raised here, by the alarms' digests."""
    rows = connection.execute(select(ALARMS.c.digest, ALARMS.c.evidence).order_by(ALARMS.c.at_ms))
    return [(row.digest, row.evidence) for row in rows if row.evidence]


def due_epochs(connection: Connection, before_ms: int) -> tuple[int, ...]:
    """Give the first days of the newest epochs that were frozen before a time."""
    rows = connection.execute(
        select(RECORDS.c.signed)
        .where(RECORDS.c.purpose == RcpEpoch.PURPOSE, RECORDS.c.at_ms < before_ms)
        .order_by(RECORDS.c.at_ms.desc())
        .limit(EPOCHS_MAX)
    ).scalars()
    bodies = [decode_message(signed, Signed).body for signed in rows]
    return tuple(sorted(decode_message(body, RcpEpoch).first_day for body in bodies))


# --- comparing -----------------------------------------------------------------------------------
def contradiction(
    connection: Connection,
    checkpoint: Checkpoint,
    head: TreeHead,
    network: NetworkId,
    now_ms: int,
    log_keys: Collection[bytes] = (),
) -> LogAlarm | None:
    """Compare a verified checkpoint with the log that is kept here; a larger one says nothing.

    Gives the proof of the fork if the first `head.size` leaves here have another root.
    """
    latest = latest_checkpoint(connection)
    if latest is None or head.size > latest.size or not head.size:
        return None
    nodes = tile_nodes(connection)
    own_root = tree_root(nodes, head.size)
    if own_root == head.root:
        return None
    same_size = checkpoint_of_size(connection, head.size)
    if same_size is not None:
        own = checkpoint_message(same_size)
        return fork_alarm(checkpoint, own, network, now_ms, log_keys=log_keys)
    return fork_alarm(
        checkpoint,
        checkpoint_message(latest),
        network,
        now_ms,
        old_root=own_root,
        proof=consistency_proof(nodes, head.size, latest.size),
        log_keys=log_keys,
    )


def cosignable(connection: Connection, last: TreeHead | None) -> KeptCheckpoint | None:
    """Give the newest checkpoint if a witness may cosign it, and has not done so yet.

    Args:
        last: what the witness cosigned last; the copy's tree must still start with it.
    Raises: ProofError if it does not: the copy is of another log than the witness vouched for.
    """
    latest = latest_checkpoint(connection)
    if latest is None or (last is not None and latest.size < last.size):
        return None  # the copy is being made again: wait until it is as large as it was
    if last is not None:
        if tree_root(tile_nodes(connection), last.size) != last.root:
            raise ProofError("the copy's tree is not the one that this witness has cosigned")
        if last.size == latest.size:
            return None
    return latest
