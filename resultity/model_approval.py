"""Owns how a model file becomes an entry of the network configuration."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydantic

from node.errors import NodeError
from node.model_file import ModelFile, read_model_file
from p2p.embeddings import TASKS
from p2p.network_configuration import ApprovedModel
from resultity.errors import SettingsError

DEMO_MODEL_FILE = "tiny-chat-q8_0.gguf"
DEMO_MODEL_NAME = "tiny-chat"
INPUT_PRICE, OUTPUT_PRICE = 500_000, 1_500_000
"""Microcredits for 10**6 tokens: half a credit read, 1.5 written."""
OUTPUT_TOKENS_DEFAULT = 512
_UNFIT = re.compile(r"[^A-Za-z0-9._:/-]+")


@dataclass(frozen=True, slots=True)
class Prices:
    """What a model costs, in microcredits for 10**6 tokens."""

    input_microcredits_per_million_tokens: int = INPUT_PRICE
    output_microcredits_per_million_tokens: int = OUTPUT_PRICE


def demo_model_path() -> Path:
    """The model that is shipped with Resultity."""
    return Path(str(importlib.resources.files("resultity") / "models" / DEMO_MODEL_FILE))


def split_model_argument(text: str) -> tuple[str | None, Path]:
    """Read `NAME=PATH` or `PATH`, as `--model` takes them."""
    name, separator, path = text.partition("=")
    if separator and "/" not in name:
        return name, Path(path).expanduser()
    return None, Path(text).expanduser()


def approve_model(
    name: str | None, path: Path, prices: Prices, tasks: Sequence[str] = ()
) -> ApprovedModel:
    """Read a model file whole and make the configuration's entry for it.

    Args: tasks: what it may be used for; none: what the file says that it is for.
    Raises: SettingsError that says what is wrong with the file or the name.
    """
    try:
        file = read_model_file(path)
    except NodeError as error:
        raise SettingsError(f"model {path}: {error}") from error
    try:
        return ApprovedModel(
            name=name or model_name_of(file),
            version=file.version or "1",
            digest=file.digest.hex(),
            tasks=tasks or _tasks_of(file),
            family=file.architecture,
            quantisation=file.quantisation,
            context_tokens=file.context_tokens,
            default_output_tokens=min(OUTPUT_TOKENS_DEFAULT, max(1, file.context_tokens // 2)),
            input_microcredits_per_million_tokens=prices.input_microcredits_per_million_tokens,
            output_microcredits_per_million_tokens=prices.output_microcredits_per_million_tokens,
        )
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"model {path}: {where}: {first['msg']}") from error


def _tasks_of(file: ModelFile) -> tuple[str, ...]:
    """The demo model is for all that there is to try."""
    return TASKS if file.path.name == DEMO_MODEL_FILE else file.tasks


def model_name_of(file: ModelFile) -> str:
    """The name that a model file gets if nobody chooses one: its own, or that of the file."""
    if file.path.name == DEMO_MODEL_FILE:
        return DEMO_MODEL_NAME
    name = _UNFIT.sub("-", file.name.lower()).strip("-._:/")
    return name[:100] or _UNFIT.sub("-", file.path.stem)[:100]
