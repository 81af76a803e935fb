"""A model store whose process is killed at every step of everything that changes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.agent.runtime_port import ModelState
from node.errors import ModelFileError
from node.store import states
from node.store.adding import Keeping
from node.store.errors import ModelStoreError
from node.store.leftovers import remove_leftovers
from node.store.store import ModelStore
from tests.fakes.gguf_files import gguf
from tests.fakes.model_files import add_file, flip


class Killed(BaseException):
    """What a process notices of its own kill -9: nothing more happens."""


class Mortal:
    """Kills "the process" at its nth change of the disk; from then on nothing changes it."""

    CHANGES = ("replace", "link", "unlink", "fsync", "chmod", "rename")

    def __init__(self, patch: pytest.MonkeyPatch, steps: int) -> None:
        self.steps_left = steps
        self.dead = False
        for name in self.CHANGES:
            patch.setattr(os, name, self._mortal(getattr(os, name)))

    def _mortal(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **rest: Any) -> Any:
            if self.steps_left == 0 or self.dead:
                self.dead = True
                raise Killed
            self.steps_left -= 1
            return change(*args, **rest)

        return step


def check_truth(store: ModelStore, content: bytes) -> None:
    """Whatever may be loaded is there, whole and right."""
    for model in store.models():
        if model.state in states.LOADABLE:
            assert model.path.read_bytes() == content


def adding(keeping: Keeping) -> Callable[[ModelStore, Path], None]:
    def work(store: ModelStore, file: Path) -> None:
        add_file(store, file, keeping=keeping)
        assert store.loadable_models()

    return work


def removing(store: ModelStore, file: Path) -> None:
    if any(model.name == "old" for model in store.models()):
        store.remove("old")


def quarantining(store: ModelStore, file: Path) -> None:
    with pytest.raises(ModelFileError):
        store.verify("bad")
    assert store.get("bad").state is ModelState.FAILED


def recovering(store: ModelStore, file: Path) -> None:
    assert store.verify("lost").state is ModelState.PENDING


WORK = {
    "link": adding(Keeping.LINK),
    "copy": adding(Keeping.COPY),
    "in place": adding(Keeping.IN_PLACE),
    "remove": removing,
    "quarantine": quarantining,
    "recover": recovering,
}


def prepared(folder: Path, what: str, content: bytes, file: Path) -> ModelStore:
    store = ModelStore(folder)
    if what == "remove":
        add_file(store, file, name="old", keeping=Keeping.COPY)
    if what == "quarantine":
        flip(add_file(store, file, name="bad", keeping=Keeping.COPY).path)
    if what == "recover":
        flip(add_file(store, file, name="lost", keeping=Keeping.COPY).path)
        with pytest.raises(ModelFileError):
            store.verify("lost")
        flip(store.get("lost").path)
    return store


@pytest.mark.parametrize("what", list(WORK))
def test_a_kill_at_every_step(tmp_path: Path, what: str) -> None:
    content, work = gguf(), WORK[what]
    file = tmp_path / "mine.gguf"
    file.write_bytes(content)
    for steps in range(60):
        store = prepared(tmp_path / f"{what}-{steps}", what, content, file)
        with pytest.MonkeyPatch.context() as patch:
            mortal = Mortal(patch, steps)
            try:
                work(store, file)
            except (Killed, ModelStoreError):
                assert mortal.dead
        again = ModelStore(store.folders.root)
        if what != "quarantine":  # that begins with a file that is wrong, and not noticed yet
            check_truth(again, content)
        work(again, file)
        check_truth(again, content)
        assert file.read_bytes() == content
        if not mortal.dead:
            assert steps > 1
            return
        remove_leftovers(again)
        check_truth(again, content)
    pytest.fail("it never ended")
