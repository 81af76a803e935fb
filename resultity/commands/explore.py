"""Owns `explore peers|models|log`: a live network as a gateway's public status shows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from p2p.clock import system_clock_ms
from resultity.accounts import show_credits
from resultity.errors import GatewayCallError
from resultity.http_json import gateway_root, get_json
from resultity.role_process import reported_errors
from resultity.targets import find_gateway

F = TypeVar("F", bound=Callable[..., Any])


def common_options(function: F) -> F:
    """Add the options that both views have."""
    for option in (
        click.option("--data-dir", type=click.Path(path_type=Path), help="Of the local network."),
        click.option("--json", "as_json", is_flag=True),
        click.option("--gateway", help="Default: RESULTITY_GATEWAY_URL, or the local network's."),
    ):
        function = option(function)
    return function


@click.group()
def explore() -> None:
    """Look at a live network through a gateway's public status."""


@explore.command("peers")
@common_options
def peers(gateway: str | None, as_json: bool, data_dir: Path | None) -> None:
    """List the peers that the gateway knows."""
    _show("peers", gateway, as_json, data_dir)


@explore.command("models")
@common_options
def models(gateway: str | None, as_json: bool, data_dir: Path | None) -> None:
    """List the models, approved and unverified, their prices and who serves them."""
    _show("models", gateway, as_json, data_dir)


@explore.command("log")
@common_options
def log(gateway: str | None, as_json: bool, data_dir: Path | None) -> None:
    """Show the newest checkpoint of the ledger's log, who cosigned it, and alarms about it.

    Exit code 1 if there is an alarm.
    """
    with reported_errors():
        answer = log_of(gateway, data_dir)
        if as_json:
            click.echo(json.dumps(answer))
        else:
            for line in log_lines(answer):
                click.echo(line)
    if answer["alarms"]:
        raise click.exceptions.Exit(1)


def _show(what: str, gateway: str | None, as_json: bool, data_dir: Path | None) -> None:
    with reported_errors():
        answer = get_json(f"{gateway_root(find_gateway(gateway, data_dir))}/status/{what}")
        rows = rows_of(answer, what)
        if as_json:
            click.echo(json.dumps(rows))
        elif not rows:
            click.echo(f"no {what}")
        else:
            now_ms = system_clock_ms()
            Console().print(peers_table(rows, now_ms) if what == "peers" else models_table(rows))
        _warn(gateway, data_dir)


def _warn(gateway: str | None, data_dir: Path | None) -> None:
    """Tell of alarms, whatever else was asked for (an older gateway knows of none)."""
    try:
        lines = alarm_lines(log_of(gateway, data_dir))
    except GatewayCallError:
        return
    for line in lines:
        click.echo(line, err=True)


def log_of(gateway: str | None, data_dir: Path | None) -> dict[str, Any]:
    """Ask a gateway what it knows of the ledger's log. Raises: GatewayCallError."""
    answer = get_json(f"{gateway_root(find_gateway(gateway, data_dir))}/status/log")
    if not isinstance(answer, dict) or not isinstance(answer.get("alarms"), list):
        raise GatewayCallError("the gateway's answer says nothing about the ledger's log")
    return answer


def log_lines(answer: dict[str, Any]) -> list[str]:
    """Say what is known of the log."""
    checkpoint = answer.get("checkpoint")
    lines = ["no checkpoint of the ledger's log was heard of yet"]
    if checkpoint:
        names = ", ".join(str(w.get("name")) for w in checkpoint.get("witnesses") or [])
        lines = [
            f"{checkpoint.get('origin')}: {checkpoint.get('size')} leaves, "
            f"root {checkpoint.get('root')}",
            f"cosigned by {names or 'nobody'}",
        ]
    return lines + (alarm_lines(answer) or ["no alarm"])


def alarm_lines(answer: dict[str, Any]) -> list[str]:
    """Say each alarm about the log."""
    return [
        f"ALARM: the ledger's log ({alarm.get('kind')}, "
        f"{'proven' if alarm.get('proven') else 'by the word of a mirror'}, sizes "
        f"{alarm.get('size')} and {alarm.get('other_size')}): {alarm.get('text')}; "
        f"by {alarm.get('signer')}"
        for alarm in answer["alarms"]
    ]


def rows_of(answer: Any, what: str) -> list[dict[str, Any]]:
    """Find the list in a status answer. Raises: GatewayCallError."""
    rows = answer.get(what) if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise GatewayCallError(f"the gateway's answer has no list of {what}")
    return rows


def peers_table(rows: Sequence[dict[str, Any]], now_ms: int) -> Table:
    """Make the table of peers, with the distinctive part of each ID (--json has all)."""
    table = Table("role", "peer", "models", "account")
    for name in ("jobs", "slots", "tokens/s", "seen"):
        table.add_column(name, justify="right")
    for row in sorted(rows, key=lambda row: (str(row.get("role")), str(row.get("peer_id")))):
        names = [str(model.get("name", "")) for model in row.get("models") or []]
        is_node = row.get("role") == "node"
        seen = row.get("last_seen_ms")
        table.add_row(
            str(row.get("role", "")),
            f"…{str(row.get('peer_id', ''))[-10:]}",
            ", ".join(names),
            str(row.get("account_id") or "")[:13],
            str(row.get("running", "")) if is_node else "",
            str(row.get("slots", "")) if is_node else "",
            str(row.get("tokens_per_second", "")) if is_node else "",
            f"{max(0, now_ms - seen) / 1000:.0f} s ago" if isinstance(seen, int) else "",
        )
    return table


def models_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Make the table of models. Prices are credits for a million tokens. An unverified model has no
    file, and so no digest that says anything."""
    table = Table("model", "SHA-256")
    for name in ("context", "nodes", "free slots", "price in", "price out"):
        table.add_column(name, justify="right")
    for row in rows:
        prices = [
            row.get(f"{side}_microcredits_per_million_tokens", 0) for side in ("input", "output")
        ]
        table.add_row(
            str(row.get("name", "")),
            f"{str(row.get('digest', ''))[:12]}…" if row.get("verified", True) else "unverified",
            str(row.get("context_tokens", "")),
            str(row.get("nodes", "")),
            f"{row.get('slots_free', '')} of {row.get('slots', '')}",
            *(show_credits(int(price)) for price in prices),
        )
    return table
