"""Owns making proofs from the database: which leaves somebody may see, and the way to the root."""

from __future__ import annotations

from sqlalchemy import Connection, select

from ledger.errors import NotAuthorizedError, ValueRefusedError
from ledger.log.leaves import LoggedTransfer, Opening, salt_of, transfer_openings
from ledger.log.merkle import consistency_proof, inclusion_proof
from ledger.log.sources import RECORD, TRANSFER, kind_of, number_of
from ledger.log.tiles import TileNodes
from ledger.store.claim_store import paid_legs
from ledger.store.loading import account_of
from ledger.store.log.queries import (
    KeptCheckpoint,
    cosigned_checkpoint,
    latest_checkpoint,
    logged_transfers,
    openings_of,
    positions_of,
    salt_secret,
    subject_sources,
    tile_nodes,
)
from ledger.store.tables import RECORDS
from p2p.codec import decode_message, decode_messages, encode_message
from p2p.log_messages import Checkpoint, ConsumerLeg, Inclusion, InclusionReply, OperatorLeg
from p2p.signing import Signed
from p2p.types import peer_id_from_public_key

_NOTHING = "there is no logged transfer or record of this ID that this key may see"


def checkpoint_message(kept: KeptCheckpoint) -> Checkpoint:
    """Give a kept checkpoint as it is sent."""
    chain = tuple(item for item in decode_messages(kept.chain) if isinstance(item, Signed))
    return Checkpoint(kept.note, decode_message(kept.statement, Signed), chain)


def consistency(connection: Connection, old_size: int, new_size: int) -> bytes:
    """Prove that the log only grew: the proof's hashes, one after another.

    Raises: ValueRefusedError if the log is smaller, ProofError if the sizes are not in order.
    """
    latest = latest_checkpoint(connection)
    if latest is None or new_size > latest.size:
        raise ValueRefusedError(f"the log has {latest.size if latest else 0} leaves")
    return b"".join(consistency_proof(tile_nodes(connection), old_size, new_size))


def inclusion_reply(connection: Connection, subject: bytes, asker: bytes | None) -> InclusionReply:
    """Open the leaves of a subject that somebody may see, under the newest checkpoint.

    Args:
        subject: a transfer's ID, or a record's digest (`p2p.log_messages.InclusionRequest`).
        asker: the public key that asks; None is the holder of the database, who sees all.
    Raises: NotAuthorizedError (nothing to see, or nothing there), ValueRefusedError (not yet
        logged: ask again in a second).
    """
    latest = latest_checkpoint(connection)
    opened: list[tuple[Opening, int]] = []
    waiting = latest is None
    sources = subject_sources(connection, subject)
    for source in sources:
        openings = _visible(connection, source, asker)
        if not openings:
            continue
        positions = positions_of(connection, source)
        waiting = waiting or not positions
        opened += [(opening, positions[part]) for part, opening in openings if part in positions]
    if latest is not None and opened:
        # One that witnesses vouch for is worth more than the newest, if it covers the leaves.
        last = max(position for _, position in opened)
        head = cosigned_checkpoint(connection, last + 1) or latest
        secret, nodes = salt_secret(connection), tile_nodes(connection)
        found = [_inclusion(opening, secret, nodes, at, head.size) for opening, at in opened]
        return InclusionReply(tuple(found), checkpoint_message(head))
    if waiting and sources:
        raise ValueRefusedError("this is not in the log yet: ask again in a second")
    raise NotAuthorizedError(_NOTHING)


def _inclusion(
    opening: Opening, secret: bytes, nodes: TileNodes, position: int, size: int
) -> Inclusion:
    encoded = encode_message(opening)
    proof = inclusion_proof(nodes, position, size)
    return Inclusion(encoded, salt_of(secret, encoded), position, proof)


def _visible(
    connection: Connection, source: bytes, asker: bytes | None
) -> list[tuple[int, Opening]]:
    if kind_of(source) == RECORD:
        row = connection.execute(
            select(RECORDS.c.account_id).where(RECORDS.c.digest == source[1:])
        ).first()
        if row is None or not _signs_for(connection, row.account_id, asker):
            return []
        return list(enumerate(openings_of(connection, [source])[source]))
    assert kind_of(source) == TRANSFER
    transfers = logged_transfers(connection, [number_of(source)])
    return [
        (part, opening)
        for transfer in transfers
        for part, opening in enumerate(transfer_openings(transfer))
        if _may_see(connection, transfer, opening, asker)
    ]


def _may_see(
    connection: Connection, transfer: LoggedTransfer, opening: Opening, asker: bytes | None
) -> bool:
    if asker is None:
        return True
    if isinstance(opening, ConsumerLeg):
        return _signs_for(connection, opening.namespace.partition("/")[0], asker)
    assert isinstance(opening, OperatorLeg)
    kind, _, account_id = opening.account.partition(":")
    if _signs_for(connection, account_id, asker):
        return True
    if kind == "fees":
        hold = transfer.hold
        return hold is not None and hold.gateway_id == peer_id_from_public_key(asker)
    return kind == "earnings" and opening.evidence in _receipts_of(transfer, asker)


def _signs_for(connection: Connection, account_id: str, asker: bytes | None) -> bool:
    if asker is None:
        return True
    account = account_of(connection, account_id) if account_id else None
    return account is not None and asker in account.signing_keys


def _receipts_of(transfer: LoggedTransfer, node_key: bytes) -> set[bytes]:
    legs = paid_legs(transfer.request)
    return {leg.receipt.digest() for leg in legs if leg.receipt.signer == node_key}
