"""Owns the states of a stored model and what may follow what. Pure.

    pending    verified; no node has passed a test inference with it yet
    active     a node passed the test inference and may serve it
    inactive   the network (or the operator's rules) does not allow it now
    failed     its file is damaged, changed or missing, or it cannot be run: only a verification
               that finds the right file leads out of here
    archived   put aside by the operator: only the operator takes it back

A node marks pending, active, inactive and failed; the store itself finds out that a file is right
or broken; the operator archives and restores. What is failed or archived is never loaded.
"""

from __future__ import annotations

from node.agent.runtime_port import ModelState
from node.store.errors import ModelStateError

__all__ = ["LOADABLE", "ModelState", "archived", "broken", "marked", "restored", "verified"]

LOADABLE = frozenset({ModelState.PENDING, ModelState.ACTIVE, ModelState.INACTIVE})
_MARKS = LOADABLE | {ModelState.FAILED}


def marked(state: ModelState, wanted: ModelState) -> ModelState:
    """What a node says of a model. Raises: ModelStateError."""
    if wanted not in _MARKS:
        raise ModelStateError(f"a node cannot make a model {wanted}: its operator can")
    if state is wanted:
        return state
    if state is ModelState.ARCHIVED:
        raise ModelStateError("the model is archived: `node models restore` takes it back")
    if state is ModelState.FAILED:
        raise ModelStateError("the model has failed: `node models verify` looks at its file again")
    return wanted


def verified(state: ModelState) -> ModelState:
    """The file was read whole and is the right one."""
    return ModelState.PENDING if state is ModelState.FAILED else state


def broken(state: ModelState) -> ModelState:
    """The file is not, or no longer, the right one."""
    return ModelState.FAILED


def archived(state: ModelState) -> ModelState:
    """The operator puts the model aside. Raises: ModelStateError."""
    if state is ModelState.ARCHIVED:
        raise ModelStateError("the model is archived already")
    return ModelState.ARCHIVED


def restored(state: ModelState) -> ModelState:
    """The operator takes the model back, after its file was verified. Raises: ModelStateError."""
    if state is not ModelState.ARCHIVED:
        raise ModelStateError(f"the model is {state}, not archived")
    return ModelState.PENDING
