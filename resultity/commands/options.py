"""Owns the options and argument types that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
NETWORK = click.option("--network", "network_id", help="Default: the local network's ID.")
GATEWAY = click.option("--gateway", help="Default: the local network's.")
DATA_DIR = click.option("--data-dir", type=PATH, help="Of the local network.")
JSON = click.option("--json", "as_json", is_flag=True)
ACCOUNT = click.option(
    "--account-file", type=EXISTING, help="Default: the local network's consumer."
)
