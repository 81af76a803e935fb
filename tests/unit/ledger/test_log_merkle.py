"""The Merkle tree against known vectors, against RFC 6962's own definition, and against forgers."""

from __future__ import annotations

import functools
import hashlib
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.log import merkle
from ledger.log.errors import ProofError
from ledger.log.tiles import Place, TileNodes, append

SIZE_MAX = 130
MUTATIONS = 100_000 if os.environ.get("RESULTITY_SOAK") else 10_000

# The test tree of Certificate Transparency's reference implementations, and its roots.
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
LEAVES += ["606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def defined_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    left, right = defined_root(leaves[:k]), defined_root(leaves[k:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def tiles_of(count: int, step: int = 1000) -> TileNodes:
    kept: dict[Place, bytes] = {}
    nodes = TileNodes(lambda place: kept.get(place, b""))
    for start in range(0, count, step):
        data = [b"%d" % number for number in range(start, min(count, start + step))]
        nodes.replace(append(nodes, start, [merkle.leaf_hash(item) for item in data]))
    return nodes


@functools.cache
def tree() -> merkle.Nodes:
    return functools.cache(tiles_of(700, 37))


@functools.cache
def root(size: int) -> bytes:
    return merkle.tree_root(tree(), size)


def test_known_roots() -> None:
    nodes = TileNodes(lambda place: b"")
    assert merkle.tree_root(nodes, 0) == merkle.EMPTY_ROOT
    for size, (leaf, expected) in enumerate(zip(LEAVES, ROOTS, strict=True)):
        nodes.replace(append(nodes, size, [merkle.leaf_hash(bytes.fromhex(leaf))]))
        assert merkle.tree_root(nodes, size + 1).hex() == expected


def test_the_proofs_of_rfc_6962s_example() -> None:
    """Section 2.1.3: seven leaves d0 to d6, named as in its picture."""
    nodes = tiles_of(7)
    a, b, c, d, e, f, j = (nodes(0, index) for index in range(7))
    g, h, i = merkle.node_hash(a, b), merkle.node_hash(c, d), merkle.node_hash(e, f)
    k, last = merkle.node_hash(g, h), merkle.node_hash(i, j)
    assert merkle.inclusion_proof(nodes, 0, 7) == (b, h, last)
    assert merkle.inclusion_proof(nodes, 3, 7) == (c, g, last)
    assert merkle.inclusion_proof(nodes, 4, 7) == (f, j, k)
    assert merkle.inclusion_proof(nodes, 6, 7) == (i, k)
    assert merkle.consistency_proof(nodes, 3, 7) == (c, d, g, last)
    assert merkle.consistency_proof(nodes, 4, 7) == (last,)
    assert merkle.consistency_proof(nodes, 6, 7) == (i, j, k)


@pytest.mark.parametrize("size", [*range(1, 20), 255, 256, 257, 511, 512, 513, 699])
def test_the_root_is_the_one_that_the_rfc_defines(size: int) -> None:
    assert root(size) == defined_root([b"%d" % number for number in range(size)])


@pytest.mark.parametrize("step", [1, 3, 255, 256, 257, 70_000])
def test_the_size_of_the_steps_does_not_matter(step: int) -> None:
    count = 66_000 if step > 1000 else 600
    nodes, other = tiles_of(count, step), tiles_of(count, 999)
    assert merkle.tree_root(nodes, count) == merkle.tree_root(other, count)


def test_every_inclusion_proof() -> None:
    for size in range(1, SIZE_MAX + 1):
        for position in range(size):
            proof = merkle.inclusion_proof(tree(), position, size)
            assert len(proof) <= (size - 1).bit_length()
            leaf = merkle.leaf_hash(b"%d" % position)
            merkle.verify_inclusion(leaf, position, size, proof, root(size))


def test_every_consistency_proof() -> None:
    for new in range(SIZE_MAX + 1):
        for old in range(new + 1):
            proof = merkle.consistency_proof(tree(), old, new)
            merkle.verify_consistency(old, new, root(old), root(new), proof)


def test_no_mutated_proof_is_accepted() -> None:
    source = random.Random(6962)
    for _ in range(MUTATIONS // 2):
        size = source.randint(1, 700)
        position = source.randrange(size)
        proof = list(merkle.inclusion_proof(tree(), position, size))
        leaf = merkle.leaf_hash(b"%d" % position)
        hashes = mutated(source, [leaf, root(size), *proof])
        with pytest.raises(ProofError):
            merkle.verify_inclusion(hashes[0], position, size, hashes[2:], hashes[1])
    for _ in range(MUTATIONS // 2):
        new = source.randint(2, 700)
        old = source.randrange(1, new)
        proof = list(merkle.consistency_proof(tree(), old, new))
        hashes = mutated(source, [root(old), root(new), *proof])
        with pytest.raises(ProofError):
            merkle.verify_consistency(old, new, hashes[0], hashes[1], hashes[2:])


def mutated(source: random.Random, hashes: list[bytes]) -> list[bytes]:
    """Change something of leaf, root and proof that a verifier must notice.

    The sizes stay: one proof may serve several sizes with one root, and it is the checkpoint's
    signature that binds size and root.
    """
    choice = source.randrange(6 if len(hashes) > 2 else 4)
    at = source.randrange(len(hashes))
    hashes = list(hashes)
    if choice == 0:
        changed = bytearray(hashes[at])
        changed[source.randrange(32)] ^= 1 << source.randrange(8)
        hashes[at] = bytes(changed)
    elif choice == 1:
        hashes.insert(source.randint(2, len(hashes)), source.randbytes(32))
    elif choice == 2:
        hashes[at] = hashes[at][:-1]
    elif choice == 3:
        hashes[at] = source.randbytes(32)
    elif choice == 4:
        del hashes[source.randrange(2, len(hashes))]
    else:
        other = source.randrange(2, len(hashes))
        hashes[other] = merkle.leaf_hash(hashes[other])
    return hashes


def test_a_proof_for_another_leaf_or_size_is_refused() -> None:
    for size in range(2, 66):
        for position in range(size):
            proof = merkle.inclusion_proof(tree(), position, size)
            leaf = merkle.leaf_hash(b"%d" % position)
            for other in range(size):
                if other != position:
                    with pytest.raises(ProofError):
                        merkle.verify_inclusion(leaf, other, size, proof, root(size))
            with pytest.raises(ProofError):
                merkle.verify_inclusion(leaf, position, size, proof, root(size + 1))


@pytest.mark.parametrize(
    ("old", "new", "message"), [(3, 2, "not the size"), (-1, 2, "not the size")]
)
def test_sizes_out_of_order(old: int, new: int, message: str) -> None:
    with pytest.raises(ProofError, match=message):
        merkle.verify_consistency(old, new, root(2), root(2), ())
    with pytest.raises(ProofError, match=message):
        merkle.consistency_proof(tree(), old, new)


def test_edges_of_consistency() -> None:
    merkle.verify_consistency(0, 5, merkle.EMPTY_ROOT, root(5), ())
    with pytest.raises(ProofError, match="different roots"):
        merkle.verify_consistency(0, 5, root(1), root(5), ())
    with pytest.raises(ProofError, match="different roots"):
        merkle.verify_consistency(5, 5, root(5), root(6), ())
    with pytest.raises(ProofError, match="too long"):
        merkle.verify_consistency(5, 5, root(5), root(5), (root(1),))
    with pytest.raises(ProofError, match="too short"):
        merkle.verify_consistency(3, 5, root(3), root(5), ())
    with pytest.raises(ProofError, match="no leaf"):
        merkle.inclusion_proof(tree(), 5, 5)
    with pytest.raises(ProofError, match="no leaf"):
        merkle.verify_inclusion(root(1), 5, 5, (), root(5))
    with pytest.raises(ProofError, match="at most"):
        merkle.verify_inclusion(root(1), 0, 5, (root(1),) * 65, root(5))


@given(st.binary(max_size=64), st.lists(st.binary(min_size=32, max_size=32), max_size=8))
def test_random_proofs_are_refused(leaf: bytes, proof: list[bytes]) -> None:
    with pytest.raises(ProofError):
        merkle.verify_inclusion(merkle.leaf_hash(leaf + b"x"), 3, 7, proof, root(7))


def test_a_subtree_that_is_not_complete_cannot_be_asked_for() -> None:
    with pytest.raises(KeyError):
        tree()(10, 0)
