"""Owns `usage show|export`: what was used, day by day."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ledger.usage_export import COLUMNS
from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from p2p.files import write_atomically
from resultity.commands.options import EXISTING, PATH
from resultity.courier import Courier
from resultity.errors import DataFolderError
from resultity.role_process import reported_errors
from resultity.targets import find_gateway, find_network, find_target
from resultity.usage import Days, parse_days, records_as_owner, records_of_key, usage_as_owner

FILE_MODE = 0o600
F = TypeVar("F", bound=Callable[..., Any])
SHOWN = ("date", "model", "requests", "failed", "input_tokens", "output_tokens", "credits")


@click.group()
def usage() -> None:
    """See what was used."""


def _question(command: F) -> F:
    """Add the options that say what is asked, and of whom."""
    options = (
        click.option("--from", "first", metavar="DATE", help="First day; default: 30 days."),
        click.option("--to", "last", metavar="DATE", help="Last day; default: today (UTC)."),
        click.option(
            "--account-file", type=EXISTING, help="As the owner, all keys; default: one API key."
        ),
        click.option("--namespace", default="default", show_default=True, help="As the owner."),
        click.option("--network", "network_id", help="As the owner; default: the local one's."),
        click.option("--base-url", "--gateway", "base_url", help="Default: OPENAI_BASE_URL."),
        click.option("--api-key", help="Default: OPENAI_API_KEY, or the local network's key."),
        click.option("--data-dir", type=PATH, help="Of the local network."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@usage.command("show")
@_question
def show(**question: Any) -> None:
    """Show requests, tokens and credits of each day."""
    with reported_errors():
        _print_table(_records(**question))


@usage.command("export")
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv")
@click.option("--output", type=PATH, help="A new file; default: standard output.")
@_question
def export(form: str, output: Path | None, **question: Any) -> None:
    """Write usage as CSV or JSON, a row for each day, API key and model."""
    with reported_errors():
        if output is not None and output.exists():
            raise DataFolderError(f"{output} exists already: choose another name")
        records = _records(**question)
        text = json.dumps(records, indent=1) + "\n" if form == "json" else _csv(records)
        if output is None:
            click.echo(text, nl=False)
        else:
            write_atomically(output, text.encode(), FILE_MODE)
            click.echo(f"{len(records)} rows in {output}", err=True)


def _records(
    first: str | None,
    last: str | None,
    account_file: Path | None,
    namespace: str,
    network_id: str | None,
    base_url: str | None,
    api_key: str | None,
    data_dir: Path | None,
) -> list[dict[str, Any]]:
    today = datetime.datetime.fromtimestamp(system_clock_ms() / 1000, datetime.UTC).date()
    days: Days = parse_days(first, last, today)
    if account_file is None:
        return records_of_key(find_target(base_url, api_key, data_dir), days)
    network = find_network(network_id, data_dir)
    keys = load_account(account_file, network)
    courier = Courier(find_gateway(base_url, data_dir))
    rows = usage_as_owner(courier, keys, network, namespace, days, system_clock_ms)
    return records_as_owner(namespace, rows)


def _csv(records: list[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    # A gateway of a later release may know more columns: these are the documented ones.
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _print_table(records: list[dict[str, Any]]) -> None:
    if not records:
        click.echo("nothing was used in these days")
        return
    lines = [SHOWN, *(tuple(str(record.get(name, "")) for name in SHOWN) for record in records)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(SHOWN))]
    for line in lines:
        left, right = line[:2], line[2:]
        cells = [text.ljust(width) for text, width in zip(left, widths, strict=False)]
        cells += [text.rjust(width) for text, width in zip(right, widths[2:], strict=True)]
        click.echo("  ".join(cells).rstrip())
