"""Owns a runtime process without a model.

Start it with `python tests/fakes/scripted_runtime.py --tokens 20 --delay-ms 0`.

Speaks the real protocol through the real host (`node.runtime.host`); only the engine is scripted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from node.errors import ModelFileError
from node.runtime.engine import Engine
from node.runtime.host import run
from tests.fakes.scripted_engine import Script, ScriptedEngine


def command(**options: object) -> tuple[str, ...]:
    """Give the command line that starts this runtime, e.g. `command(tokens=20, delay_ms=5)`."""
    words = [sys.executable, str(Path(__file__).resolve())]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return tuple(words)


def main() -> None:
    defaults = Script()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=defaults.tokens)
    parser.add_argument("--delay-ms", type=float, default=defaults.delay_ms)
    parser.add_argument("--tokens-per-step", type=int, default=defaults.tokens_per_step)
    parser.add_argument("--slots", type=int, default=defaults.slots)
    parser.add_argument("--context-tokens", type=int, default=defaults.context_tokens)
    parser.add_argument("--fail-after", type=int, default=None)
    parser.add_argument("--hang-after", type=int, default=None)
    parser.add_argument("--crash-after", type=int, default=None)
    parser.add_argument("--start-failure", default="", help="refuse to start, with this reason")
    arguments = vars(parser.parse_args())
    start_failure = arguments.pop("start_failure")

    def open_engine() -> Engine:
        if start_failure:
            raise ModelFileError(start_failure)
        return ScriptedEngine(Script(**arguments))

    run(open_engine)


if __name__ == "__main__":
    main()
