"""Owns which state a model is in, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from node.agent.runtime_port import ModelState


@dataclass(frozen=True, slots=True)
class Signs:
    """What a model's state follows from.

    Attributes:
        shelf_state, shelf_reason: what the operator or the store says of the file.
        configured: whether there is a network configuration yet.
        approved: whether it approves the model for a task that the model does.
        rules_reason: why the operator's own rules forbid it, or empty.
        failure: why it failed last, or empty; it stays until the model is proved again.
        loaded: a runtime is there, or was until it died.
        ready: the runtime is there and proved.
        expected: it is to be loaded at the start, and was never ready.
    """

    shelf_state: ModelState
    shelf_reason: str
    configured: bool
    approved: bool
    rules_reason: str
    failure: str
    loaded: bool
    ready: bool
    expected: bool


def judge(signs: Signs) -> tuple[ModelState, str]:
    """Give the state and its reason; the first that applies counts."""
    if signs.shelf_state is ModelState.ARCHIVED:
        return ModelState.ARCHIVED, signs.shelf_reason or "put aside by the operator"
    if signs.shelf_state is ModelState.FAILED:
        return ModelState.FAILED, signs.shelf_reason or "the model store says so"
    if not signs.configured:
        return ModelState.PENDING, "there is no network configuration yet"
    if not signs.approved:
        return ModelState.INACTIVE, "the network's configuration does not approve it"
    if signs.rules_reason:
        return ModelState.INACTIVE, signs.rules_reason
    if signs.failure:
        return ModelState.FAILED, signs.failure
    if signs.ready:
        return ModelState.ACTIVE, ""
    if signs.loaded:
        return ModelState.PENDING, "its runtime is starting again"
    if signs.expected:
        return ModelState.PENDING, "it is being loaded"
    return ModelState.ACTIVE, "it is loaded when a job needs it"
