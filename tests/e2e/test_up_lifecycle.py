"""Starting, restarting, failing and ending: `up` and `down` with real processes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import psutil

from resultity.local.folders import LocalFolders
from resultity.local.state import read_state
from tests.fakes.local_network import (
    CAPITAL,
    REPOSITORY,
    eventually,
    local_network,
    logs_of,
    resultity_command,
    run_resultity,
    runs,
    start_network,
)


def test_a_second_start_continues(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with local_network(data_dir, nodes=1) as first:
        assert first.run("ask", CAPITAL).returncode == 0
        account = ("account", "balance", "--json")

        def held() -> int:
            return int(json.loads(first.run(*account).stdout)["held_microcredits"])

        eventually(lambda: held() == 0, "nothing is held")
        before = json.loads(first.run(*account).stdout)
        processes = first.families()
        done = first.run("down")
        assert "stopped gateway, node-1, bootstrap" in done.stdout
        assert not [process for process in processes if runs(process)]
        assert "nothing was running" in first.run("down").stdout
        second = start_network(data_dir)
        assert json.loads(second.run(*account).stdout) == before
        for field in dataclasses.fields(first):
            if field.name != "processes":
                assert getattr(first, field.name) == getattr(second, field.name)
        peers = [[entry["peer_id"] for entry in one.processes] for one in (first, second)]
        assert peers[0] == peers[1]
        # Only what is missing is started again.
        killed = psutil.Process(second.processes[1]["pid"])
        killed.kill()
        eventually(lambda: not runs(killed), "the node is gone")
        third = start_network(data_dir)
        pids = [[entry["pid"] for entry in one.processes] for one in (second, third)]
        assert [same for same in range(3) if pids[0][same] == pids[1][same]] == [0, 2]
        assert third.run("ask", CAPITAL).stdout == "The capital of France is Paris.\n"


def test_the_foreground_restarts_what_dies_and_stops_all_on_ctrl_c(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    folders = LocalFolders(data_dir)
    errors = (tmp_path / "errors").open("w+")
    up = subprocess.Popen(
        resultity_command("up", "--nodes", "1", "--port", "0", "--data-dir", str(data_dir)),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    try:
        assert up.stdout is not None
        shown = up.stdout.readline()
        assert shown.startswith("base URL"), logs_of(data_dir)
        node = read_state(folders).process("node-1")
        assert node is not None
        os.kill(node.pid, signal.SIGKILL)

        def replaced() -> bool:
            now = read_state(folders).process("node-1")
            return now is not None and now.pid != node.pid and bool(now.peer_id)

        eventually(replaced, "the node was started again")
        processes = [psutil.Process(record.pid) for record in read_state(folders).processes]
        up.send_signal(signal.SIGINT)
        # Not `communicate`: it does not see what `readline` has taken from the pipe already.
        with up.stdout:
            rest = up.stdout.read()
        up.wait(timeout=60)
    finally:
        run_resultity("down", "--data-dir", str(data_dir))
        up.kill()
        up.wait()
    assert "OpenAI(base_url=" in rest
    assert up.returncode == 0
    assert not [process for process in processes if runs(process)]
    errors.seek(0)
    said = errors.read()
    errors.close()
    assert "node-1 died" in said
    assert "node-1 is back" in said
    assert "Traceback" not in said


def test_down_ends_the_foreground_too(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    up = subprocess.Popen(
        resultity_command("up", "--nodes", "1", "--port", "0", "--data-dir", str(data_dir)),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert up.stdout is not None
        assert up.stdout.readline().startswith("base URL"), logs_of(data_dir)
        done = run_resultity("down", "--data-dir", str(data_dir))
        assert done.returncode == 0, done.stderr
        up.communicate(timeout=60)
    finally:
        up.kill()
        up.wait()
    assert not read_state(LocalFolders(data_dir)).alive()


def test_a_failed_start_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    data_dir, model = tmp_path / "data", tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF\x03\x00\x00\x00 and nothing more")
    where = ("--data-dir", str(data_dir), "--port", "0")
    done = run_resultity("up", "--detach", *where, "--model", str(model))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: model ")
    assert "Traceback" not in done.stderr
    assert not read_state(LocalFolders(data_dir)).alive()


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_resultity("up", "--detach", "--data-dir", str(tmp_path), "--port", port)
    assert done.returncode == 1
    assert f"port {port} is in use" in done.stderr
    assert "--port" in done.stderr
    assert not read_state(LocalFolders(tmp_path)).processes


def test_a_process_that_cannot_start_is_named(tmp_path: Path) -> None:
    done = run_resultity(
        "up", "--detach", "--port", "0", "--data-dir", str(tmp_path),
        RESULTITY_NODE_QUEUE_JOBS_MAX="many",
    )  # fmt: skip
    assert done.returncode == 1
    assert "did not start: RESULTITY_NODE_QUEUE_JOBS_MAX must be a whole number" in done.stderr
    assert not read_state(LocalFolders(tmp_path)).processes
