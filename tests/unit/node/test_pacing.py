"""From measured step costs to threads and slots, from wishes to a mode and GPU layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import ModelFileError
from node.limits import SLOTS_DEFAULT, SLOTS_MEASURED_MAX
from node.runtime.offloading import layers_to_try, load_with_most_layers
from node.runtime.pacing import (
    BATCHES,
    STEP_S_MAX,
    choose_slots,
    choose_threads,
    slots_in_memory,
    thread_candidates,
)
from node.runtime.remembered_costs import MeasuredCosts, cost_key, recall, remember
from node.runtime.wishes import mode_of, ubatch_tokens_of
from node.runtime_command import check_gpu_layers, runtime_command
from p2p.errors import MalformedError


@pytest.mark.parametrize(
    ("cores", "candidates"),
    [(1, (1,)), (2, (1,)), (3, (1, 2)), (8, (1, 3, 7)), (17, (1, 2, 4, 8, 16))],
)
def test_one_core_is_left_to_others(cores: int, candidates: tuple[int, ...]) -> None:
    assert thread_candidates(cores) == candidates


def test_the_fewest_threads_that_are_nearly_the_fastest() -> None:
    assert choose_threads({1: 1.0, 2: 0.6, 4: 0.5, 8: 0.5}) == 4
    assert choose_threads({1: 1.0, 2: 0.6, 4: 0.52, 8: 0.5}) == 4
    assert choose_threads({1: 1.0, 2: 0.54, 4: 0.5}) == 2
    assert choose_threads({1: 0.1, 2: 0.2}) == 1


def costs(*milliseconds: float) -> dict[int, float]:
    return {count: cost / 1000 for count, cost in zip(BATCHES, milliseconds, strict=False)}


def test_slots_as_many_as_make_it_faster() -> None:
    # Measured, 112 M parameters, one thread: q4_0, and q8_0, whose kernel is slow for few.
    assert choose_slots(costs(4.5, 11.1, 19.4, 22.7, 37.7, 86.2), room=99) == 16
    assert choose_slots(costs(7.4, 15.4, 21.6, 33.4, 88.2, 137.0), room=99) == 8
    assert choose_slots(costs(4.5, 11.1, 19.4, 22.7, 37.7, 86.2), room=6) == 6


def test_some_slots_even_where_they_make_nothing_faster() -> None:
    assert choose_slots(costs(10, 20, 40, 80, 160), room=99) == SLOTS_DEFAULT
    assert choose_slots(costs(100), room=99) == 2  # not measured further: in proportion
    assert choose_slots(costs(1), room=99) == SLOTS_DEFAULT


def test_a_slow_model_answers_few_at_a_bearable_pace() -> None:
    assert choose_slots(costs(200, 240, 300), room=99) == 2
    assert choose_slots(costs(400), room=99) == 1
    assert choose_slots(costs(240, 260), room=99) == 1


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=len(BATCHES)), st.integers(1, 300))
def test_slots_are_within_bounds(values: list[float], room: int) -> None:
    measured = dict(zip(BATCHES, sorted(values), strict=False))
    slots = choose_slots(measured, room)
    assert 1 <= slots <= min(room, SLOTS_MEASURED_MAX)
    if slots in measured and slots > 1:
        assert measured[slots] <= STEP_S_MAX


def test_slots_that_fit_into_memory() -> None:
    assert slots_in_memory(1_000_000, token_bytes=100, context_tokens=1000) == 9  # 1,024 cells each
    assert slots_in_memory(10, token_bytes=100, context_tokens=1000) == 1
    assert slots_in_memory(10_000, token_bytes=0, context_tokens=256) > 1


def test_costs_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    first, second = MeasuredCosts(3, {1: 0.004, 2: 0.011}), MeasuredCosts(1, {1: 0.2})
    keys = [
        cost_key("model", "build", "reproducible", threads, 0) for threads in ("(1,)", "(1, 3)")
    ]
    assert recall(path, keys[0]) is None
    remember(path, keys[0], first)
    remember(path, keys[1], second)
    assert (recall(path, keys[0]), recall(path, keys[1])) == (first, second)
    assert recall(path, cost_key("model", "another build", "reproducible", "(1,)", 0)) is None
    assert list(tmp_path.iterdir()) == [path]
    remember(tmp_path / "no" / "folder", keys[0], first)  # cannot be written: no harm


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"key": 1}',
        '{"key": {"threads": 1, "costs_us": {}}}',
        '{"key": {"threads": 0, "costs_us": {"1": 5}}}',
        '{"key": {"threads": 1, "costs_us": {"1": 0}}}',
        '{"key": {"threads": 1, "costs_us": {"x": 5}}}',
        '{"key": {"threads": 1, "costs_us": [5]}}',
        json.dumps({"key": {"threads": 1, "costs_us": {"1": 10**12}}}),
        " " * 300_000,
    ],
)
def test_a_damaged_memory_is_no_memory(tmp_path: Path, content: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(content)
    assert recall(path, "key") is None
    remember(path, "key", MeasuredCosts(1, {1: 0.5}))
    assert recall(path, "key") == MeasuredCosts(1, {1: 0.5})


# --- GPUs (none is here: the rule, with a loader that says what fits) --------------------------
def test_without_a_gpu_the_cpu_has_it_all() -> None:
    assert layers_to_try(None, offload=False, layers=0) == (0,)
    assert layers_to_try(40, offload=False, layers=0) == (0,)


def test_all_layers_go_to_the_gpu_or_as_many_as_were_asked_for() -> None:
    assert layers_to_try(None, offload=True, layers=31) == (32, 24, 16, 8, 0)
    assert layers_to_try(10, offload=True, layers=31) == (10, 7, 5, 2, 0)
    assert layers_to_try(500, offload=True, layers=31)[0] == 32
    assert layers_to_try(0, offload=True, layers=31) == (0,)
    assert layers_to_try(1, offload=True, layers=31) == (1, 0)


def loader(fits: int, tried: list[int]):  # type: ignore[no-untyped-def]
    def load(layers: int) -> str:
        tried.append(layers)
        if layers > fits:
            raise ModelFileError("no memory")
        return f"model with {layers}"

    return load


def test_fewer_layers_when_they_do_not_fit() -> None:
    tried: list[int] = []
    loaded = load_with_most_layers(loader(17, tried), (32, 24, 16, 8, 0))
    assert tried == [32, 24, 16]
    assert (loaded.value, loaded.gpu_layers) == ("model with 16", 16)
    assert "16 of 32 layers" in loaded.note


def test_the_cpu_takes_what_fits_nowhere_else() -> None:
    loaded = load_with_most_layers(loader(0, []), (32, 24, 16, 8, 0))
    assert loaded.gpu_layers == 0
    assert "the CPU has it all" in loaded.note
    assert load_with_most_layers(loader(0, []), (0,)).note == ""
    with pytest.raises(ModelFileError):
        load_with_most_layers(loader(-1, []), (32, 0))


def test_modes() -> None:
    assert mode_of("auto", gpu_layers=0) == "reproducible"
    assert mode_of("auto", gpu_layers=5) == "throughput"
    assert mode_of("reproducible", gpu_layers=5) == "reproducible"
    assert mode_of("throughput", gpu_layers=0) == "throughput"
    assert (ubatch_tokens_of("reproducible"), ubatch_tokens_of("throughput")) == (32, 512)


def test_the_setting_of_gpu_layers() -> None:
    assert check_gpu_layers("auto") is None
    assert check_gpu_layers("12") == 12
    for value in ("", "-1", "all", "99999999999999999999", "１２"):
        with pytest.raises(MalformedError, match="gpu_layers"):
            check_gpu_layers(value)


def test_what_is_not_named_is_not_in_the_command(tmp_path: Path) -> None:
    words = runtime_command(tmp_path / "m.gguf")
    assert not {"--slots", "--threads", "--gpu-layers", "--remembered"} & set(words)
    words = runtime_command(
        tmp_path / "m.gguf", slots=3, threads=2, mode="throughput", gpu_layers=0
    )
    assert words[words.index("--gpu-layers") + 1] == "0"
    assert words[words.index("--mode") + 1] == "throughput"
