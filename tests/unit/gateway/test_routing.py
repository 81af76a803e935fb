"""The choice of a node: every filter, the score, and what a refusal says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.peer.routing import REASONS, Candidate, Wanted, choose, explain, score
from p2p.types import PeerId

DIGEST, MODEL_ID = bytes([1]) * 32, bytes([2]) * 32
WANTED = Wanted(DIGEST, 100)


def candidate(name: str = "a", **changes: Any) -> Candidate:
    base = Candidate(PeerId(name), DIGEST, MODEL_ID, 1000, 4, connected=True)
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("reason", "changes", "wanted"),
    [
        ("other_model", {"model_digest": bytes(32)}, WANTED),
        ("other_model", {}, replace(WANTED, model_id=bytes(32))),
        ("banned", {"banned": True}, WANTED),
        ("no_certificate", {"certificate_expires_ms": 1000}, WANTED),
        ("context", {"context_tokens": 99}, Wanted(DIGEST, 100, output_tokens_asked=100)),
        ("images", {}, replace(WANTED, needs_images=True)),
        # What a node cannot do goes before what it cannot do now: asking again would not help.
        ("images", {"connected": False}, replace(WANTED, needs_images=True)),
        ("images", {"draining": True}, replace(WANTED, needs_images=True)),
        ("choices", {"slots": 4}, replace(WANTED, choices=5)),
        ("draining", {"draining": True}, WANTED),
        ("no_session", {"connected": False}, WANTED),
        ("not_accepting", {"accepting": False}, WANTED),
        ("not_accepting", {"accepting": False, "slots": 1}, replace(WANTED, choices=5)),
    ],
)
def test_each_filter_counts_what_it_removes(
    reason: str, changes: dict[str, Any], wanted: Wanted
) -> None:
    nodes = [candidate(name, **changes) for name in "abc"]
    choice = choose(wanted, nodes, tried=(), now_s=0, now_ms=1000)
    assert choice.candidate is None
    assert choice.removed == {reason: 3}
    assert REASONS[reason] in explain("m", choice.removed, {})


def test_tried_nodes_are_left_out() -> None:
    nodes = [candidate("a"), candidate("b")]
    choice = choose(WANTED, nodes, tried={PeerId("a")}, now_s=0, now_ms=0)
    assert choice.candidate is nodes[1]
    assert choice.removed == {"tried": 1}


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"running": 4}, {"running": 0}),
        ({"running": 4, "queued": 9}, {"running": 4, "queued": 1}),
        ({"in_flight": 3}, {"in_flight": 1}),
        ({"tokens_per_second": 10.0}, {"tokens_per_second": 100.0}),
        ({"first_token_s": 3.0}, {"first_token_s": 0.1}),
        ({"penalty_until_s": 50.0}, {"running": 4, "queued": 4}),
        ({"chosen": 5}, {"chosen": 4}),
    ],
)
def test_the_better_node_is_chosen(worse: dict[str, Any], better: dict[str, Any]) -> None:
    nodes = [candidate("a", **worse), candidate("b", **better)]
    assert choose(WANTED, nodes, tried=(), now_s=10, now_ms=0).candidate is nodes[1]


def test_each_choice_takes_a_slot() -> None:
    """Eight choices begin sooner where five more slots are free, though one job runs faster on the
    other node."""
    nodes = [
        candidate("a", slots=8, running=5, tokens_per_second=22.0),
        candidate("b", slots=16, running=8),
    ]
    one = choose(WANTED, nodes, tried=(), now_s=10, now_ms=0)
    several = choose(replace(WANTED, choices=8), nodes, tried=(), now_s=10, now_ms=0)
    assert (one.candidate, several.candidate) == (nodes[0], nodes[1])


def test_penalty_ends() -> None:
    node = candidate(penalty_until_s=50.0)
    assert score(WANTED, node, 49) > score(WANTED, node, 51) + 1000


def test_a_penalised_node_is_better_than_none() -> None:
    node = candidate(penalty_until_s=50.0)
    assert choose(WANTED, [node], tried=(), now_s=10, now_ms=0).candidate is node


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9)), max_size=20))
def test_every_node_is_chosen_or_counted(states: list[tuple[bool, bool, int]]) -> None:
    nodes = [
        candidate(str(i), connected=connected, draining=draining, running=running)
        for i, (connected, draining, running) in enumerate(states)
    ]
    choice = choose(WANTED, nodes, tried=(), now_s=0, now_ms=0)
    good = [node for node in nodes if node.connected and not node.draining]
    assert sum(choice.removed.values()) == len(nodes) - len(good)
    assert (choice.candidate is None) == (not good)
    if choice.candidate is not None:
        assert choice.candidate.running == min(node.running for node in good)


def test_explanation_names_no_node() -> None:
    text = explain("tiny-chat", {"no_session": 2, "tried": 1}, {"busy": 1})
    assert "2 cannot be reached" in text
    assert "1 answered busy" in text
    assert explain("m", {}, {}) == "No node serves the model m at the moment."


def test_first_token_time_is_smoothed() -> None:
    node = candidate()
    node.observe_first_token(1.0)
    assert node.first_token_s == 1.0
    node.observe_first_token(2.0)
    assert 1.0 < node.first_token_s < 1.5


def test_a_default_maximum_does_not_shut_out_a_node_with_a_smaller_context() -> None:
    small = candidate(context_tokens=64)
    choice = choose(Wanted(DIGEST, 512), [small], tried=(), now_s=0.0, now_ms=0)
    assert choice.candidate is small
