"""Owns the command line of the runtime process: `python -m node.runtime --model PATH ...`."""

from __future__ import annotations

import argparse

from node.limits import CONTEXT_TOKENS_DEFAULT, REPRODUCIBLE_UBATCH_TOKENS, SLOTS_DEFAULT
from node.runtime.engine import Engine, EngineSettings
from node.runtime.host import run


def main() -> None:
    """Read the arguments and serve the model until stdin ends."""
    parser = argparse.ArgumentParser(
        prog="node.runtime", description="Serve one model to an agent."
    )
    parser.add_argument("--model", required=True, help="path of the GGUF file")
    parser.add_argument("--slots", type=int, default=SLOTS_DEFAULT, help="jobs at the same time")
    parser.add_argument(
        "--context", type=int, default=CONTEXT_TOKENS_DEFAULT, help="tokens per job"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine")
    parser.add_argument("--ubatch", type=int, default=REPRODUCIBLE_UBATCH_TOKENS)
    arguments = parser.parse_args()

    def open_engine() -> Engine:
        # Imported here: loading llama.cpp takes a while; the host must be reading stdin by then.
        from node.runtime.llama_engine import open_engine

        return open_engine(
            EngineSettings(
                path=arguments.model,
                slots=arguments.slots,
                context_tokens=arguments.context,
                threads=arguments.threads,
                ubatch_tokens=arguments.ubatch,
            )
        )

    run(open_engine)


if __name__ == "__main__":
    main()
