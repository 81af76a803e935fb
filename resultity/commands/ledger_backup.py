"""Owns `ledger backup` and `ledger restore`: a bootstrap's ledger into a file, and back."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ledger.store.backup import Backup, restore_backup, write_backup
from resultity.commands.options import PATH
from resultity.errors import SettingsError
from resultity.folder_lock import locked_folder
from resultity.role_process import reported_errors
from resultity.targets import local_folders

DATABASE_VARIABLE = "RESULTITY_BOOTSTRAP_DATABASE_URL"
LEDGER_FILE = "ledger.sqlite"
FOLDER_HELP = "The bootstrap's data folder; default: the local network's."
URL_HELP = f"SQLAlchemy URL, instead of a data folder; default: {DATABASE_VARIABLE}, if it is set."


@click.command("backup")
@click.argument("file", type=PATH)
@click.option("--data-dir", type=PATH, help=FOLDER_HELP)
@click.option("--database-url", help=URL_HELP)
def backup(file: Path, data_dir: Path | None, database_url: str | None) -> None:
    """Write the whole ledger into FILE, checked, while the bootstrap may go on.

    FILE holds what API keys are checked with: keep it as you keep keys.
    """
    with reported_errors():
        made = write_backup(ledger_database(data_dir, database_url), file)
        click.echo(f"{file} has {_facts(made)}")


@click.command("restore")
@click.argument("file", type=PATH)
@click.option("--data-dir", type=PATH, help=FOLDER_HELP)
@click.option("--database-url", help=URL_HELP)
def restore(file: Path, data_dir: Path | None, database_url: str | None) -> None:
    """Bring the ledger back from FILE, checked, into a database that has none.

    The bootstrap must not run. SQLite and PostgreSQL may differ from where the backup was made.
    """
    with reported_errors():
        url = ledger_database(data_dir, database_url)
        folder = _folder_of(url)
        if folder is None:
            restored = restore_backup(file, url)
        else:
            with locked_folder(folder):
                restored = restore_backup(file, url)
        click.echo(f"restored {_facts(restored)}")


def _facts(found: Backup) -> str:
    return f"{found.transfers} transfers of {found.network_id}"


def ledger_database(data_dir: Path | None, database_url: str | None) -> str:
    """Give the ledger's URL, as the bootstrap finds it. Raises: SettingsError."""
    if data_dir is not None and database_url is not None:
        raise SettingsError("give --data-dir or --database-url, not both")
    url = database_url or (None if data_dir else os.environ.get(DATABASE_VARIABLE))
    if url:
        return url
    folder = data_dir or local_folders(None).role("bootstrap")
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder: name the bootstrap's with --data-dir")
    return f"sqlite:///{(folder / LEDGER_FILE).absolute()}"


def _folder_of(url: str) -> Path | None:
    path = url.removeprefix("sqlite:///")
    return Path(path).parent if path != url else None
