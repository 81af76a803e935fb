"""Downloads into the model store from a server that dies, lies, redirects and changes its mind."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.errors import ModelFileError
from node.store.adding import Wishes
from node.store.errors import (
    DownloadError,
    ModelExistsError,
    SourceError,
    StoreBusyError,
    StoreFullError,
)
from node.store.leftovers import find_leftovers
from node.store.part_file import open_part
from node.store.store import ModelStore
from tests.fakes.gguf_files import gguf, large_gguf
from tests.fakes.model_files import StoreWorld
from tests.fakes.model_server import ModelServer, model_server

CONTENT = large_gguf(600_000)
DIGEST = hashlib.sha256(CONTENT).digest()


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        running.does.files["/m.gguf"] = CONTENT
        running.does.etags["/m.gguf"] = '"one"'
        yield running


@pytest.fixture
def world(tmp_path: Path) -> StoreWorld:
    return StoreWorld(tmp_path / "models")


def test_a_whole_download(world: StoreWorld, server: ModelServer) -> None:
    name = world.add(f"{server.url}/m.gguf")
    model = world.store.get(name)
    assert (model.name, model.digest, model.state) == ("large", DIGEST, "pending")
    assert model.path.read_bytes() == CONTENT
    assert model.source == f"{server.url}/m.gguf"
    assert find_leftovers(world.store) == ()
    done = [step for step in world.progress if step[0] == "downloading"]
    assert done[-1] == ("downloading", len(CONTENT), len(CONTENT))
    assert world.store.verify_unchanged(model) == model


def test_a_server_that_dies_again_and_again(world: StoreWorld, server: ModelServer) -> None:
    server.does.die_after = [100_000, 0, 150_000, 10]
    world.add(f"{server.url}/m.gguf")
    asked = server.requests_of("/m.gguf")
    assert [each.get("range") for each in asked[:3]] == [None, "bytes=100000-", "bytes=100000-"]
    assert asked[1]["if-range"] == '"one"'
    assert world.pauses == [1.0, 2.0, 1.0, 2.0]
    assert world.store.get("large").digest == DIGEST


def test_a_server_that_stays_dead_costs_nothing(world: StoreWorld, server: ModelServer) -> None:
    server.does.die_after = [200_000] + [0] * 20
    with pytest.raises(DownloadError, match="200,000 bytes are kept"):
        world.add(f"{server.url}/m.gguf")
    assert world.part_sizes() == [200_000]
    assert world.store.models() == ()
    server.does.die_after = []
    world.add(f"{server.url}/m.gguf")
    assert server.requests_of("/m.gguf")[-1]["range"] == "bytes=200000-"
    assert world.store.get("large").path.read_bytes() == CONTENT


def interrupt(world: StoreWorld, server: ModelServer) -> None:
    server.does.die_after = [200_000] + [0] * 5
    with pytest.raises(DownloadError):
        world.add(f"{server.url}/m.gguf")
    server.asked.clear()


def test_a_server_without_ranges_is_compared(world: StoreWorld, server: ModelServer) -> None:
    server.does.ranges = False
    server.does.die_after = [200_000, 300_000]
    world.add(f"{server.url}/m.gguf")
    assert world.store.get("large").digest == DIGEST


def test_without_a_validator_no_range_is_trusted(world: StoreWorld, server: ModelServer) -> None:
    server.does.etags.clear()
    interrupt(world, server)
    world.add(f"{server.url}/m.gguf")
    assert "range" not in server.requests_of("/m.gguf")[-1]
    assert world.store.get("large").digest == DIGEST


@pytest.mark.parametrize("has_etag", [True, False])
def test_content_that_changed_is_noticed(
    world: StoreWorld, server: ModelServer, has_etag: bool
) -> None:
    if not has_etag:
        server.does.etags.clear()
    interrupt(world, server)
    changed = bytearray(CONTENT)
    changed[150_000] ^= 1
    server.does.files["/m.gguf"] = bytes(changed)
    if has_etag:
        server.does.etags["/m.gguf"] = '"two"'
    with pytest.raises(DownloadError, match=r"changed since the first 200,000 bytes.*--restart"):
        world.add(f"{server.url}/m.gguf")
    assert world.part_sizes() == [200_000]
    world.add(f"{server.url}/m.gguf", Wishes(restart=True))
    assert world.store.get("large").path.read_bytes() == bytes(changed)


def test_a_server_that_continues_another_file(world: StoreWorld, server: ModelServer) -> None:
    interrupt(world, server)
    server.does.etags["/m.gguf"] = '"two"'
    server.does.heeds_if_range = False
    with pytest.raises(DownloadError, match="changed"):
        world.add(f"{server.url}/m.gguf")
    assert world.part_sizes() == [200_000]


def test_after_a_power_cut_only_what_was_made_durable_counts(
    world: StoreWorld, server: ModelServer
) -> None:
    interrupt(world, server)
    (path,) = world.store.folders.partial.glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "an earlier one"}))
    world.add(f"{server.url}/m.gguf")
    assert "range" not in server.requests_of("/m.gguf")[-1]


@pytest.mark.parametrize("state", ["", "{", "[]", '{"url": 1}', '{"url": "", "size_bytes": -1}'])
def test_bytes_without_their_state_are_not_trusted(
    world: StoreWorld, server: ModelServer, state: str
) -> None:
    interrupt(world, server)
    (path,) = world.store.folders.partial.glob("*.json")
    path.write_text(state)
    world.add(f"{server.url}/m.gguf")
    assert "range" not in server.requests_of("/m.gguf")[-1]


def test_killed_between_the_files_move_and_its_manifest(
    world: StoreWorld, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelStore, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        world.add(f"{server.url}/m.gguf")
    monkeypatch.undo()
    assert world.store.models() == ()
    server.asked.clear()
    assert world.add(f"{server.url}/m.gguf") == "large"
    assert server.asked == []
    assert find_leftovers(world.store) == ()


def test_a_file_that_became_shorter(world: StoreWorld, server: ModelServer) -> None:
    interrupt(world, server)
    server.does.files["/m.gguf"] = CONTENT[:100_000]
    with pytest.raises(DownloadError, match="no more than 200,000"):
        world.add(f"{server.url}/m.gguf")
    server.does.ranges = False
    with pytest.raises(DownloadError, match="changed"):
        world.add(f"{server.url}/m.gguf")
    assert world.part_sizes() == [200_000]


def test_with_a_digest_another_etag_does_not_matter(world: StoreWorld, server: ModelServer) -> None:
    interrupt(world, server)
    server.does.etags["/m.gguf"] = '"mirror"'
    world.add(f"{server.url}/m.gguf", Wishes(digest=DIGEST))
    assert server.requests_of("/m.gguf")[0]["range"] == "bytes=200000-"
    assert world.store.get("large").digest == DIGEST


def test_chunked_answers_have_an_end(world: StoreWorld, server: ModelServer) -> None:
    server.does.chunked = True
    server.does.die_after = [300_000]
    world.add(f"{server.url}/m.gguf")
    assert world.store.get("large").digest == DIGEST


def test_an_answer_that_may_end_anywhere_is_refused(world: StoreWorld, server: ModelServer) -> None:
    server.does.no_length = True
    with pytest.raises(DownloadError, match="does not say how long"):
        world.add(f"{server.url}/m.gguf")


def test_a_length_that_is_too_long(world: StoreWorld, server: ModelServer) -> None:
    server.does.claimed_length = len(CONTENT) + 1000
    with pytest.raises(DownloadError, match=f"no more than {len(CONTENT):,} bytes"):
        world.add(f"{server.url}/m.gguf")
    assert world.part_sizes() == [len(CONTENT)]


def test_a_length_that_is_too_short(world: StoreWorld, server: ModelServer) -> None:
    server.does.claimed_length = 300_000
    with pytest.raises(ModelFileError, match=r"truncated.*kept as .*quarantine.*never loaded"):
        world.add(f"{server.url}/m.gguf")
    assert [path.parent.name for path in find_leftovers(world.store)] == ["quarantine"]
    assert world.store.models() == ()


def test_a_length_beyond_all_disks(world: StoreWorld, server: ModelServer) -> None:
    server.does.claimed_length = 1 << 60
    with pytest.raises(DownloadError, match="claims"):
        world.add(f"{server.url}/m.gguf")


def test_a_wrong_digest_goes_to_quarantine(world: StoreWorld, server: ModelServer) -> None:
    with pytest.raises(ModelFileError, match="but should have 0000"):
        world.add(f"{server.url}/m.gguf", Wishes(digest=bytes(32)))
    assert [path.name for path in find_leftovers(world.store)] == [f"sha256-{DIGEST.hex()}"]
    assert world.store.loadable_models() == ()


def test_a_hostile_file_goes_to_quarantine(world: StoreWorld, server: ModelServer) -> None:
    server.does.files["/m.gguf"] = gguf(tensor_count=2**40)
    with pytest.raises(ModelFileError, match="tensors"):
        world.add(f"{server.url}/m.gguf")
    assert world.store.models() == ()


def test_the_stores_limit_before_and_during(
    world: StoreWorld, server: ModelServer, tmp_path: Path
) -> None:
    small = StoreWorld(tmp_path / "small")
    small.store = ModelStore(tmp_path / "small", size_bytes_max=300_000)
    with pytest.raises(StoreFullError, match=r"300,000 .*models_disk_bytes_max"):
        small.add(f"{server.url}/m.gguf")
    assert small.part_sizes() == [0]
    server.does.chunked = True  # no length to be refused for
    with pytest.raises(StoreFullError):
        small.add(f"{server.url}/m.gguf")
    assert 200_000 < sum(small.part_sizes()) <= 300_000
    small.store = ModelStore(tmp_path / "small", size_bytes_max=2_000_000)
    small.add(f"{server.url}/m.gguf")
    assert small.store.get("large").digest == DIGEST


def test_a_disk_that_fills_up(world: StoreWorld, server: ModelServer) -> None:
    """The system refuses to write beyond a size: as a full disk does, after half a write."""
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250_001, hard))
    try:
        with pytest.raises(StoreFullError, match=r"cannot write .*File too large"):
            world.add(f"{server.url}/m.gguf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (kept,) = world.part_sizes()
    assert 150_000 < kept <= 250_000
    world.add(f"{server.url}/m.gguf")
    assert server.requests_of("/m.gguf")[-1]["range"] == f"bytes={kept}-"
    assert world.store.get("large").digest == DIGEST


def test_a_stall_is_a_failure(world: StoreWorld, server: ModelServer) -> None:
    server.does.stall_after = 32_768
    world.stall_timeout_s = 0.2
    with pytest.raises(DownloadError, match="did not answer in time"):
        world.add(f"{server.url}/m.gguf")


def test_answers_that_pass_and_answers_that_do_not(world: StoreWorld, server: ModelServer) -> None:
    server.does.statuses = [503, 429]
    world.add(f"{server.url}/m.gguf")
    assert len(world.pauses) == 2
    with pytest.raises(DownloadError, match="404"):
        world.add(f"{server.url}/none.gguf")
    server.does.statuses = [403]
    with pytest.raises(DownloadError, match="403"):
        world.add(f"{server.url}/m.gguf?again")
    assert len(world.pauses) == 2


def test_redirections_are_bounded(world: StoreWorld, server: ModelServer) -> None:
    server.does.redirects = {"/a": "/b", "/b": "/m.gguf", "/loop": "/loop"}
    world.add(f"{server.url}/a")
    with pytest.raises(DownloadError, match="more than 5 times"):
        world.add(f"{server.url}/loop")
    server.does.redirects["/out"] = "http://192.0.2.1/m.gguf"
    with pytest.raises(SourceError, match="not https"):
        world.add(f"{server.url}/out")
    server.does.redirects["/file"] = "file:///etc/passwd"
    with pytest.raises(SourceError, match="not supported"):
        world.add(f"{server.url}/file")


def test_the_same_download_twice_at_once(world: StoreWorld, server: ModelServer) -> None:
    with (
        open_part(world.store.folders, f"{server.url}/m.gguf", "it"),
        pytest.raises(StoreBusyError, match="another process is busy"),
    ):
        world.add(f"{server.url}/m.gguf")


def test_a_name_that_is_taken_is_refused_before_the_download(
    world: StoreWorld, server: ModelServer
) -> None:
    world.add(f"{server.url}/m.gguf")
    server.does.files["/other.gguf"] = gguf(name="Large")
    with pytest.raises(ModelExistsError, match="--name"):
        world.add(f"{server.url}/other.gguf")  # which name it has is known afterwards only
    asked = len(server.asked)
    with pytest.raises(ModelExistsError):
        world.add(f"{server.url}/other.gguf", Wishes(name="large", digest=bytes(32)))
    assert len(server.asked) == asked
    world.add(f"{server.url}/other.gguf", Wishes(name="other"))
    assert len(server.requests_of("/other.gguf")) == 1  # the bytes were there already
