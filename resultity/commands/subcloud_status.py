"""Owns `subcloud status`: what an owner or a delegate wants to know of a subcloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from p2p.clock import system_clock_ms
from p2p.signing import KeyPair
from p2p.subclouds.records import KnownPolicy
from resultity.commands.options import EXISTING
from resultity.courier import Courier
from resultity.errors import GatewayCallError
from resultity.role_process import reported_errors
from resultity.subclouds.delegate_target import OWNER_ACCOUNT, Where, asking_key, with_where
from resultity.subclouds.status_text import status_as_record, status_as_text, without_age
from resultity.subclouds.usage import row_as_record, subcloud_usage
from resultity.subclouds.watching import show_changes
from resultity.targets import find_gateway

DAY_MS = 86_400_000


@click.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 366), default=7, show_default=True,
              help="Of jobs and income, today included.")  # fmt: skip
@click.option("--watch", is_flag=True, help="Again whenever something changes, until ctrl-c.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--delegate-key", type=EXISTING, envvar="RESULTITY_DELEGATE_KEY")
@OWNER_ACCOUNT
@with_where
def status(
    name: str,
    days: int,
    watch: bool,
    as_json: bool,
    delegate_key: Path | None,
    account_file: Path | None,
    where: Where,
) -> None:
    """Show members, who qualifies and why not, load, service, jobs, income and refusals.

    Members, load and refusals are those that the gateway sees; jobs and income are the ledger's.
    """
    with reported_errors():
        client = where.client()

        def look() -> dict[str, Any]:
            known = client.get(name)
            key = asking_key(known, delegate_key, account_file, where)
            now_ms = system_clock_ms()
            rows = _usage(known, key, where, now_ms, days)
            return status_as_record(known, client.view(known.identity, key), rows, now_ms)

        show_changes(
            look, json.dumps if as_json else status_as_text, watch=watch, essence=without_age
        )


def _usage(
    known: KnownPolicy, key: KeyPair, where: Where, now_ms: int, days: int
) -> list[dict[str, Any]]:
    """Jobs and income of the last days; nothing if the ledger has none yet."""
    courier = Courier(find_gateway(where.gateway, where.data_dir))
    today = now_ms // DAY_MS
    try:
        rows = subcloud_usage(courier, where.network, key, known.identity, today - days + 1, today)
    except GatewayCallError as error:
        if error.code != "unknown_subcloud":
            raise
        return []
    return [row_as_record(row) for row in rows]
