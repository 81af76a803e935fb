"""Owns the store as serving sees it: a shelf of files that may be loaded (node/serving/shelf.py).

Whether the network approves a model and whether it passes its test inference is serving's to find
out, and to note here for `node models list`.
"""

from __future__ import annotations

import dataclasses
import logging

from node.agent.runtime_port import ModelState
from node.errors import ModelFileError, NodeError
from node.serving.shelf import ShelfModel
from node.store.manifest import StoredModel
from node.store.states import LOADABLE
from node.store.store import ModelStore

log = logging.getLogger(__name__)


class StoreShelf:
    """The models of a store; other processes may change it meanwhile."""

    def __init__(self, store: ModelStore) -> None:
        """Serve what this store has."""
        self._store = store

    def changed_token(self) -> bytes:
        """The store's own."""
        return self._store.changed_token()

    def models(self) -> tuple[ShelfModel, ...]:
        """One entry for each digest: if several names have it, one that may be loaded.

        Those that failed or were archived are there too: the operator wants to see them.
        """
        found: dict[bytes, StoredModel] = {}
        for model in self._store.models():
            known = found.get(model.digest)
            if known is None or (known.state not in LOADABLE and model.state in LOADABLE):
                found[model.digest] = model
        return tuple(ShelfModel(model, model.state, model.reason) for model in found.values())

    def verify_unchanged(self, model: ShelfModel) -> ShelfModel:
        """Have the store compare the file. Raises: ModelFileError."""
        try:
            found = self._store.verify_unchanged(self._store.get(model.file.name))
        except ModelFileError:
            raise
        except NodeError as error:  # it was removed, or put aside
            raise ModelFileError(str(error)) from error
        if found.digest != model.file.digest:
            raise ModelFileError(f"{model.file.name} is another file now")
        return dataclasses.replace(model, file=found)

    def note(self, model: ShelfModel, state: ModelState, reason: str) -> None:
        """Write a state into the store, if its rules allow that."""
        try:
            self._store.mark(model.file.name, state, reason)
        except (NodeError, OSError) as error:
            log.info("the store keeps its word on %s: %s", model.file.name, error)
