"""Owns `ledger refusals`: whom the ledger refused captures that no honest peer sends."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import click

from ledger.store.backup import require_file
from ledger.store.database import open_engine
from ledger.store.reader import Reader
from ledger.store.refusal_store import read_refusals
from resultity.commands.ledger_backup import FOLDER_HELP, URL_HELP, ledger_database
from resultity.commands.options import PATH
from resultity.role_process import reported_errors


@click.command("refusals")
@click.option("--data-dir", type=PATH, help=FOLDER_HELP)
@click.option("--database-url", help=URL_HELP)
@click.option("--json", "as_json", is_flag=True, help="With the last request as it was signed.")
def refusals(data_dir: Path | None, database_url: str | None, as_json: bool) -> None:
    """Show which peers sent captures that were refused: forged, foreign, repeated, too high."""
    with reported_errors():
        url = ledger_database(data_dir, database_url)
        require_file(url)
        reader = Reader(open_engine(url, writer=False))
        try:
            found = reader.run(read_refusals)
        finally:
            reader.close()
        if as_json:
            for one in found:
                facts = {name: getattr(one, name) for name in one.__dataclass_fields__}
                facts["evidence"] = base64.b64encode(one.evidence).decode("ascii")
                click.echo(json.dumps(facts))
            return
        for one in found:
            last = datetime.fromtimestamp(one.last_ms / 1000, UTC).isoformat(timespec="seconds")
            click.echo(f"{one.peer_id} {one.code} {one.times} times, last {last}: {one.reason}")
        if not found:
            click.echo("no capture was refused")
