"""Owns the rules that turn measured step costs into threads and slots. Pure.

Theory of operation. What one step costs for 1, 2, 4, ... sequences depends on the model's format,
the CPU and the build: with some kernels 16 sequences cost little more than one, with others two
cost twice as much. So the runtime measures and then decides: as few threads as give nearly the best
speed (threads that only wait take time from everybody), and as many slots as make the whole faster,
as long as each answer comes at a bearable pace and the caches fit into memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from node.limits import SLOTS_DEFAULT, SLOTS_MEASURED_MAX

BATCHES = (1, 2, 4, 8, 16, SLOTS_MEASURED_MAX)
"""Numbers of sequences whose step is measured."""
THREADS_BATCH = 4
"""Threads are compared at this number of sequences."""
NEARLY = 0.9
"""Share of the best speed that is as good as the best: differences below are noise."""
STEP_S_MAX = 0.25
"""Four tokens a second for each answer: about the pace of reading."""
CACHE_ALIGNMENT_TOKENS = 256
"""llama.cpp rounds the cells of a sequence's cache up to this."""


def thread_candidates(cores: int) -> tuple[int, ...]:
    """Numbers of threads to compare, on so many physical cores that this process may use.

    One core is left for the agent and everybody else: threads beyond the free cores spin.
    """
    most = max(1, cores - 1)
    candidates = [most]
    while (fewer := candidates[-1] // 2) >= 1:
        candidates.append(fewer)
    return tuple(sorted(candidates))


def choose_threads(costs_s: Mapping[int, float]) -> int:
    """Give the fewest threads that are nearly as fast as the fastest (threads -> seconds)."""
    fastest_s = min(costs_s.values())
    return min(count for count, cost_s in costs_s.items() if cost_s * NEARLY <= fastest_s)


def choose_slots(costs_s: Mapping[int, float], room: int) -> int:
    """Give the number of slots (sequences -> seconds of a step), at most `room` of them.

    The fewest that give nearly the best speed of all together among those at which each answer has
    a bearable pace; more, up to SLOTS_DEFAULT, if that pace allows: nobody likes to queue.
    """
    bearable = {count: cost_s for count, cost_s in costs_s.items() if cost_s <= STEP_S_MAX}
    if not bearable:
        return 1
    best = max(count / cost_s for count, cost_s in bearable.items())
    slots = min(count for count, cost_s in bearable.items() if count / cost_s >= NEARLY * best)
    slots = max(slots, min(SLOTS_DEFAULT, _bearable_max(costs_s)))
    return max(1, min(slots, room, SLOTS_MEASURED_MAX))


def _bearable_max(costs_s: Mapping[int, float]) -> int:
    """The most sequences at which a step is bearable; beyond what was measured, in proportion."""
    most, cost_s = max((c, s) for c, s in costs_s.items() if s <= STEP_S_MAX)
    if most < max(costs_s):
        return most
    return max(most, int(most * STEP_S_MAX / max(cost_s, 1e-9)))


def slots_in_memory(bytes_max: int, token_bytes: int, context_tokens: int) -> int:
    """Give how many whole contexts fit into a number of bytes; at least one."""
    cells = -(-context_tokens // CACHE_ALIGNMENT_TOKENS) * CACHE_ALIGNMENT_TOKENS
    return max(1, bytes_max // max(1, cells * token_bytes))
