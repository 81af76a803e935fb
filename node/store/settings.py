"""Owns the settings of the model store: the part of the node's that `node models` needs."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from node.store.errors import SourceError
from node.store.hub import Hub
from node.store.limits import HUB_ENDPOINT_DEFAULT, TOKEN_CHARACTERS_MAX, TOKEN_FILE_BYTES_MAX

HUB_VARIABLE = "RESULTITY_NODE_HUB_TOKEN"
ENDPOINT_VARIABLE = "HF_ENDPOINT"


@dataclass(frozen=True, slots=True)
class ModelStoreSettings:
    """What an operator decides of the store.

    Attributes:
        models_dir: the store's folder; None: `models` in the node's data folder.
        models_disk_bytes_max: what the store's files may take together; None: what the disk has.
        hub_endpoint: the model hub; None: `HF_ENDPOINT`, or the public one.
        hub_token_file: a token for the hub, for private and gated models; readable by its owner
            only.
    """

    data_dir: Path
    models_dir: Path | None = None
    models_disk_bytes_max: int | None = None
    hub_endpoint: str | None = None
    hub_token_file: Path | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without touching the machine."""
        if self.models_disk_bytes_max is not None and self.models_disk_bytes_max < 0:
            raise ValueError("models_disk_bytes_max must not be negative")

    @property
    def folder(self) -> Path:
        """The store's folder."""
        return self.models_dir or self.data_dir / "models"

    def hub(self, environment: Mapping[str, str]) -> Hub:
        """Give the hub, with the token if there is one. Raises: SourceError."""
        endpoint = self.hub_endpoint or environment.get(ENDPOINT_VARIABLE) or HUB_ENDPOINT_DEFAULT
        token = environment.get(HUB_VARIABLE)
        if self.hub_token_file is not None:
            token = _read_token(self.hub_token_file)
        return Hub(endpoint, _checked(token) if token else None)


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise SourceError(f"{path} can be read by others: chmod 600 it")
            return file.read(TOKEN_FILE_BYTES_MAX).decode("utf-8", "replace").strip()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


def _checked(token: str) -> str:
    if len(token) > TOKEN_CHARACTERS_MAX or not token.isascii() or not token.isprintable():
        raise SourceError("the hub's token is not printable ASCII in one line")
    if " " in token:
        raise SourceError("the hub's token has a space in it")
    return token
