"""Owns the command line that starts a runtime process."""

from __future__ import annotations

import sys
from pathlib import Path

from node.limits import CONTEXT_TOKENS_DEFAULT, GPU_LAYERS_MAX
from p2p.errors import MalformedError


def runtime_command(
    model: Path,
    *,
    slots: int | None = None,
    context_tokens: int = CONTEXT_TOKENS_DEFAULT,
    threads: int | None = None,
    mode: str = "auto",
    gpu_layers: int | None = None,
    cache_bytes_max: int | None = None,
    remembered: Path | None = None,
    model_key: str = "",
) -> tuple[str, ...]:
    """Give the command line of a runtime; None leaves it to the runtime, which measures.

    Args: as in `node.runtime.wishes.EngineWishes`.
    """
    named = {
        "--slots": slots,
        "--threads": threads,
        "--gpu-layers": gpu_layers,
        "--cache-bytes-max": cache_bytes_max,
        "--remembered": remembered,
        "--model-key": model_key or None,
    }
    words = [word for name, value in named.items() if value is not None for word in (name, value)]
    return (
        *(sys.executable, "-P", "-m", "node.runtime", "--model", str(model)),
        *("--context", str(context_tokens), "--mode", mode),
        *(str(word) for word in words),
    )


def check_gpu_layers(value: str) -> int | None:
    """Read the setting `gpu_layers`; None for `auto`. Raises: MalformedError."""
    if value == "auto":
        return None
    if not (value.isascii() and value.isdigit() and int(value[:9]) <= GPU_LAYERS_MAX):
        raise MalformedError(f"gpu_layers must be auto or a number up to {GPU_LAYERS_MAX}")
    return int(value)
