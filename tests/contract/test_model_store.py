"""The model store on a real folder: files, quarantine, names, many at once, kills at every step."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from node.agent.runtime_port import ModelState
from node.errors import ModelFileError
from node.store.adding import Keeping
from node.store.errors import (
    ModelExistsError,
    ModelNotFoundError,
    ModelStateError,
    ModelStoreError,
    StoreFullError,
)
from node.store.leftovers import find_leftovers, remove_leftovers
from node.store.shelf import StoreShelf
from node.store.store import ModelStore
from tests.fakes.gguf_files import gguf
from tests.fakes.model_files import add_file, flip


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.gguf"
    path.write_bytes(gguf())
    return path


@pytest.mark.parametrize("keeping", list(Keeping))
def test_a_file_is_added(store: ModelStore, file: Path, keeping: Keeping) -> None:
    content = file.read_bytes()
    model = add_file(store, file, keeping=keeping)
    assert (model.name, model.state, model.quantisation) == ("small", ModelState.PENDING, "F32")
    assert model.path.read_bytes() == file.read_bytes() == content
    assert (model.path == file) == model.in_place == (keeping is Keeping.IN_PLACE)
    assert os.path.samefile(model.path, file) == (keeping is not Keeping.COPY)
    assert store.models() == store.loadable_models() == (store.get("small"),)
    assert store.get("small") == model
    assert find_leftovers(store) == ()
    assert add_file(store, file, keeping=keeping).digest == model.digest  # again: no conflict
    assert store.remove("small") == (0 if keeping is Keeping.IN_PLACE else len(content))
    assert file.read_bytes() == content
    assert (store.models(), find_leftovers(store)) == ((), ())


def test_what_cannot_be_added_leaves_nothing(store: ModelStore, file: Path) -> None:
    content = file.read_bytes()
    for wishes in ({}, {"keeping": Keeping.COPY}, {"keeping": Keeping.IN_PLACE}):
        with pytest.raises(ModelFileError, match="should have 0000"):
            add_file(store, file, digest=bytes(32), **wishes)
        file.write_bytes(content[:-1])
        with pytest.raises(ModelFileError, match="truncated"):
            add_file(store, file, **wishes)
        file.write_bytes(content)
    with pytest.raises(ModelFileError, match="No such file"):
        add_file(store, file.with_name("none.gguf"))
    with pytest.raises(ModelStoreError, match="cannot be the name"):
        add_file(store, file, name="../x")
    assert file.read_bytes() == content
    assert (store.models(), find_leftovers(store)) == ((), ())


def test_names_are_not_taken_twice(store: ModelStore, file: Path) -> None:
    add_file(store, file, name="a/b:c")
    other = file.with_name("other.gguf")
    other.write_bytes(gguf(name="Other"))
    with pytest.raises(ModelExistsError, match="remove it first"):
        add_file(store, other, name="a/b:c")
    add_file(store, other, name="a/b:c2")
    assert [model.name for model in store.models()] == ["a/b:c", "a/b:c2"]
    for name in ("../manifests/x", "", "x" * 101, "~", "none"):
        with pytest.raises(ModelNotFoundError):
            store.get(name)


def test_one_file_under_two_names(store: ModelStore, file: Path) -> None:
    first, second = add_file(store, file, name="first"), add_file(store, file, name="second")
    assert first.path == second.path
    assert store.verify_unchanged(store.get("first")) == store.get("first")
    assert store.remove("first") == 0
    assert second.path.exists()
    assert store.remove("second") > 0
    assert not second.path.exists()


def test_a_changed_file_is_noticed_before_the_next_load(store: ModelStore, file: Path) -> None:
    model = add_file(store, file, keeping=Keeping.COPY)
    twin = add_file(store, file, keeping=Keeping.COPY, name="twin")
    store.mark("small", ModelState.ACTIVE)
    model = store.get("small")
    flip(model.path)
    with pytest.raises(ModelFileError, match="but should have"):
        store.verify_unchanged(model)
    failed = store.get("small")
    assert failed.state is store.get("twin").state is ModelState.FAILED
    assert "but should have" in failed.reason
    assert failed.path.parent == store.folders.quarantine
    assert not twin.path.exists()
    assert store.loadable_models() == ()
    with pytest.raises(ModelStateError, match="node models verify"):
        store.mark("small", ModelState.ACTIVE)
    flip(failed.path)
    found = store.verify("small")
    assert (found.state, found.reason) == (ModelState.PENDING, "")
    assert found.path == model.path
    assert store.get("twin").state is ModelState.PENDING


def test_a_touched_file_is_read_again(store: ModelStore, file: Path) -> None:
    model = add_file(store, file, keeping=Keeping.COPY)
    os.utime(model.path, ns=(1, 1))
    found = store.verify_unchanged(model)
    assert found.stamp != model.stamp
    assert store.verify_unchanged(found) is found
    assert found.added_ms == model.added_ms


def test_a_file_in_place_is_never_moved(store: ModelStore, file: Path) -> None:
    model = add_file(store, file, keeping=Keeping.IN_PLACE)
    flip(file)
    with pytest.raises(ModelFileError):
        store.verify_unchanged(model)
    assert file.exists()
    assert store.get("small").state is ModelState.FAILED
    file.unlink()
    with pytest.raises(ModelFileError, match="No such file"):
        store.verify("small")
    assert store.remove("small") == 0


def test_a_file_that_was_replaced_by_the_right_one(store: ModelStore, file: Path) -> None:
    flip(add_file(store, file, keeping=Keeping.COPY).path)
    with pytest.raises(ModelFileError):
        store.verify("small")
    assert add_file(store, file, keeping=Keeping.COPY).state is ModelState.PENDING
    assert find_leftovers(store) == ()
    store.verify("small")


def test_archived_and_restored(store: ModelStore, file: Path) -> None:
    model = add_file(store, file)
    store.archive("small")
    assert store.loadable_models() == ()
    for wrong in (store.archive, lambda name: store.mark(name, ModelState.ACTIVE)):
        with pytest.raises(ModelStateError, match="archived"):
            wrong("small")
    assert store.restore("small").state is ModelState.PENDING
    with pytest.raises(ModelStateError, match="not archived"):
        store.restore("small")
    store.archive("small")
    flip(model.path)
    with pytest.raises(ModelFileError):
        store.restore("small")
    assert store.get("small").state is ModelState.FAILED


def test_marks_tell_those_who_look(store: ModelStore, file: Path) -> None:
    tokens = [store.changed_token()]

    def changed() -> bool:
        tokens.append(store.changed_token())
        return tokens[-1] != tokens[-2]

    add_file(store, file)
    assert changed()
    store.mark("small", ModelState.ACTIVE)
    assert changed()
    assert [model.name for model in store.active_models()] == ["small"]
    store.mark("small", ModelState.ACTIVE)
    assert not changed()
    store.mark("small", ModelState.INACTIVE, "not approved")
    assert changed()
    assert store.get("small").reason == "not approved"
    ModelStore(store.folders.root).remove("small")
    assert changed()
    with pytest.raises(ModelNotFoundError):
        store.mark("small", ModelState.ACTIVE)


def test_the_limit_for_files(tmp_path: Path, file: Path) -> None:
    store = ModelStore(tmp_path / "small", size_bytes_max=file.stat().st_size)
    add_file(store, file)
    other = file.with_name("other.gguf")
    other.write_bytes(gguf(name="Other"))
    for keeping in (Keeping.LINK, Keeping.COPY):
        with pytest.raises(StoreFullError, match="raise the limit"):
            add_file(store, other, keeping=keeping)
    add_file(store, other, keeping=Keeping.IN_PLACE)
    assert len(store.models()) == 2


def test_damaged_manifests_are_left_out(store: ModelStore, file: Path) -> None:
    add_file(store, file)
    add_file(store, file, name="other")
    path = store.folders.manifest("small")
    path.write_bytes(store.folders.manifest("other").read_bytes())
    assert [model.name for model in store.models()] == ["other"]
    with pytest.raises(ModelStoreError, match="names another model"):
        store.get("small")
    store.remove("small")
    assert not path.exists()


def test_the_folder_may_move(store: ModelStore, file: Path, tmp_path: Path) -> None:
    add_file(store, file)
    store.folders.root.rename(tmp_path / "moved")
    model = ModelStore(tmp_path / "moved").get("small")
    assert model.path.exists()


def test_leftovers(store: ModelStore, file: Path) -> None:
    add_file(store, file)
    (store.folders.blobs / ("sha256-" + "0" * 64)).write_bytes(b"12345")
    (store.folders.partial / "a.part").write_bytes(b"678")
    assert len(find_leftovers(store)) == 2
    assert remove_leftovers(store) == (2, 8)
    assert store.get("small").path.exists()


def test_many_at_once(store: ModelStore, file: Path) -> None:
    """Threads with stores of their own, as processes would: nothing is lost, nothing is half."""
    problems: list[BaseException] = []

    def work(number: int) -> None:
        mine = ModelStore(store.folders.root)
        try:
            for _ in range(3):
                add_file(mine, file, name=f"m{number}")
                mine.mark(f"m{number}", ModelState.ACTIVE)
                if number % 2:
                    mine.remove(f"m{number}")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert [model.name for model in store.active_models()] == ["m0", "m2", "m4"]
    for model in store.models():
        store.verify(model.name)


# --- what serving sees ----------------------------------------------------------------------------


def test_the_shelf(store: ModelStore, file: Path) -> None:
    shelf = StoreShelf(store)
    assert shelf.models() == ()
    token = shelf.changed_token()
    model = add_file(store, file, keeping=Keeping.COPY)
    add_file(store, file, keeping=Keeping.COPY, name="twin")
    assert shelf.changed_token() != token
    (on_shelf,) = shelf.models()
    assert (on_shelf.file.digest, on_shelf.state) == (model.digest, ModelState.PENDING)
    assert on_shelf.file.path == model.path
    store.archive(on_shelf.file.name)
    (other,) = shelf.models()
    assert other.file.name != on_shelf.file.name  # the twin may be loaded
    assert other.state is ModelState.PENDING
    shelf.note(other, ModelState.ACTIVE, "")
    shelf.note(on_shelf, ModelState.ACTIVE, "")  # archived: the store keeps its word
    assert [each.name for each in store.active_models()] == [other.file.name]
    assert shelf.verify_unchanged(other).file.digest == model.digest
    flip(store.get("twin").path)
    with pytest.raises(ModelFileError, match="but should have"):
        shelf.verify_unchanged(other)
    assert store.get("twin").path.parent == store.folders.quarantine
    assert shelf.models()[0].state is ModelState.FAILED
    store.remove("small")
    store.remove("twin")
    with pytest.raises(ModelFileError, match="no model"):
        shelf.verify_unchanged(other)
