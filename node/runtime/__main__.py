"""Owns the command line of the runtime process: `python -m node.runtime --model PATH ...`."""

from __future__ import annotations

import argparse

from node.limits import CONTEXT_TOKENS_DEFAULT, MODES
from node.runtime.engine import Engine
from node.runtime.host import run
from node.runtime.wishes import EngineWishes


def main() -> None:
    """Read the arguments and serve the model until stdin ends."""
    parser = argparse.ArgumentParser(
        prog="node.runtime", description="Serve one model to an agent."
    )
    parser.add_argument("--model", required=True, help="path of the GGUF file")
    parser.add_argument("--slots", type=int, help="jobs at the same time (default: measured)")
    parser.add_argument(
        "--context", type=int, default=CONTEXT_TOKENS_DEFAULT, help="tokens per job"
    )
    parser.add_argument("--threads", type=int, help="threads of the engine (default: measured)")
    parser.add_argument("--mode", choices=MODES, default="auto")
    parser.add_argument("--gpu-layers", type=int, help="layers on GPUs (default: all that fit)")
    parser.add_argument("--cache-bytes-max", type=int, help="memory for the sequences' caches")
    parser.add_argument("--remembered", help="file in which measured step costs are kept")
    parser.add_argument("--model-key", default="", help="names the model in that file")
    arguments = parser.parse_args()

    def open_engine() -> Engine:
        # Imported here: loading llama.cpp takes a while; the host must be reading stdin by then.
        from node.runtime.llama.opening import open_as_wished

        return open_as_wished(
            EngineWishes(
                path=arguments.model,
                context_tokens=arguments.context,
                slots=arguments.slots,
                threads=arguments.threads,
                mode=arguments.mode,
                gpu_layers=arguments.gpu_layers,
                cache_bytes_max=arguments.cache_bytes_max,
                remembered=arguments.remembered,
                model_key=arguments.model_key,
            )
        )

    run(open_engine)


if __name__ == "__main__":
    main()
