"""Owns the rule of how many layers go to GPUs, and what is tried when they do not fit. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from node.errors import ModelFileError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """What was loaded, with how many layers on GPUs; `note` says what could not be had."""

    value: T
    gpu_layers: int
    note: str = ""


def layers_to_try(wanted: int | None, *, offload: bool, layers: int) -> tuple[int, ...]:
    """Give the numbers of layers to try, most first; the last is 0: the CPU takes every model.

    `layers` of the model without its output, which counts as one more. `offload`: whether this
    build of llama.cpp knows a GPU that is here.
    """
    if not offload:
        return (0,)
    most = layers + 1 if wanted is None else min(wanted, layers + 1)
    fewer = (most, most * 3 // 4, most // 2, most // 4, 0)
    return tuple(dict.fromkeys(fewer))


def load_with_most_layers(load: Callable[[int], T], tries: tuple[int, ...]) -> Loaded[T]:
    """Load with the first number of layers that works.

    Args: load: loads with a number of layers on GPUs. Raises: ModelFileError, by `load`, if it does
        not work on the CPU either.
    """
    for layers in tries:
        try:
            value = load(layers)
        except ModelFileError:
            if layers == tries[-1]:
                raise
            continue
        note = ""
        if layers != tries[0]:
            where = f"{layers} of {tries[0]} layers are on GPUs" if layers else "the CPU has it all"
            note = f"the model does not fit the GPUs' memory: {where}"
        return Loaded(value, layers, note)
    raise AssertionError("there is always something to try")
