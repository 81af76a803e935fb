"""Owns how the tree is kept: tiles of 256 hashes, as C2SP tlog-tiles cuts them. Pure.

Theory of operation. Tile (L, i) holds the hashes of the complete subtrees of level 8 * L from
number 256 * i on; the last tile of a level may be partial. Hashes between two tile levels are not
kept: they are computed from a tile, at most 255 hashings each. A proof in a tree of a million
leaves reads at most seven tiles, and an append writes the last tile of each level again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ledger.log.merkle import HASH_BYTES, node_hash

TILE_HEIGHT = 8
TILE_HASHES = 1 << TILE_HEIGHT

Place = tuple[int, int]
"""(tile level, number in that level)."""
Tiles = Callable[[Place], bytes]
"""Gives a tile's hashes, one after another; empty if there is no such tile."""


class TileNodes:
    """Gives hashes of complete subtrees (`merkle.Nodes`) from tiles, reading each tile once."""

    def __init__(self, tiles: Tiles) -> None:
        """Read from these tiles."""
        self._tiles = tiles
        self._seen: dict[Place, bytes] = {}
        self._made: dict[tuple[int, int], bytes] = {}
        """Hashes that were computed: the proofs of one reply have their upper parts in common."""

    def __call__(self, level: int, index: int) -> bytes:
        """Give one hash. Raises: KeyError if the tiles do not hold that subtree."""
        found = self._made.get((level, index))
        if found is None:
            found = self._made[level, index] = self._make(level, index)
        return found

    def _make(self, level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        first = index << height
        number, offset = divmod(first, TILE_HASHES)
        hashes = self.tile((tile_level, number))
        begin, end = offset * HASH_BYTES, (offset + (1 << height)) * HASH_BYTES
        if len(hashes) < end:
            raise KeyError(f"the log's tiles hold no subtree {index} of level {level}")
        row = [hashes[at : at + HASH_BYTES] for at in range(begin, end, HASH_BYTES)]
        return _fold(row)

    def tile(self, place: Place) -> bytes:
        """Give a whole tile."""
        found = self._seen.get(place)
        if found is None:
            found = self._seen[place] = self._tiles(place)
        return found

    def replace(self, changed: dict[Place, bytes]) -> None:
        """Take over tiles that were changed by `append`."""
        self._seen.update(changed)
        # What was computed stays right: a subtree is only given once it is complete.


def append(nodes: TileNodes, size: int, hashes: Sequence[bytes]) -> dict[Place, bytes]:
    """Add leaf hashes to a tree of `size` leaves; gives each new or changed tile whole."""
    changed: dict[Place, bytes] = {}
    level, count, new = 0, size, list(hashes)
    while new:
        parents: list[bytes] = []
        at = 0
        while at < len(new):
            number, filled = divmod(count, TILE_HASHES)
            before = nodes.tile((level, number)) if filled else b""
            assert len(before) == filled * HASH_BYTES
            part = new[at : at + TILE_HASHES - filled]
            whole = before + b"".join(part)
            changed[(level, number)] = whole
            if len(whole) == TILE_HASHES * HASH_BYTES:
                parents.append(tile_root(whole))
            at += len(part)
            count += len(part)
        level, count, new = level + 1, size >> TILE_HEIGHT * (level + 1), parents
    return changed


def tile_root(tile: bytes) -> bytes:
    """Hash a full tile into the one hash that stands for it a level higher."""
    return _fold([tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)])


def _fold(row: list[bytes]) -> bytes:
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]
