"""Every cell of DOMAIN.md's charging table, as the gateway applies it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.peer.charging import Charged, JobOutcome, Produced, chargeable

ONE = (Produced(0, 7, 20),)
TWO = (Produced(0, 7, 8), Produced(1, 9, 12))
COMPLETE, LEFT, FAILED = JobOutcome.COMPLETE, JobOutcome.CLIENT_LEFT, JobOutcome.FAILED

CELLS = [
    ("complete", COMPLETE, True, ONE, 20, [(0, 7, 20)]),
    ("complete, whole", COMPLETE, False, ONE, 0, [(0, 7, 20)]),
    ("complete without output", COMPLETE, True, (Produced(0, 7, 0),), 0, [(0, 7, 0)]),
    ("client leaves a stream", LEFT, True, ONE, 5, [(0, 7, 5)]),
    ("client leaves a stream before anything was written", LEFT, True, ONE, 0, []),
    ("client leaves a whole answer: what was generated", LEFT, False, ONE, 0, [(0, 7, 20)]),
    ("client leaves before output", LEFT, False, (Produced(0, 7, 0),), 0, []),
    ("continued elsewhere, streamed", COMPLETE, True, TWO, 20, [(0, 7, 8), (1, 0, 12)]),
    ("continued elsewhere, whole", COMPLETE, False, TWO, 0, [(0, 7, 8), (1, 0, 12)]),
    ("continued elsewhere, client leaves", LEFT, True, TWO, 10, [(0, 7, 8), (1, 0, 2)]),
    ("continued elsewhere, client leaves early", LEFT, True, TWO, 3, [(0, 7, 3)]),
    ("failed after output began, streamed", FAILED, True, ONE, 6, [(0, 7, 6)]),
    ("failed after output began, whole", FAILED, False, ONE, 0, []),
    ("failed before output, streamed", FAILED, True, (), 0, []),
    ("failed before output, whole", FAILED, False, (), 0, []),
    ("cached input", COMPLETE, True, (Produced(0, 7, 9, 5),), 9, [(0, 7, 9, 5)]),
    (
        "cached at the second node, which input is not charged to",
        COMPLETE,
        True,
        (Produced(0, 7, 8), Produced(1, 9, 12, 6)),
        20,
        [(0, 7, 8), (1, 0, 12)],
    ),
    ("first node gave nothing", COMPLETE, True, (Produced(0, 7, 0), ONE[0]), 20, [(0, 7, 20)]),
]


@pytest.mark.parametrize(
    ("outcome", "streaming", "produced", "written", "expected"),
    [cell[1:] for cell in CELLS],
    ids=[cell[0] for cell in CELLS],
)
def test_cell(
    outcome: JobOutcome,
    streaming: bool,
    produced: tuple[Produced, ...],
    written: int,
    expected: list[tuple[int, ...]],
) -> None:
    charged = chargeable(outcome, streaming=streaming, produced=produced, written_tokens=written)
    assert list(charged) == [Charged(*part) for part in expected]


@given(
    st.sampled_from(JobOutcome),
    st.booleans(),
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 100)), max_size=8),
    st.integers(0, 1000),
)
def test_never_more_than_was_produced_and_input_once(
    outcome: JobOutcome, streaming: bool, parts: list[tuple[int, int]], written: int
) -> None:
    produced = [Produced(i, tokens_in, out) for i, (tokens_in, out) in enumerate(parts)]
    charged = chargeable(outcome, streaming=streaming, produced=produced, written_tokens=written)
    by_attempt = {part.attempt: part for part in produced}
    assert sum(part.input_tokens > 0 for part in charged) <= 1
    for part in charged:
        assert part.output_tokens <= by_attempt[part.attempt].output_tokens
        assert part.input_tokens in (0, by_attempt[part.attempt].input_tokens)
    total = sum(part.output_tokens for part in charged)
    assert total <= sum(part.output_tokens for part in produced)
    if streaming:
        assert total <= written
