"""`node models` as an operator uses it: real processes, a web server, kill -9 in mid-download."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from node.store.store import ModelStore
from tests.fakes.gguf_files import large_gguf
from tests.fakes.local_network import HANG_S, REPOSITORY, eventually, resultity_command
from tests.fakes.model_server import model_server

CONTENT = large_gguf(900_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HALF = 400_000


def run(store: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        resultity_command("node", "models", *words, "--models-dir", str(store)),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def states(store: Path) -> dict[str, str]:
    return {model.name: str(model.state) for model in ModelStore(store).models()}


def test_the_life_of_a_model(tmp_path: Path) -> None:
    store = tmp_path / "models"
    with model_server() as server:
        server.does.files["/large.gguf"] = CONTENT
        server.does.etags["/large.gguf"] = '"one"'
        server.does.gate_after = HALF
        url = f"{server.url}/large.gguf"
        words = ("node", "models", "add", url, "--sha256", DIGEST, "--models-dir", str(store))
        process = subprocess.Popen(
            resultity_command(*words), cwd=REPOSITORY, stdin=subprocess.DEVNULL
        )

        def size() -> int:
            return sum(path.stat().st_size for path in store.glob("partial/*.part"))

        eventually(lambda: size() >= HALF, "half of the file is there")
        process.send_signal(signal.SIGKILL)
        assert process.wait(HANG_S) == -signal.SIGKILL
        assert states(store) == {}
        kept = size()

        server.does.gate.set()
        added = run(store, "add", url, "--sha256", DIGEST)
        assert added.returncode == 0, added.stderr
        assert added.stdout == f"large: sha256 {DIGEST}, pending\n"
        assert f"going on after {kept:,} bytes" in added.stderr
        assert "downloading: 900,416 of 900,416" in added.stderr  # no terminal: lines
        assert server.requests_of("/large.gguf")[-1]["range"] == f"bytes={kept}-"
    listed = json.loads(run(store, "list", "--json").stdout)
    assert (listed["name"], listed["state"]) == ("large", "pending")

    (blob,) = (store / "blobs").iterdir()
    assert blob.read_bytes() == CONTENT
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(500_000)
        file.write(bytes([CONTENT[500_000] ^ 1]))
    verified = run(store, "verify", "--all")
    assert verified.returncode == 1
    assert f"Error: large: it has sha256 {hashlib.sha256(blob_content(store)).hexdigest()}" in (
        verified.stderr
    )
    assert states(store) == {"large": "failed"}
    assert not blob.exists()

    removed = run(store, "remove", "large")
    assert removed.returncode == 0, removed.stderr
    assert states(store) == {}
    assert not list((store / "quarantine").iterdir())


def blob_content(store: Path) -> bytes:
    (quarantined,) = (store / "quarantine").iterdir()
    return quarantined.read_bytes()


def test_a_terminal_sees_a_bar(tmp_path: Path) -> None:
    import pty

    source = tmp_path / "model.gguf"
    source.write_bytes(CONTENT)
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "resultity", "node", "models", "add", str(source), "--copy",
             "--models-dir", str(tmp_path / "models")],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}, timeout=HANG_S, check=False,
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        while b"verifying" not in shown:
            data = os.read(ours, 65_536)
            shown += data
    finally:
        os.close(ours)
    assert done.returncode == 0
    assert "━".encode() in shown
