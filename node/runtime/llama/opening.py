"""Owns the opening of an engine as the operator wished: GPUs, mode, threads and slots are settled.

Order: the model is loaded with as many layers on GPUs as fit; that decides the mode; then a step's
cost is measured (or recalled), which decides the threads and, with the memory that is left, the
slots. What the operator named is not measured.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import psutil

from node.errors import ModelFileError
from node.limits import CACHE_MEMORY_SHARE, SLOTS_DEFAULT
from node.runtime.engine import EngineSettings, Gpu, StepCost
from node.runtime.llama.devices import gpus
from node.runtime.llama.engine import open_task_engine
from node.runtime.llama.library import build_info, layer_count, load_model, start_library
from node.runtime.llama.measuring import CACHE_POSITIONS, measure_costs
from node.runtime.offloading import layers_to_try, load_with_most_layers
from node.runtime.pacing import choose_slots, slots_in_memory, thread_candidates
from node.runtime.remembered_costs import MeasuredCosts, cost_key, recall, remember
from node.runtime.task_engine import TaskEngine
from node.runtime.wishes import EngineWishes, mode_of, ubatch_tokens_of

_CACHE_VALUE_BYTES = 2
"""A number of the cache is a half."""


def open_as_wished(wishes: EngineWishes) -> TaskEngine:
    """Load a model and make the engine on it (blocks).

    With slots that were not named, fewer are tried if the memory does not do for the chosen number.
    Raises: ModelFileError if llama.cpp cannot use the file, or has no memory for it.
    """
    start_library()
    devices = gpus()
    offload = bool(devices)
    layers = layer_count(wishes.path) if offload else 0
    tries = layers_to_try(wishes.gpu_layers, offload=offload, layers=layers)
    loaded = load_with_most_layers(lambda count: load_model(wishes.path, count), tries)
    notes = tuple(note for note in (loaded.note, _no_gpu_note(wishes, offload)) if note)
    for note in notes:
        sys.stderr.write(f"runtime: {note}\n")
    settled = _settle(wishes, loaded.value, loaded.gpu_layers, devices)
    settings = dataclasses.replace(settled, notes=notes)
    while True:
        try:
            return open_task_engine(settings, loaded.value)
        except ModelFileError:
            if wishes.slots is not None or settings.slots == 1:
                raise
            settings = dataclasses.replace(settings, slots=settings.slots // 2)


def _no_gpu_note(wishes: EngineWishes, offload: bool) -> str:
    if wishes.gpu_layers and not offload:
        return "gpu_layers is set, but this build of llama.cpp finds no GPU: the CPU has it all"
    return ""


def _settle(
    wishes: EngineWishes, model: Any, gpu_layers: int, devices: tuple[Gpu, ...]
) -> EngineSettings:
    mode = mode_of(wishes.mode, gpu_layers)
    context_tokens = min(int(llama_cpp.llama_model_n_ctx_train(model)), wishes.context_tokens)
    threads, slots = wishes.threads, wishes.slots
    costs: tuple[StepCost, ...] = ()
    if (slots is None or threads is None) and llama_cpp.llama_model_has_decoder(model):
        cache_bytes_max = _cache_bytes_max(wishes, gpu_layers)
        token_bytes = cache_token_bytes(model)
        measured_max = slots_in_memory(cache_bytes_max, token_bytes, CACHE_POSITIONS)
        measured = _measured(wishes, model, gpu_layers, mode, measured_max)
        threads = threads or measured.threads
        room = slots_in_memory(cache_bytes_max, token_bytes, context_tokens)
        slots = slots or choose_slots(measured.costs_s, room)
        costs = tuple(StepCost(count, cost) for count, cost in sorted(measured.costs_s.items()))
    return EngineSettings(
        path=wishes.path,
        slots=slots or SLOTS_DEFAULT,
        context_tokens=context_tokens,
        threads=threads or thread_candidates(usable_cores())[-1],
        ubatch_tokens=ubatch_tokens_of(mode),
        gpu_layers=gpu_layers,
        gpus=devices,
        costs=costs,
    )


def _measured(
    wishes: EngineWishes, model: Any, gpu_layers: int, mode: str, sequences_max: int
) -> MeasuredCosts:
    """Recall what a step costs, or measure it and remember."""
    candidates = thread_candidates(usable_cores())
    if wishes.threads is not None:
        candidates = (wishes.threads,)
    key = cost_key(wishes.model_key, build_info(), mode, str(candidates), gpu_layers)
    path = Path(wishes.remembered) if wishes.remembered and wishes.model_key else None
    found = recall(path, key) if path is not None else None
    if found is None:
        found = measure_costs(model, ubatch_tokens_of(mode), candidates, sequences_max)
        if path is not None:
            remember(path, key, found)
    return found


def usable_cores() -> int:
    """Physical cores that this process may use."""
    cores = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(cores, allowed))


def cache_token_bytes(model: Any) -> int:
    """Give the cache of one token: a key and a value of every layer (an estimate for unusual
    architectures, which need less)."""
    heads = max(1, int(llama_cpp.llama_model_n_head(model)))
    width = int(llama_cpp.llama_model_n_embd(model)) * int(llama_cpp.llama_model_n_head_kv(model))
    return 2 * _CACHE_VALUE_BYTES * int(llama_cpp.llama_model_n_layer(model)) * width // heads


def _cache_bytes_max(wishes: EngineWishes, gpu_layers: int) -> int:
    free = int(psutil.virtual_memory().available)
    if gpu_layers:
        # Asked again: the model is in there now.
        free = sum(gpu.free_bytes for gpu in gpus()) or free
    most = int(free * CACHE_MEMORY_SHARE)
    return most if wishes.cache_bytes_max is None else min(most, wishes.cache_bytes_max)
