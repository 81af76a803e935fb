"""Owns how the facts of a runtime are told to the operator."""

from __future__ import annotations

import logging

from node.runtime_messages import RuntimeFacts

_log = logging.getLogger(__name__)


def describe(facts: RuntimeFacts) -> str:
    """One line: slots, threads, mode, GPUs, and what a step was measured to take."""
    threads = f"{facts.threads} thread{'s' * (facts.threads != 1)}"
    parts = [f"{facts.slots} slots of {facts.context_tokens} tokens", threads, facts.mode]
    if facts.gpu_layers:
        parts.append(f"{facts.gpu_layers} layers on {', '.join(gpu.name for gpu in facts.gpus)}")
    if facts.step_costs:
        parts.append(f"a step takes {describe_costs(facts)}")
    return ", ".join(parts)


def describe_costs(facts: RuntimeFacts) -> str:
    """What steps of 1, 2, ... sequences took, in words."""
    return ", ".join(
        f"{cost.microseconds / 1000:.3g} ms for {cost.sequences}" for cost in facts.step_costs
    )


def log_facts(facts: RuntimeFacts) -> None:
    """Say in the log how a runtime runs, and what it could not have."""
    _log.info("the runtime is ready: %s (%s)", describe(facts), facts.build)
    for note in facts.notes:
        _log.warning("the runtime: %s", note)
