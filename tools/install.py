"""Sets up .venv from the lock files: all of `make install`, with nothing but Python's own library.

Theory of operation. Four stages, each remembered in .venv by the digest of what it was made from,
so that a second run does nothing: the build tools, the locked packages, llama-cpp-python, and the
project itself (editable). Every package is verified against the hashes of a lock file; builds use
the locked tools and nothing that pip would choose by itself. llama-cpp-python has no wheel, so its
source is built once into a cache folder and installed from there by every later clone of the
project. The build runs beside the second stage. The folder's name depends on everything that shapes
the wheel: the locked versions, the build flags, the compiler variables, and the CPU, because the
build uses every instruction this CPU has and would die of SIGILL on a lesser one.

Environment: CMAKE_ARGS is added to the build's flags (`CMAKE_ARGS=-DGGML_CUDA=on make`), CC, CXX,
CFLAGS, CXXFLAGS are used as they are, XDG_CACHE_HOME moves the cache (default ~/.cache).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "resultity-install.json"
NO_COMMON = ROOT / "tools" / "nocommon.cmake"
PACKAGES_LOCK = ROOT / "requirements.txt"
LLAMA_LOCK = ROOT / "requirements-llama.txt"
BUILD_LOCK = ROOT / "requirements-build.txt"
PYTHON_VERSION_MIN = (3, 11)
COMPILER_VARIABLES = ("CMAKE_ARGS", "CC", "CXX", "CFLAGS", "CXXFLAGS", "CMAKE_BUILD_TYPE")
# Not resolved again: the locks are complete, and one of them overrides a pin of libp2p's.
LOCKED = ("--no-deps", "--require-hashes", "--use-pep517", "--no-build-isolation")
PROGRESS_INTERVAL_S = 15.0
LOG_TAIL_LINES = 40


class InstallError(Exception):
    """Something the person at the keyboard must repair; the message says what."""


def say(text: str) -> None:
    print(f"[install] {text}", flush=True)


def digest(*parts: str | bytes | Path) -> str:
    """Return a short digest of texts, bytes and the contents of files."""
    whole = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part
        encoded = content.encode() if isinstance(content, str) else content
        whole.update(len(encoded).to_bytes(8, "big") + encoded)
    return whole.hexdigest()[:20]


def cpu_kind() -> str:
    """Return text that differs between CPUs whose instruction sets may differ."""
    facts = [platform.system(), platform.machine()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                facts += sorted(value.split())
                break
    elif platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        facts.append(subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.strip())
    else:
        facts.append(platform.processor())
    return " ".join(facts)


def wheel_key() -> str:
    """Return the name of the cache folder for the wheel that this machine would build."""
    variables = json.dumps({name: os.environ.get(name, "") for name in COMPILER_VARIABLES})
    # Asked of the system, not of this Python's executable: the wheel serves every Python.
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else ""
    return digest(LLAMA_LOCK, BUILD_LOCK, NO_COMMON, variables, libc or "", cpu_kind())


def cache_folder() -> Path:
    """Return the folder in which wheels are kept, one folder per key."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "resultity" / "wheels"


def pip(python: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
    """Run pip of `python`; raises InstallError if it fails."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    finished = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
    if finished.returncode != 0:
        raise InstallError(f"`{' '.join(command)}` failed, see above")


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two installs at once do not both build."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def find_wheel(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("llama_cpp_python-*.whl"))), None)


def check_compilers() -> None:
    """Raise InstallError unless there is a C and a C++ compiler."""
    for variable, names in (("CC", ("cc", "gcc", "clang")), ("CXX", ("c++", "g++", "clang++"))):
        chosen = os.environ.get(variable)
        if chosen is None and not any(shutil.which(name) for name in names):
            raise InstallError(
                f"llama.cpp needs a C and a C++ compiler, and none of {', '.join(names)} is here: "
                "install one (Debian: apt install build-essential; macOS: xcode-select "
                f"--install), or name one in {variable}"
            )


def run_build(command: list[str], environment: dict[str, str], log: Path) -> None:
    """Run the build with its output in `log`, saying now and then that it goes on."""
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while True:
            try:
                code = process.wait(timeout=PROGRESS_INTERVAL_S)
                break
            except subprocess.TimeoutExpired:
                say(f"building llama.cpp: {time.monotonic() - started:.0f} s")
    if code != 0:
        tail = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        raise InstallError("\n".join([*tail, "llama.cpp did not build, see above"]))
    say(f"llama.cpp built in {time.monotonic() - started:.0f} s")


def build_wheel(python: Path, destination: Path) -> None:
    """Verify the locked source, build it, and move the finished wheel to `destination`."""
    check_compilers()
    say("building llama.cpp from its verified source: about 1-4 minutes, once on this machine")
    with tempfile.TemporaryDirectory(prefix="resultity-build-") as scratch_name:
        scratch = Path(scratch_name)
        flags = f'-DLLAVA_BUILD=OFF "-DCMAKE_PROJECT_INCLUDE={NO_COMMON}"'
        environment = {
            **os.environ,
            "CMAKE_ARGS": f"{flags} {os.environ.get('CMAKE_ARGS', '')}".strip(),
            "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }
        # No cache of pip's own: it could hand out a wheel that was built with other flags.
        command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "wheel"]
        command += [*LOCKED, "--no-cache-dir", "--no-binary=llama-cpp-python"]
        command += [f"-w{scratch / 'wheel'}", f"-r{LLAMA_LOCK}"]
        run_build(command, environment, scratch / "build.log")
        built = find_wheel(scratch / "wheel")
        if built is None:
            raise InstallError("the build of llama-cpp-python left no wheel")
        partial = destination / (built.name + ".partial")
        shutil.copyfile(built, partial)
        partial.replace(destination / built.name)


def llama_wheel(python: Path) -> Path:
    """Return the wheel of llama-cpp-python for this machine, building it if it is not cached."""
    folder = cache_folder() / wheel_key()
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / "lock"):
        if find_wheel(folder) is None:
            build_wheel(python, folder)
        wheel = find_wheel(folder)
    if wheel is None:
        raise InstallError(f"no wheel in {folder} after the build")
    return wheel


def create_venv() -> Path:
    """Make .venv if it is missing or broken; returns its Python."""
    python = VENV / "bin" / "python"
    check = [str(python), "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
    if python.exists() and subprocess.run(check, stderr=subprocess.DEVNULL).returncode == 0:
        return python
    say(f"making {VENV.name} with Python {platform.python_version()}")
    try:
        venv.create(VENV, with_pip=True, clear=VENV.exists())
    except subprocess.CalledProcessError as error:
        raise InstallError(
            "Python could not make a virtual environment: its venv module is incomplete "
            "(Debian: apt install python3-venv)"
        ) from error
    return python


def remove_stale_stubs() -> None:
    """Delete trio-typing's stubs: older than trio's own types, they would hide these from mypy.

    The package itself stays: libp2p imports it.
    """
    for stubs in VENV.glob("lib/python*/site-packages/trio-stubs"):
        shutil.rmtree(stubs)


def read_stamp() -> dict[str, str]:
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def install() -> None:
    """Bring .venv to what the lock files and pyproject.toml say."""
    python = create_venv()
    done = read_stamp()
    wanted = {
        "build tools": digest(BUILD_LOCK),
        "packages": digest(PACKAGES_LOCK),
        "llama": wheel_key(),
        "project": digest(ROOT / "pyproject.toml", str(ROOT)),
    }
    todo = [stage for stage in wanted if done.get(stage) != wanted[stage]]

    def finish(stage: str) -> None:
        done[stage] = wanted[stage]
        STAMP.write_text(json.dumps(done, indent=2) + "\n")

    if "build tools" in todo:
        pip(python, "install", "--quiet", *LOCKED, f"-r{BUILD_LOCK}")
        finish("build tools")
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        wheel = pool.submit(llama_wheel, python) if "llama" in todo else None
        if "packages" in todo:
            say("installing the locked packages, each verified by its hash")
            pip(python, "install", "--quiet", *LOCKED, f"-r{PACKAGES_LOCK}")
            remove_stale_stubs()
            finish("packages")
        if wheel is not None:
            local = ("--no-deps", "--no-index", "--force-reinstall", str(wheel.result()))
            pip(python, "install", "--quiet", *local)
            finish("llama")
    if "project" in todo:
        pip(python, "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
        finish("project")
    if todo:
        say("ready")


def main() -> int:
    """Install, or say where the wheel of this machine is kept; returns the exit code."""
    parser = argparse.ArgumentParser(description="Set up .venv for Resultity.")
    parser.add_argument(
        "--wheel-folder", action="store_true", help="only print the cache folder of the wheel"
    )
    options = parser.parse_args()
    if sys.version_info < PYTHON_VERSION_MIN:
        print("Resultity needs Python 3.11 or newer", file=sys.stderr)
        return 1
    if options.wheel_folder:
        print(cache_folder() / wheel_key())
        return 0
    try:
        install()
    except InstallError as error:
        print(f"[install] {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("[install] stopped; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
