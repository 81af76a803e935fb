"""Owns `ledger audit` and `ledger export`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ledger.store.mirror.export import audit_export, write_export
from resultity.commands.ledger_backup import FOLDER_HELP, LEDGER_FILE, URL_HELP, ledger_database
from resultity.commands.options import EXISTING, FOLDER, NETWORK, PATH
from resultity.errors import SettingsError
from resultity.ledger_audit import audit_database, known_keys
from resultity.role_process import reported_errors
from resultity.targets import find_network, local_folders

CONFIGURATION_FILE = "configuration.msgpack"


@click.command("audit")
@click.argument("export", type=EXISTING, required=False)
@click.option("--data-dir", type=FOLDER, help=FOLDER_HELP)
@click.option("--database-url", help=URL_HELP)
@NETWORK
@click.option(
    "--configuration",
    "configurations",
    type=EXISTING,
    multiple=True,
    help="Signed configurations that name mint, dispute and log keys, newest and older ones; "
    "default: the one in the data folder.",
)
@click.option("--json", "as_json", is_flag=True)
def audit(
    export: Path | None,
    data_dir: Path | None,
    database_url: str | None,
    network_id: str | None,
    configurations: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Check a whole ledger offline: all signatures, sums, entries, holds, leaves and roots.

    Of a bootstrap's data folder, a database, or EXPORT (a file of `ledger export`). Exit code 1 if
    anything is wrong. The bootstrap may go on meanwhile.
    """
    with reported_errors():
        folder = bootstrap_folder(data_dir)
        root = folder.parent if folder.name == "bootstrap" else None
        network = find_network(network_id, root)
        keys = known_keys(network, configurations or (folder / CONFIGURATION_FILE,))
        if export is None:
            url = ledger_database(None if database_url else folder, database_url)
            report = audit_database(url, network, keys)
        elif data_dir or database_url:
            raise SettingsError("give an export, a data folder or a database: one of them")
        else:
            report = audit_export(export, network, keys)
        if as_json:
            click.echo(
                json.dumps(
                    {
                        "ok": not report.problem_count,
                        "network": network,
                        "checked": report.checked,
                        "problem_count": report.problem_count,
                        "problems": report.problems,
                    }
                )
            )
        else:
            counts = ", ".join(f"{count} {what}" for what, count in report.checked.items())
            click.echo(f"checked: {counts or 'nothing'}")
            for problem in report.problems:
                click.echo(f"wrong: {problem}")
            if not report.problem_count:
                click.echo("nothing is wrong")
    if report.problem_count:
        raise click.exceptions.Exit(1)


@click.command("export")
@click.argument("file", type=PATH)
@click.option("--data-dir", type=FOLDER, help=FOLDER_HELP)
@click.option("--database-url", help=URL_HELP)
@NETWORK
def export(
    file: Path, data_dir: Path | None, database_url: str | None, network_id: str | None
) -> None:
    """Write all records of the ledger in the order of its log into FILE, for `ledger audit FILE`.

    FILE holds what API keys are checked with: keep it as you keep keys. The bootstrap may go on.
    """
    with reported_errors():
        folder = bootstrap_folder(data_dir)
        url = ledger_database(None if database_url else folder, database_url)
        network = find_network(network_id, folder.parent if folder.name == "bootstrap" else None)
        size, waiting = write_export(url, file, network)
        click.echo(f"{file} has the records of {size} leaves")
        if waiting:
            click.echo(f"{waiting} records wait for the log and are not in it", err=True)


def bootstrap_folder(data_dir: Path | None) -> Path:
    """Give the bootstrap's folder: as named, inside it (a whole local network), or the default."""
    folder = data_dir or local_folders(None).role("bootstrap")
    inner = folder / "bootstrap"
    # The folder of a whole local network will do too.
    return inner if (inner / LEDGER_FILE).is_file() else folder
