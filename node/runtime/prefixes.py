"""Owns the comparison of prompts by their beginnings. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two lists have in common at their beginnings."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        # Only the part that is not known to be equal yet: slices compare at the speed of C.
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
