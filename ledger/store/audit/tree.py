"""Owns the audit of the log itself: leaves to tiles to roots to signed checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sqlalchemy import Connection, select

from ledger.errors import IntegrityError
from ledger.log.merkle import leaf_hash, tree_root
from ledger.log.notes import TreeHead, log_origin, open_checkpoint
from ledger.log.proofs import verify_log_key
from ledger.log.tiles import Place, TileNodes, append
from ledger.store.audit.report import AuditReport
from ledger.store.log.tables import LOG_CHECKPOINTS, LOG_KEYS, LOG_LEAVES, LOG_TILES
from p2p.codec import decode_message, decode_messages
from p2p.signing import Signed
from p2p.types import NetworkId

_PART = 2000


def audit_tree(
    connection: Connection,
    network: NetworkId,
    report: AuditReport,
    log_keys: Collection[bytes] = (),
) -> None:
    """Make the tree again from the leaves and compare tiles and checkpoints with it."""
    keys = _audit_keys(connection, network, report)
    tiles: dict[Place, bytes] = {}
    nodes = TileNodes(lambda place: tiles.get(place, b""))
    size = 0
    leaves = _leaves(connection, report)
    rows = connection.execute(select(LOG_CHECKPOINTS).order_by(LOG_CHECKPOINTS.c.size)).all()
    used = set()
    for row in rows:
        with report.reading(f"the checkpoint of size {row.size}"):
            wanted = row.size - size
            if wanted <= 0:
                raise IntegrityError("it does not go on from the one before")
            new = [leaf_hash(data) for _, data in zip(range(wanted), leaves, strict=False)]
            changed = append(nodes, size, new)
            nodes.replace(changed)
            tiles.update(changed)
            size += len(new)
            used.add(row.public_key)
            if row.public_key not in keys:
                raise IntegrityError("the log does not know its key")
            head = open_checkpoint(row.note, log_origin(network), row.public_key)
            if head != TreeHead(log_origin(network), row.size, tree_root(nodes, size)):
                raise IntegrityError("it is not over the leaves that are there")
            report.count("checkpoints")
    if next(leaves, None) is not None:
        report.problem("there are leaves that no checkpoint covers")
    for key in keys - set(log_keys) if log_keys else ():
        report.problem(f"log key {key.hex()[:16]} is not named by a given network configuration")
    for key in keys - used:
        report.problem(f"log key {key.hex()[:16]} has signed nothing")
    kept = {(r.level, r.number): r.hashes for r in connection.execute(select(LOG_TILES))}
    report.compare("the list of the log's tiles", set(kept), set(tiles))
    for place, hashes in kept.items():
        report.compare(f"tile {place} of the log", hashes, tiles.get(place))
    report.count("tiles", len(kept))


def _audit_keys(connection: Connection, network: NetworkId, report: AuditReport) -> set[bytes]:
    good: set[bytes] = set()
    for row in connection.execute(select(LOG_KEYS)):
        with report.reading(f"log key {row.public_key.hex()[:16]}"):
            items = decode_messages(row.chain)
            chain = tuple(item for item in items if isinstance(item, Signed))
            key = verify_log_key(decode_message(row.statement, Signed), chain, network)
            if key.public_key != row.public_key or len(chain) != len(items):
                raise IntegrityError("its row does not fit what the bootstrap signed")
            good.add(row.public_key)
    return good


def _leaves(connection: Connection, report: AuditReport) -> Iterator[bytes]:
    """Give the leaves' data in order; a gap is a problem."""
    position = 0
    while True:
        rows = connection.execute(
            select(LOG_LEAVES.c.position, LOG_LEAVES.c.commitment)
            .where(LOG_LEAVES.c.position >= position)
            .order_by(LOG_LEAVES.c.position)
            .limit(_PART)
        ).all()
        if not rows:
            return
        for row in rows:
            if row.position != position:
                report.problem(f"leaf {position} of the log is missing")
                position = row.position
            position += 1
            yield row.commitment
