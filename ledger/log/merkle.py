"""Owns the Merkle tree of the log: hashes, inclusion and consistency proofs. Pure.

Theory of operation. The tree is that of RFC 6962 section 2.1 (RFC 9162 section 2.1 says the same):
a leaf's hash is SHA-256(0x00 || data), a node's SHA-256(0x01 || left || right), and a tree of n
leaves splits at the largest power of two below n. So every tree is made of complete subtrees, which
never change again: `Nodes` gives their hashes, and roots and proofs need only about log2(n) of
them. The verifying side is the iterative algorithm of RFC 9162 (2.1.3.2 and 2.1.4.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from ledger.log.errors import ProofError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
PROOF_HASHES_MAX = 64
"""A tree has fewer than 2**63 leaves."""

Nodes = Callable[[int, int], bytes]
"""(level, index) -> hash of the complete subtree over leaves index * 2**level and following."""


def leaf_hash(data: bytes) -> bytes:
    """Hash a leaf's data."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into one."""
    return hashlib.sha256(b"\1" + left + right).digest()


def split_point(count: int) -> int:
    """Give the largest power of two below `count` (at least 2)."""
    return 1 << (count - 1).bit_length() - 1


def range_hash(nodes: Nodes, begin: int, end: int) -> bytes:
    """Hash the leaves from `begin` up to `end` as one tree.

    Args:
        begin: a multiple of the smallest power of two that is at least `end - begin`.
    """
    count = end - begin
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return nodes(level, begin >> level)
    middle = begin + split_point(count)
    return node_hash(range_hash(nodes, begin, middle), range_hash(nodes, middle, end))


def tree_root(nodes: Nodes, size: int) -> bytes:
    """Give the root of the tree of the first `size` leaves."""
    return range_hash(nodes, 0, size) if size else EMPTY_ROOT


def inclusion_proof(nodes: Nodes, position: int, size: int) -> tuple[bytes, ...]:
    """Prove that a leaf is in the tree of `size` leaves (RFC 9162, 2.1.3.1).

    Raises: ProofError if the tree has no such leaf.
    """
    if not 0 <= position < size:
        raise ProofError(f"a tree of {size} leaves has no leaf {position}")
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + split_point(end - begin)
        if position < middle:
            path.append(range_hash(nodes, middle, end))
            end = middle
        else:
            path.append(range_hash(nodes, begin, middle))
            begin = middle
    return tuple(reversed(path))


def consistency_proof(nodes: Nodes, old_size: int, new_size: int) -> tuple[bytes, ...]:
    """Prove that the tree of `old_size` leaves is the start of the larger (RFC 9162, 2.1.4.1).

    Raises: ProofError if the sizes are not in order.
    """
    if not 0 <= old_size <= new_size:
        raise ProofError(f"{old_size} is not the size of an earlier tree than {new_size}")
    if old_size in (0, new_size):
        return ()
    path: list[bytes] = []
    begin, end, complete = 0, new_size, True
    while old_size != end:
        middle = begin + split_point(end - begin)
        if old_size <= middle:
            path.append(range_hash(nodes, middle, end))
            end = middle
        else:
            path.append(range_hash(nodes, begin, middle))
            begin, complete = middle, False
    if not complete:
        path.append(range_hash(nodes, begin, end))
    return tuple(reversed(path))


def verify_inclusion(
    leaf: bytes, position: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf with this hash is in the tree with this root (RFC 9162, 2.1.3.2).

    Raises: ProofError.
    """
    if not 0 <= position < size:
        raise ProofError(f"a tree of {size} leaves has no leaf {position}")
    _check_lengths(leaf, root, *proof)
    number, last, result = position, size - 1, leaf
    for step in proof:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if number & 1 or number == last:
            result = node_hash(step, result)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            result = node_hash(result, step)
        number, last = number >> 1, last >> 1
    if last != 0:
        raise ProofError("the inclusion proof is too short")
    if result != root:
        raise ProofError("the inclusion proof does not lead to the root")


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree with the old root is the start of the other (RFC 9162, 2.1.4.2).

    Raises: ProofError.
    """
    if not 0 <= old_size <= new_size:
        raise ProofError(f"{old_size} is not the size of an earlier tree than {new_size}")
    _check_lengths(old_root, new_root, *proof)
    if old_size in (0, new_size):
        if proof:
            raise ProofError("the consistency proof is too long")
        if old_root != (new_root if old_size else EMPTY_ROOT):
            raise ProofError("two trees of one size have different roots")
        return
    _verify_growth(old_size, new_size, old_root, new_root, proof)


def _verify_growth(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise ProofError("the consistency proof is too short")
    number, last = old_size - 1, new_size - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    old_result = new_result = path[0]
    for step in path[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if number & 1 or number == last:
            old_result = node_hash(step, old_result)
            new_result = node_hash(step, new_result)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            new_result = node_hash(new_result, step)
        number, last = number >> 1, last >> 1
    if last != 0:
        raise ProofError("the consistency proof is too short")
    if old_result != old_root:
        raise ProofError("the consistency proof does not lead to the old root")
    if new_result != new_root:
        raise ProofError("the consistency proof does not lead to the new root")


def _check_lengths(*hashes: bytes) -> None:
    if len(hashes) > PROOF_HASHES_MAX + 2 or any(len(item) != HASH_BYTES for item in hashes):
        raise ProofError(f"a proof holds at most {PROOF_HASHES_MAX} hashes of {HASH_BYTES} bytes")
