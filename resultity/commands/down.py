"""Owns `resultity down`."""

from __future__ import annotations

from pathlib import Path

import click

from resultity.local.folders import LocalFolders
from resultity.local.supervise import stop_network
from resultity.role_process import reported_errors
from resultity.settings_sources import default_data_dir

SUPERVISOR_TIMEOUT_S = 45.0
"""An `up` in the foreground gives each of three roles ten seconds before it kills."""


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Default: RESULTITY_DATA_DIR.")
def down(data_dir: Path | None) -> None:
    """Stop the network that `up` started. Its data stays for the next start."""
    with reported_errors():
        folders = LocalFolders((data_dir or default_data_dir()).absolute())
        stopped = stop_network(folders, click.echo, SUPERVISOR_TIMEOUT_S)
    click.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")
