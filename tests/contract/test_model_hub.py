"""Names on a model hub: from the name to a verified file, and what a hub may not do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.errors import ModelFileError
from node.store.adding import Wishes
from node.store.errors import DownloadError, SourceError
from node.store.hub import Hub
from tests.fakes.gguf_files import large_gguf
from tests.fakes.model_files import StoreWorld
from tests.fakes.model_server import ModelServer, model_server

CONTENT = large_gguf(600_000)
DIGEST = hashlib.sha256(CONTENT).digest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        running.does.files["/m.gguf"] = CONTENT
        running.does.etags["/m.gguf"] = '"one"'
        yield running


@pytest.fixture
def world(tmp_path: Path) -> StoreWorld:
    return StoreWorld(tmp_path / "models")


def on_hub(server: ModelServer, world: StoreWorld, files: list[dict[str, object]]) -> None:
    world.hub = Hub(server.url, "hub-token-of-the-test")
    answer = {"sha": COMMIT, "siblings": files, "cardData": {"license": "apache-2.0"}}
    server.does.answers["/api/models/some/model/revision/main?blobs=true"] = answer
    server.does.redirects[f"/some/model/resolve/{COMMIT}/m-q8.gguf"] = "/m.gguf"


LFS = {"sha256": DIGEST.hex(), "size": len(CONTENT), "pointerSize": 134}


def test_a_name_on_the_hub(world: StoreWorld, server: ModelServer) -> None:
    on_hub(server, world, [{"rfilename": "README.md"}, {"rfilename": "m-q8.gguf", "lfs": LFS}])
    server.does.die_after = [100_000]
    name = world.add("some/model")
    model = world.store.get(name)
    assert (model.digest, model.licence) == (DIGEST, "apache-2.0")
    assert model.source == f"hf:some/model/m-q8.gguf@{COMMIT}"
    asked = len(server.requests_of("/m.gguf"))
    assert world.add("hf:some/model/m-q8.gguf") == name
    assert len(server.requests_of("/m.gguf")) == asked
    assert "already" in world.said[-1]


def test_the_token_goes_to_the_hub_only(world: StoreWorld, server: ModelServer) -> None:
    on_hub(server, world, [{"rfilename": "m-q8.gguf", "lfs": LFS}])
    with model_server() as elsewhere:
        elsewhere.does.files["/signed.gguf"] = CONTENT
        path = f"/some/model/resolve/{COMMIT}/m-q8.gguf"
        server.does.redirects[path] = f"{elsewhere.url}/signed.gguf?secret=1"
        world.add("some/model")
        assert "authorization" not in elsewhere.asked[0][2]
    assert server.requests_of(path)[0]["authorization"] == "Bearer hub-token-of-the-test"
    for kept in world.store.folders.root.rglob("*.json"):
        assert "hub-token" not in kept.read_text()
        assert "secret" not in kept.read_text()


def test_a_file_that_is_not_what_the_hub_says(world: StoreWorld, server: ModelServer) -> None:
    lfs = {**LFS, "sha256": "ab" * 32}
    on_hub(server, world, [{"rfilename": "m-q8.gguf", "lfs": lfs}])
    with pytest.raises(ModelFileError, match="should have abab"):
        world.add("some/model")
    on_hub(server, world, [{"rfilename": "m-q8.gguf", "lfs": {**LFS, "size": 17}}])
    with pytest.raises(DownloadError, match="should have 17"):
        world.add("some/model")
    with pytest.raises(ModelFileError, match="on the hub"):
        world.add("some/model", Wishes(digest=bytes(32)))


def test_the_digest_in_the_headers(world: StoreWorld, server: ModelServer) -> None:
    on_hub(server, world, [{"rfilename": "m-q8.gguf"}])
    path = f"/some/model/resolve/{COMMIT}/m-q8.gguf"
    server.does.headers[path] = {"X-Linked-Etag": f'"{"cd" * 32}"', "X-Linked-Size": "600032"}
    with pytest.raises((ModelFileError, DownloadError), match="should have"):
        world.add("some/model")


def test_which_file_is_meant(world: StoreWorld, server: ModelServer) -> None:
    files: list[dict[str, object]] = [
        {"rfilename": name, "lfs": LFS}
        for name in (
            "a-q4.gguf",
            "a-q8.gguf",
            "mmproj-a.gguf",
            "b-00001-of-00002.gguf",
            "../x.gguf",
        )
    ]
    on_hub(server, world, files)
    with pytest.raises(SourceError, match=r"which file is meant: it has a-q4\.gguf, a-q8\.gguf"):
        world.add("some/model")
    with pytest.raises(SourceError, match="no such file"):
        world.add("hf:some/model/c.gguf")
    with pytest.raises(SourceError, match="split"):
        world.add("hf:some/model/b-00001-of-00002.gguf")
    on_hub(server, world, [{"rfilename": "README.md"}])
    with pytest.raises(SourceError, match="no GGUF files"):
        world.add("some/model")


def test_a_hub_that_answers_nonsense(world: StoreWorld, server: ModelServer) -> None:
    world.hub = Hub(server.url)
    with pytest.raises(DownloadError, match="404"):
        world.add("some/model")
    path = "/api/models/some/model/revision/main?blobs=true"
    for answer in ([], {"sha": "../..", "siblings": []}, {"sha": COMMIT, "siblings": {}}, "x"):
        server.does.answers[path] = answer
        with pytest.raises(DownloadError, match="documents"):
            world.add("some/model")
    world.hub = Hub("http://192.0.2.1")
    with pytest.raises(SourceError, match="not https"):
        world.add("some/model")
