"""Makes the lock files from pyproject.toml: every version and hash, no registry host.

Needs `uv` on the PATH; run it as `python tools/lock.py` whenever a dependency changes, and commit
what it writes. Nobody else needs uv: `make install` works with plain pip.

- requirements.txt: everything but llama-cpp-python, with the tools of a developer.
- requirements-llama.txt: llama-cpp-python alone, which `tools/install.py` builds and caches.
- requirements-build.txt: what its build needs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LLAMA = "llama-cpp-python"
HEADER = "# Made by tools/lock.py. Do not edit: change the source and run it again.\n"


def compile_lock(source: str, *arguments: str) -> str:
    """Return the lock of `source` as uv writes it: universal, hashes, no comments."""
    command = [
        "uv",
        "pip",
        "compile",
        source,
        *arguments,
        "--universal",
        "--python-version=3.11",
        "--generate-hashes",
        "--no-emit-index-url",
        "--no-emit-find-links",
        "--no-annotate",
        "--no-header",
        "--quiet",
    ]
    finished = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return finished.stdout


def split_blocks(lock: str) -> list[str]:
    """Return one block per requirement: its line and the lines of its hashes."""
    return [block.rstrip() + "\n" for block in re.split(r"\n(?=\S)", lock.strip())]


def main() -> int:
    """Write the three lock files; returns 1 if a host slipped into one of them."""
    blocks = split_blocks(compile_lock("pyproject.toml", "--extra=dev"))
    files = {
        "requirements.txt": [block for block in blocks if not block.startswith(LLAMA + "==")],
        "requirements-llama.txt": [block for block in blocks if block.startswith(LLAMA + "==")],
        "requirements-build.txt": split_blocks(compile_lock("requirements-build.in")),
    }
    for name, chosen in files.items():
        if not chosen or any("://" in block for block in chosen):
            print(f"{name}: empty, or it names a host", file=sys.stderr)
            return 1
        (ROOT / name).write_text(HEADER + "".join(chosen))
        print(f"{name}: {len(chosen)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
