"""`node models ...` in this process: what is printed, what is refused, where settings come from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.settings import NodeSettings
from node.store.settings import ModelStoreSettings
from resultity.commands.node_models import models
from resultity.transfer_progress import TransferProgress
from tests.fakes.gguf_files import gguf
from tests.fakes.model_server import ModelServer, model_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


class Shell:
    """Runs the commands on one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "mine.gguf"
        self.file.write_bytes(gguf())
        self.environment: dict[str, str | None] = {
            "RESULTITY_NODE_MODELS_DIR": str(folder / "models"),
            "HF_ENDPOINT": None,
        }

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(models, list(words), env=self.environment)

    def well(self, *words: str) -> str:
        result = self.run(*words)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refused(self, *words: str, code: int = 1) -> str:
        result = self.run(*words)
        assert result.exit_code == code, result.output
        return result.stderr.splitlines()[-1]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_add_list_show_verify_remove(shell: Shell) -> None:
    assert shell.well("add", str(shell.file)).startswith("small: sha256 ")
    table = shell.well("list")
    assert "small" in table
    assert "pending" in table
    assert "F32" in table
    assert json.loads(shell.well("list", "--json"))["name"] == "small"
    assert json.loads(shell.well("show", "small", "--json"))["parameter_count"] == 16
    assert "tasks                  chat, embeddings" in shell.well("show", "small")
    assert shell.well("verify", "small") == "small: right, pending\n"
    assert shell.well("remove", "small", "--keep-file") == "small: archived\n"
    assert "by the operator" in shell.well("list")
    assert shell.well("restore", "small") == "small: pending\n"
    assert shell.well("remove", "small") == f"small: removed, {len(gguf()):,} bytes deleted\n"
    assert shell.file.exists()
    assert shell.well("list", "--json") == ""


def test_refusals_are_one_line(shell: Shell) -> None:
    assert "no model none" in shell.refused("show", "none")
    assert "no model none" in shell.refused("verify", "none")
    assert "not https" in shell.refused("add", "http://192.0.2.1/x.gguf")
    assert "there is no file nowhere" in shell.refused("add", "nowhere")
    assert "64 hex" in shell.refused("add", str(shell.file), "--sha256", "12")
    assert "should have" in shell.refused("add", str(shell.file), "--sha256", "0" * 64)
    assert "models_disk_bytes_max" in shell.refused(
        "add", str(shell.file), "--disk-bytes-max", "100"
    )
    shell.file.write_bytes(gguf()[:-1])
    assert "truncated" in shell.refused("add", str(shell.file))
    for words in (
        ("verify",),
        ("verify", "x", "--all"),
        ("remove",),
        ("remove", "--leftovers", "--keep-file"),
        ("add", str(shell.file), "--copy", "--in-place"),
    ):
        assert shell.refused(*words, code=2).startswith("Error: ")


def test_leftovers_are_told_and_removed(shell: Shell, server: ModelServer) -> None:
    server.does.files["/m.gguf"] = gguf()
    shell.refused("add", f"{server.url}/m.gguf", "--sha256", "0" * 64)
    listed = shell.run("list")
    assert "1 files" in listed.stderr
    assert "--leftovers" in listed.stderr
    assert shell.well("remove", "--leftovers") == f"1 files removed, {len(gguf()):,} bytes\n"


def hub(server: ModelServer) -> None:
    path = f"/some/model/resolve/{COMMIT}/m.gguf"
    server.does.files[path] = gguf()
    server.does.answers["/api/models/some/model/revision/main?blobs=true"] = {
        "sha": COMMIT,
        "siblings": [{"rfilename": "m.gguf", "size": len(gguf())}],
    }


def test_the_hub_and_its_token(shell: Shell, server: ModelServer, tmp_path: Path) -> None:
    hub(server)
    shell.environment["HF_ENDPOINT"] = server.url
    shell.well("add", "hf:some/model")
    assert "authorization" not in server.asked[0][2]
    shell.environment["RESULTITY_NODE_HUB_TOKEN"] = "of-the-environment"
    shell.well("add", "hf:some/model", "--name", "again")
    assert server.asked[-1][2]["authorization"] == "Bearer of-the-environment"
    token = tmp_path / "token"
    token.write_text("of-the-file\n")
    token.chmod(0o644)
    words = ("add", "hf:some/model", "--name", "third", "--hub-token-file", str(token))
    assert "chmod 600" in shell.refused(*words)
    token.chmod(0o600)
    shell.well(*words)
    assert server.asked[-1][2]["authorization"] == "Bearer of-the-file"
    token.write_text("two words")
    assert "space" in shell.refused(*words)


def test_settings_come_from_a_file_too(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[node]\nnetwork = "x"\nmodels_disk_bytes_max = 7\n')
    assert "at most 7 bytes" in shell.refused("add", str(shell.file), "--config", str(config))
    config.write_text("[node]\nmodels_disk_bytes_max = -1\n")
    shell.refused("add", str(shell.file), "--config", str(config), code=2)


def test_the_store_has_the_nodes_settings() -> None:
    ours, nodes = ModelStoreSettings.__annotations__, NodeSettings.__annotations__
    assert ours == {name: nodes[name] for name in ours}


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with TransferProgress(terminal=False) as shown:
        progress = shown.stage("downloading")
        for done in range(0, 1001, 10):
            progress(done, 1000)
        shown.stage("copying")(5, 0)
        shown.say("a word")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "downloading: 1,000 of 1,000 bytes (100 %)\na word\n"
