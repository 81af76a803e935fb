"""The sandbox: a socket from inside reaches nobody, and what a system without one is told."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from node.errors import SandboxError
from node.sandbox import sandbox_prefix

TRY = """
import socket, sys
reached = []
for family, address in (
    (socket.AF_INET, ("127.0.0.1", int(sys.argv[1]))),
    (socket.AF_INET, ("192.0.2.1", 80)),
    (socket.AF_INET6, ("::1", int(sys.argv[1]))),
):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.settimeout(5)
            tried.connect(address)
        reached.append(address)
    except OSError as error:
        print(type(error).__name__)
try:
    with socket.socket(socket.AF_UNIX) as tried:
        tried.connect(sys.argv[2].replace("@", chr(0)))
    reached.append("abstract")
except OSError:
    pass
sys.exit(bool(reached))
"""


def test_a_socket_from_inside_reaches_nobody() -> None:
    name = f"@resultity-{Path.cwd().name}-sandbox-test"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(name.replace("@", "\0"))
        local.listen()
        words = [sys.executable, "-c", TRY, str(server.getsockname()[1]), name]
        outside = subprocess.run(words, timeout=60, check=False)
        assert outside.returncode == 1, "the test itself must be able to connect"
        # Where CI runs it must work; another system may have no sandbox at all.
        prefix = sandbox_prefix("require" if os.environ.get("CI") else "auto")
        if not prefix:
            pytest.skip("this system lets nobody make a network namespace")
        inside = subprocess.run([*prefix, *words], timeout=60, check=False)
        assert inside.returncode == 0


def test_a_system_without_a_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert sandbox_prefix("off") == ()
    broken = tmp_path / "unshare"
    broken.write_text("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n")
    broken.chmod(0o755)
    true = shutil.which("true")
    for found in (None, str(broken)):
        monkeypatch.setattr(
            "shutil.which", lambda name, found=found: found if name == "unshare" else true
        )
        assert sandbox_prefix("auto") == ()
        with pytest.raises(SandboxError, match="unshare"):
            sandbox_prefix("require")
