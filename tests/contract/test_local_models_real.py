"""Models with real files and real runtimes: killed under eight jobs, changed on disk, in turns."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from node.agent.runtime_port import ModelState
from node.errors import ModelFileError
from node.model_file import read_model_file
from node.serving.local_model import LocalModel
from node.serving.models import ServedModels
from node.serving.opening import open_models
from node.serving.shelf import OneFileShelf
from node.settings import NodeSettings
from node.store.manifest import stamp_of
from node.store.store import ModelStore
from p2p.configuration_book import ConfigurationBook
from p2p.job_messages import AcceptFrame, EndFrame, OutputFrame
from p2p.network_configuration import ApprovedModel
from tests.fakes.job_desk import Desk
from tests.fakes.trust import MODEL, NETWORK, book_with, configuration

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "resultity" / "models" / "tiny-chat-q8_0.gguf"
REQUEST = b'{"messages": [{"role": "user", "content": "Count from 1 to 20."}], "temperature": 1}'
HANG_GUARD_S = 90


def approved(path: Path, name: str) -> ApprovedModel:
    digest = read_model_file(path).digest.hex()
    return MODEL.model_copy(update={"name": name, "digest": digest})


def other_model(path: Path) -> Path:
    """The demo model under another name, which makes it another file of the same size."""
    data = DEMO.read_bytes()
    at = data.index(b"general.name") + len(b"general.name") + 4 + 8
    path.write_bytes(data[:at] + b"Z" + data[at + 1 :])
    return path


@dataclass
class Opened:
    models: ServedModels
    file: LocalModel | None
    book: ConfigurationBook
    changes: list[None]


@asynccontextmanager
async def opened(
    tmp_path: Path, *names: ApprovedModel, **settings: object
) -> AsyncIterator[Opened]:
    book = book_with()
    book.offer(configuration(2, book.signed, models=names))
    changes: list[None] = []
    made = NodeSettings(
        data_dir=tmp_path,
        network=NETWORK,
        bootstraps=("/x",),
        slots=8,
        context_tokens=512,
        threads=1,
        sandbox="off",
        **settings,  # type: ignore[arg-type]
    )
    with trio.fail_after(HANG_GUARD_S):
        async with open_models(made, book, lambda: changes.append(None)) as found:
            yield Opened(found.models, found.file, book, changes)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await trio.sleep(0.01)


async def test_a_runtime_killed_under_eight_jobs(tmp_path: Path) -> None:
    model_file = tmp_path / "model.gguf"
    shutil.copy(DEMO, model_file)
    names = (approved(DEMO, "tiny-chat"),)
    async with opened(tmp_path, *names, model=model_file) as node:
        model = node.file
        assert model is not None
        assert model._process is not None
        desk = Desk(slots=8)
        desk.book.offer(configuration(2, desk.book.signed, models=names))
        desk.agent.models = node.models
        digest = model.facts.digest
        async with desk.session():

            async def begin(number: int) -> None:
                request = {"request": REQUEST, "request_hash": hashlib.sha256(REQUEST).digest()}
                offer = desk.offer(number, model_digest=digest, output_tokens_max=50, **request)
                desk.send_offer(offer, number)
                desk.send_voucher(offer, number)

            # All eight are sure to run when it dies: it is stopped before they can end.
            pid = model._process.pid
            assert pid is not None
            for number in range(1, 9):
                await begin(number)
            await desk.next(AcceptFrame, 8)
            await desk.next(OutputFrame, 1)
            os.kill(pid, signal.SIGSTOP)
            running = 8 - len(desk.of(EndFrame))
            os.kill(pid, signal.SIGKILL)
            killed_s = time.monotonic()
            await desk.next(EndFrame, 8)
            ended_s = time.monotonic() - killed_s
            await until(lambda: model.counters.restarts == 1 and model.ready)
            back_s = time.monotonic() - killed_s
            print(f"{running} jobs ended after {ended_s:.3f} s, proved again after {back_s:.2f} s")
            ends = desk.of(EndFrame)
            failed = [end for end in ends if end.outcome == "failed"]
            # Output that had left the runtime when it was stopped may still complete an answer.
            assert 0 < len(failed) <= running
            assert all(end.outcome in ("failed", "stop", "length") for end in ends)
            assert all(end.receipt is not None for end in ends), "what was made can be paid"
            await until(lambda: desk.agent.jobs == 0)
            assert model.jobs == 0
            await begin(9)
            assert (await desk.next(EndFrame, 9)).outcome in ("stop", "length")

        # And its file is changed while it is in memory: the next start finds out.
        with model_file.open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
        assert model.ready
        os.kill(model._process.pid or 0, signal.SIGKILL)
        await until(lambda: model.state is ModelState.FAILED)
        assert "changed on disk after it was verified" in model.reason
        assert model.advert() is None
        assert not model.loaded()


def test_the_one_file_is_read_again_only_if_it_looks_changed(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(DEMO, path)
    shelf = OneFileShelf(path)
    (kept,) = shelf.models()
    assert shelf.verify_unchanged(kept) is kept
    os.utime(path, ns=(1, 1))  # touched, the same bytes: read again, and fine
    assert shelf.verify_unchanged(kept).file.digest == kept.file.digest
    times = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # size and time as before
    for _ in range(2):
        with pytest.raises(ModelFileError, match="changed on disk after it was verified"):
            shelf.verify_unchanged(kept)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelFileError):
        shelf.verify_unchanged(kept)
    path.unlink()
    with pytest.raises(ModelFileError, match="No such file"):
        shelf.verify_unchanged(kept)
    shutil.copy(DEMO, path)  # put back: it is the same model, whatever its times
    assert shelf.verify_unchanged(kept).file.digest == kept.file.digest


async def test_two_models_of_a_store_take_turns(tmp_path: Path) -> None:
    other = other_model(tmp_path / "other.gguf")
    store = ModelStore(tmp_path / "models")
    for path, name in ((DEMO, "tiny"), (other, "other")):
        store.install_in_place(read_model_file(path), stamp_of(path), name=name, source="test")
    names = (approved(DEMO, "tiny-chat"), approved(other, "other-chat"))
    async with opened(tmp_path, *names, memory_bytes_max=500 << 20, preload=("oth*",)) as node:
        first, second = (node.models.local_with(bytes.fromhex(name.digest)) for name in names)
        await until(lambda: second.ready)  # without an offer
        assert {first.state, second.state} == {ModelState.ACTIVE}
        assert first.facts.name == "tiny-chat"
        assert not first.ready
        runtime = await first.runtime(60)
        await runtime.prepare(
            REQUEST, output_tokens_max=5, seed=0, resume_tokens=(), cache_scope=b""
        )
        assert not second.ready
        held = first.counters.memory_bytes
        assert held > (256 << 20) + DEMO.stat().st_size
        second.count(+1)
        await second.runtime(60)
        assert (first.ready, second.ready) == (False, True), "one leaves for the other"
        store.archive("other")
        await until(lambda: second.state is ModelState.ARCHIVED)
        assert second.ready, "it has a job"
        second.count(-1)
        await until(lambda: not second.loaded())
        assert {model.name: model.state for model in store.models()} == {
            "tiny": ModelState.ACTIVE,
            "other": ModelState.ARCHIVED,
        }


async def test_nothing_to_serve_is_said(tmp_path: Path) -> None:
    with pytest.raises(BaseException) as caught:
        async with opened(tmp_path):
            pass
    error = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ModelFileError)
    assert "node models add" in str(error)
