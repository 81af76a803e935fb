"""Owns making a batch: from openings to leaves, tiles and a signed checkpoint. Pure.

The leaves of a batch are in the order of their data, which is as good as random: their places do
not tell which leaves of a batch belong to one transfer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ledger.log.batch import Leaf, LogBatch
from ledger.log.leaves import Opening, leaf_data
from ledger.log.merkle import leaf_hash, tree_root
from ledger.log.notes import TreeHead, sign_checkpoint
from ledger.log.tiles import TileNodes, append
from p2p.codec import encode_message, encode_messages
from p2p.signing import KeyPair, Signed


@dataclass(frozen=True, slots=True)
class LogSigner:
    """A log key with what makes it count: the bootstrap's LogKey and its certificate chain."""

    origin: str
    key_pair: KeyPair
    statement: Signed
    chain: tuple[Signed, ...]


def make_batch(
    base_size: int,
    openings: Mapping[bytes, Sequence[Opening]],
    secret: bytes,
    nodes: TileNodes,
    signer: LogSigner,
) -> LogBatch:
    """Make the batch that appends these sources' openings to a log of `base_size` leaves."""
    leaves = [
        Leaf(source, part, leaf_data(secret, opening))
        for source, parts in openings.items()
        for part, opening in enumerate(parts)
    ]
    leaves.sort(key=lambda leaf: leaf.commitment)
    changed = append(nodes, base_size, [leaf_hash(leaf.commitment) for leaf in leaves])
    nodes.replace(changed)
    size = base_size + len(leaves)
    head = TreeHead(signer.origin, size, tree_root(nodes, size))
    return LogBatch(
        base_size,
        tuple(openings),
        tuple(leaves),
        tuple(changed.items()),
        sign_checkpoint(head, signer.key_pair),
        signer.key_pair.public_key,
        encode_message(signer.statement),
        encode_messages(signer.chain),
    )
