"""Owns `rcp show|leaderboard`: contribution points of a frozen epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ledger.usage_export import date_of, day_of_date
from p2p.account_file import load_account
from p2p.types import NetworkId, is_account_id
from p2p.usage_messages import RcpQuery, RcpScore
from resultity.commands.options import DATA_DIR, EXISTING, GATEWAY, JSON, NETWORK
from resultity.courier import Courier
from resultity.errors import SettingsError
from resultity.rcp import Epoch, fetch_epoch, fetch_page
from resultity.role_process import reported_errors
from resultity.targets import find_gateway, find_network, local_folders

DATE = click.option("--date", metavar="DATE", help="A day of the epoch; default: the newest one.")


@click.group()
def rcp() -> None:
    """See contribution points."""


@rcp.command("show")
@click.option("--account", help="Account ID.")
@click.option("--account-file", type=EXISTING, help="Default: the local network's operator.")
@DATE
@JSON
@NETWORK
@GATEWAY
@DATA_DIR
def show(
    account: str | None,
    account_file: Path | None,
    date: str | None,
    as_json: bool,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Show the points of one account, and what they are for."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        account_id = account or _account_of(account_file, network, data_dir)
        if not is_account_id(account_id):
            raise SettingsError(f"not an account ID (acct-<40 hex digits>): {account_id[:60]!r}")
        courier = Courier(find_gateway(gateway, data_dir))
        epoch = fetch_epoch(courier, network, _day(date))
        if not epoch.complete:
            query = RcpQuery(epoch.document.first_day, 0, 1, account_id)
            epoch = fetch_page(courier, network, query)
        facts = {**_facts(epoch), "account_id": account_id, "place": None}
        facts.update(points=0, work_microcredits=0, uptime_minutes=0, referral_fees_microcredits=0)
        for place, score in enumerate(epoch.scores, epoch.first):
            if score.account_id == account_id:
                facts.update(_score(place, score))
        if as_json:
            click.echo(json.dumps(facts))
            return
        standing = "no place" if facts["place"] is None else f"place {facts['place']}"
        click.echo(
            f"{facts['first_day']} to {facts['last_day']}: {facts['points']} points, {standing} of "
            f"{facts['accounts']} (work {facts['work_microcredits']} microcredits, "
            f"uptime {facts['uptime_minutes']} minutes, "
            f"fees of referred accounts {facts['referral_fees_microcredits']} microcredits)"
        )


@rcp.command("leaderboard")
@click.option("--count", type=click.IntRange(1, 100_000), default=20, show_default=True)
@DATE
@JSON
@NETWORK
@GATEWAY
@DATA_DIR
def leaderboard(
    count: int,
    date: str | None,
    as_json: bool,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Show the accounts with the most points; all scores are checked against the signature."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        courier = Courier(find_gateway(gateway, data_dir))
        epoch = fetch_epoch(courier, network, _day(date))
        scores = [_score(place, score) for place, score in enumerate(epoch.scores[:count])]
        if as_json:
            click.echo(json.dumps({**_facts(epoch), "scores": scores}))
            return
        facts = _facts(epoch)
        click.echo(
            f"{facts['first_day']} to {facts['last_day']}: {facts['accounts']} accounts, "
            f"frozen by {facts['bootstrap']}"
        )
        for line in scores:
            click.echo(f"{line['place']:>5}  {line['points']:>14}  {line['account_id']}")
        if not epoch.complete:
            click.echo("too many accounts to check all scores against the signature", err=True)


def _day(date: str | None) -> int:
    if date is None:
        return 0
    try:
        return day_of_date(date)
    except ValueError as error:
        raise SettingsError(f"a day is written like 2026-01-31: {error}") from error


def _account_of(account_file: Path | None, network: NetworkId, data_dir: Path | None) -> str:
    path = account_file or local_folders(data_dir).operator_account
    if not path.exists():
        raise SettingsError("which account? give --account or --account-file")
    return load_account(path, network).account_id


def _facts(epoch: Epoch) -> dict[str, Any]:
    document = epoch.document
    return {
        "first_day": date_of(document.first_day),
        "last_day": date_of(document.first_day + document.days - 1),
        "accounts": document.accounts,
        "points_in_epoch": document.parameters.points,
        "bootstrap": epoch.signed.peer_id,
        "scores_digest": document.scores_digest.hex(),
        "verified_in_full": epoch.complete,
    }


def _score(place: int, score: RcpScore) -> dict[str, Any]:
    return {
        "place": place + 1,
        "account_id": score.account_id,
        "points": score.points,
        "work_microcredits": score.work,
        "uptime_minutes": score.uptime_minutes,
        "referral_fees_microcredits": score.referral_fees,
    }
