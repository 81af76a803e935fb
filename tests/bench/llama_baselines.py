"""Owns the servers that the engine is compared with: llama.cpp's own, and llama_cpp.server.

`llama-server` is built once from the sources in the llama-cpp-python package that our lock names,
with the same compiler and default flags as our wheel (about 400 seconds of CPU), into the cache
folder. What `llama_cpp.server` needs beside our packages is installed beside it, by hash. A server
that cannot be had is a reason in words, not an error: the report shows it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from processes import BENCH, REPOSITORY, STOP_TIMEOUT_S, BenchError

SERVER_PACKAGES = BENCH / "requirements-llama-cpp-server.txt"
LLAMA_LOCK = REPOSITORY / "requirements-llama.txt"
DOWNLOAD_TIMEOUT_S = 300.0
BUILD_TIMEOUT_S = 3600.0
READY_TIMEOUT_S = 60.0
CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)


@dataclass(frozen=True, slots=True)
class Setup:
    """How all sides run a model: the same for ours and for the baselines."""

    model: Path
    slots: int
    context_tokens: int
    threads: int
    ubatch_tokens: int
    unified: bool


def locked_version() -> str:
    """The version of llama-cpp-python that the project uses."""
    text = LLAMA_LOCK.read_text()
    return text.split("llama-cpp-python==", 1)[1].split()[0]


def llama_server(folder: Path) -> Path:
    """Give llama-server's path; builds it the first time. Raises: BenchError."""
    kept = folder / f"llama-server-{locked_version()}"
    server = kept / "bin" / "llama-server"
    if server.exists():
        return server
    sources, build = folder / "llama-sources", folder / "llama-build"
    for path in (sources, build):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    _run(
        [*_pip("download"), "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        + ["--require-hashes", "-r", str(LLAMA_LOCK), "-d", str(sources)],
        DOWNLOAD_TIMEOUT_S,
    )
    archive = next(sources.glob("llama_cpp_python-*.tar.gz"))
    with tarfile.open(archive) as opened:
        opened.extractall(sources, filter="data")
    llama = next(sources.glob("*/vendor/llama.cpp"))
    tools = Path(sys.executable).parent
    ninja = str(tools / "ninja")
    _run(
        [str(tools / "cmake"), "-G", "Ninja", "-S", str(llama), "-B", str(build)]
        + [f"-DCMAKE_MAKE_PROGRAM={ninja}", *CMAKE_FLAGS],
        DOWNLOAD_TIMEOUT_S,
    )
    _run(["nice", "-n", "10", ninja, "-C", str(build), "llama-server"], BUILD_TIMEOUT_S)
    kept.mkdir(exist_ok=True)
    (build / "bin").rename(kept / "bin")
    for path in (sources, build):
        shutil.rmtree(path)
    return server


def server_packages(folder: Path) -> Path:
    """Give the folder with what llama_cpp.server needs; installs it. Raises: BenchError."""
    target = folder / f"server-packages-{locked_version()}"
    if not target.exists():
        partial = folder / "server-packages-partial"
        shutil.rmtree(partial, ignore_errors=True)
        _run(
            [*_pip("install"), "--no-deps", "--require-hashes", "--only-binary", ":all:"]
            + ["--target", str(partial), "-r", str(SERVER_PACKAGES)],
            DOWNLOAD_TIMEOUT_S,
        )
        partial.rename(target)
    return target


def _pip(word: str) -> list[str]:
    return [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-input", word]


def _run(command: list[str], timeout_s: float) -> None:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{Path(command[0]).name}: {error}") from error
    if result.returncode:
        said = (result.stderr or result.stdout).strip()[-600:]
        raise BenchError(f"{Path(command[0]).name} failed: {said}")


@contextlib.contextmanager
def running_llama_server(server: Path, setup: Setup) -> Iterator[tuple[str, int]]:
    """Run llama.cpp's server; gives the URL of its native completion and its process ID.

    Raises: BenchError.
    """
    port = _free_port()
    command = [str(server), "-m", str(setup.model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-np", str(setup.slots), "-c", str(setup.slots * setup.context_tokens)]
    command += ["-t", str(setup.threads), "-tb", str(setup.threads), "-fa", "on", "-ngl", "0"]
    command += ["-ub", str(setup.ubatch_tokens), "-b", str(max(setup.ubatch_tokens, 144))]
    command += ["-kvu" if setup.unified else "-no-kvu", "--cache-ram", "0", "--no-warmup"]
    libraries = {**os.environ, "LD_LIBRARY_PATH": str(server.parent)}
    root = f"http://127.0.0.1:{port}"
    with _running(command, libraries, f"{root}/health") as pid:
        yield f"{root}/completion", pid


@contextlib.contextmanager
def running_llama_cpp_server(packages: Path, setup: Setup) -> Iterator[tuple[str, int]]:
    """Run llama_cpp.server; gives the URL of its completion and its process ID.

    It serves one request at a time; without its default of breaking off a stream when the next
    request comes, which would lose answers. Raises: BenchError.
    """
    port = _free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(setup.model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--verbose", "false"]
    command += ["--n_threads", str(setup.threads), "--n_threads_batch", str(setup.threads)]
    command += ["--n_ctx", str(setup.context_tokens), "--n_batch", "512", "--flash_attn", "true"]
    command += ["--interrupt_requests", "false"]
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    root = f"http://127.0.0.1:{port}"
    with _running(command, environment, f"{root}/v1/models") as pid:
        yield f"{root}/v1/completions", pid


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str], probe: str) -> Iterator[int]:
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as child:
        try:
            _wait_ready(child, probe)
            yield child.pid
        finally:
            child.terminate()
            try:
                child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()


def _wait_ready(child: subprocess.Popen[bytes], probe: str) -> None:
    """Wait for status 200: llama-server answers 503 to everything until its model is loaded."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if child.poll() is not None:
            raise BenchError(f"a baseline ended with code {child.returncode}")
        try:
            with urllib.request.urlopen(probe, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise BenchError("a baseline was not ready in time")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
