"""The bytes that a relay gives away in a day."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.limits import RELAY_NODE_SHARE
from p2p.reaching.relay import MS_PER_DAY, RelayBudget, RelayCaps
from p2p.types import PeerId

ONE, OTHER = PeerId("one"), PeerId("other")


def test_a_node_has_its_part_and_a_day_its_end() -> None:
    budget = RelayBudget(RelayCaps(bytes_per_day=1000))
    share = 1000 // RELAY_NODE_SHARE
    assert budget.left(ONE, 0) == share
    assert not budget.take(ONE, share + 1, 0)
    assert budget.take(ONE, share, 0)
    assert not budget.take(ONE, 1, MS_PER_DAY - 1)
    assert budget.left(OTHER, MS_PER_DAY - 1) == share
    assert budget.left(ONE, MS_PER_DAY) == share
    assert budget.used_bytes == 0


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", "e", "f"]), st.integers(0, 3000))),
)
def test_no_order_of_takes_exceeds_a_cap(day: int, takes: list[tuple[str, int]]) -> None:
    budget = RelayBudget(RelayCaps(bytes_per_day=day))
    used: dict[str, int] = {}
    for name, size in takes:
        if budget.take(PeerId(name), size, 0):
            used[name] = used.get(name, 0) + size
    assert budget.used_bytes == sum(used.values()) <= day
    assert all(size <= max(1, day // RELAY_NODE_SHARE) for size in used.values())
