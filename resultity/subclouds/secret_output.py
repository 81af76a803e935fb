"""Owns how a secret that was made is handed out: to a new file (0600), or to standard output."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from resultity.errors import DataFolderError


def write_secret(
    what: str,
    text: str,
    facts: Mapping[str, Any],
    told: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write it, and tell what is no secret of it.

    Args:
        what: its name in JSON, like `invite`.
        told: one line about it, to standard error.
    Raises: DataFolderError if there is a file already.
    """
    if output is not None:
        try:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise DataFolderError(f"{output} exists already: name a new file") from error
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
    shown: dict[str, Any] = {what: text} if output is None else {"file": str(output)}
    if as_json:
        click.echo(json.dumps({**shown, **facts}))
        return
    click.echo(text if output is None else str(output))
    click.echo(told, err=True)
