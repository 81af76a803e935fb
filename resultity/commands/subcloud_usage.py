"""Owns `subcloud usage`: jobs, tokens, charges and the owner's income, day by day."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from p2p.clock import system_clock_ms
from p2p.files import write_atomically
from p2p.subcloud_usage_messages import BY_MEMBER, BY_MODEL, SubcloudUsageRow
from resultity.commands.options import EXISTING, PATH
from resultity.courier import Courier
from resultity.errors import DataFolderError
from resultity.role_process import reported_errors
from resultity.subclouds.delegate_target import OWNER_ACCOUNT, Where, asking_key, with_where
from resultity.subclouds.usage import as_csv, as_json_lines, row_as_record, subcloud_usage
from resultity.targets import find_gateway
from resultity.usage import parse_days

FILE_MODE = 0o600
_MODELS = ("date", "model", "jobs", "failed", "input_tokens", "output_tokens", "charged", "income")
_MEMBERS = ("date", "member", "jobs", "earned", "consumers")


@click.command()
@click.argument("name")
@click.option("--from", "first", metavar="DATE", help="First day; default: 30 days.")
@click.option("--to", "last", metavar="DATE", help="Last day; default: today (UTC).")
@click.option("--by", type=click.Choice([BY_MODEL, BY_MEMBER]), default=BY_MODEL, show_default=True)
@click.option("--export", "output", type=PATH, help="A new file; - for standard output.")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv")
@click.option("--delegate-key", type=EXISTING, envvar="RESULTITY_DELEGATE_KEY")
@OWNER_ACCOUNT
@with_where
def usage(
    name: str,
    first: str | None,
    last: str | None,
    by: str,
    output: Path | None,
    form: str,
    delegate_key: Path | None,
    account_file: Path | None,
    where: Where,
) -> None:
    """Show what happened in a subcloud and what its owner got, or export it.

    Amounts are microcredits. Who paid is told as a number only.
    """
    with reported_errors():
        to_file = output is not None and str(output) != "-"
        if output is not None and to_file and output.exists():
            raise DataFolderError(f"{output} exists already: choose another name")
        today = datetime.datetime.fromtimestamp(system_clock_ms() / 1000, datetime.UTC).date()
        days = parse_days(first, last, today)
        known = where.client().get(name)
        key = asking_key(known, delegate_key, account_file, where)
        courier = Courier(find_gateway(where.gateway, where.data_dir))
        rows = subcloud_usage(
            courier, where.network, key, known.identity, days.first, days.last, by=by
        )
        if output is None:
            _print_table(rows, _MEMBERS if by == BY_MEMBER else _MODELS)
            return
        text = as_csv(rows) if form == "csv" else as_json_lines(rows)
        if to_file:
            write_atomically(output, text.encode(), FILE_MODE)
            click.echo(f"{len(rows)} rows in {output}", err=True)
        else:
            click.echo(text, nl=False)


def _print_table(rows: list[SubcloudUsageRow], shown: tuple[str, ...]) -> None:
    if not rows:
        click.echo("nothing happened in these days")
        return
    records = [row_as_record(row) for row in rows]
    lines = [shown, *(tuple(str(record[name]) for name in shown) for record in records)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(shown))]
    for line in lines:
        cells = [
            text.ljust(width) if place < 2 else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
