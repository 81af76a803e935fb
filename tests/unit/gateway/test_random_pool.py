"""The supply of random bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.random_pool import POOL_BYTES, RandomPool


@given(st.lists(st.integers(1, 3000), max_size=40))
def test_every_byte_is_given_once(sizes: list[int]) -> None:
    position = 0

    def source(size_bytes: int) -> bytes:
        """A stream in which no four aligned bytes come twice."""
        nonlocal position
        start, position = position, position + size_bytes // 4 + 1
        return b"".join(n.to_bytes(4, "big") for n in range(start, position))[:size_bytes]

    pool = RandomPool(source)
    words: list[bytes] = []
    for size in sizes:
        data = pool(size * 4)
        assert len(data) == size * 4
        words += [data[i : i + 4] for i in range(0, len(data), 4)]
    assert len(set(words)) == len(words)
    assert position * 4 >= sum(sizes) or not sizes
    assert POOL_BYTES % 4 == 0


def test_real_bytes_differ() -> None:
    pool = RandomPool()
    assert len({pool(16) for _ in range(2000)}) == 2000
