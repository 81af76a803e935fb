"""Owns `account create|register|balance|earnings` and the group `account`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from p2p.account_file import AccountKeys, load_account, load_or_create_account
from p2p.clock import system_clock_ms
from p2p.ledger_messages import EarningsStatement, Statement
from p2p.opening_messages import InviteSecret
from p2p.types import NetworkId
from resultity.account_invites import read_invite
from resultity.accounts import earnings_request, opening, show_credits, statement_request
from resultity.commands.account_gateway import certify_gateway
from resultity.commands.account_key import key
from resultity.commands.account_refer import refer
from resultity.commands.options import DATA_DIR, EXISTING, PATH
from resultity.courier import Courier
from resultity.errors import DataFolderError, GatewayCallError
from resultity.http_json import gateway_root, get_json
from resultity.role_process import reported_errors
from resultity.statements import check_statement
from resultity.targets import find_gateway, find_network, find_target, local_folders

INVITE = click.option(
    "--invite", metavar="[FILE|-]", help="Invite in FILE, or - for a prompt or a pipe."
)


@click.group()
def account() -> None:
    """Open accounts, keep their keys, see balances and earnings."""


account.add_command(key)
account.add_command(refer)
account.add_command(certify_gateway)


@account.command("create")
@click.argument("file", type=PATH)
@click.option("--network", "network_id", help="ID of the network; default: the local network's.")
@click.option("--gateway", help="Register the account through this gateway at once.")
@click.option("--namespace", default="default", show_default=True)
@INVITE
@DATA_DIR
def create(
    file: Path,
    network_id: str | None,
    gateway: str | None,
    namespace: str,
    invite: str | None,
    data_dir: Path | None,
) -> None:
    """Make an account: FILE (0600) with its key, and a recovery key beside it.

    A node's account is registered when the node joins; a consumer's needs --gateway or `register`.
    """
    if invite is not None and gateway is None:
        raise click.UsageError("--invite is for registering: give --gateway too, or use `register`")
    with reported_errors():
        if file.exists():
            raise DataFolderError(f"{file} exists already: choose another name")
        network = find_network(network_id, data_dir)
        found = read_invite(invite, network)
        keys = load_or_create_account(file, network, system_clock_ms)
        click.echo(keys.account_id)
        click.echo(f"take {file.stem}.recovery.key offline: it is for emergencies only", err=True)
        if gateway is not None:
            _register(keys, Courier(gateway), network, namespace, found)


@account.command("register")
@click.argument("file", type=EXISTING)
@click.option("--network", "network_id", help="ID of the network; default: the local network's.")
@click.option("--gateway", help="Default: the local network's.")
@click.option("--namespace", default="default", show_default=True)
@INVITE
@DATA_DIR
def register(
    file: Path,
    network_id: str | None,
    gateway: str | None,
    namespace: str,
    invite: str | None,
    data_dir: Path | None,
) -> None:
    """Tell the ledger of an account and open a namespace (repeating it changes nothing)."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(file, network)
        found = read_invite(invite, network)
        _register(keys, Courier(find_gateway(gateway, data_dir)), network, namespace, found)
        click.echo(f"{keys.account_id} has the namespace {namespace}")


def _register(
    keys: AccountKeys,
    courier: Courier,
    network: NetworkId,
    namespace: str,
    invite: InviteSecret | None,
) -> None:
    courier.operation(invite.use(network, keys.founding) if invite else keys.founding)
    courier.operation(opening(keys, network, namespace, system_clock_ms()))


@account.command("balance")
@click.option("--account-file", type=EXISTING, help="As the owner; default: with an API key.")
@click.option("--namespace", default="default", show_default=True, help="With --account-file.")
@click.option("--network", "network_id", help="With --account-file; default: the local one's.")
@click.option("--base-url", "--gateway", "base_url", help="Default: OPENAI_BASE_URL, or local.")
@click.option("--api-key", help="Default: OPENAI_API_KEY, or the local network's key.")
@click.option("--json", "as_json", is_flag=True)
@DATA_DIR
def balance(
    account_file: Path | None,
    namespace: str,
    network_id: str | None,
    base_url: str | None,
    api_key: str | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Show a namespace's balance; with --account-file the grants behind it are verified."""
    with reported_errors():
        if account_file is not None:
            network = find_network(network_id, data_dir)
            keys = load_account(account_file, network)
            gateway = find_gateway(base_url, data_dir)
            request = statement_request(keys, network, namespace, system_clock_ms())
            statement = Courier(gateway).send("statement", request, Statement)
            grants = check_statement(statement, network, gateway, keys.account_id, namespace)
            amounts = {
                "available_microcredits": statement.available,
                "held_microcredits": statement.held,
                "leased_microcredits": statement.leased,
                "spent_microcredits": statement.spent,
                "staked_microcredits": statement.staked,
                "granted_microcredits": statement.granted,
                "credited_microcredits": statement.credited,
                "grants_verified": grants,
            }
        else:
            target = find_target(base_url, api_key, data_dir)
            url = f"{gateway_root(target.base_url)}/v1/account/balance"
            amounts = get_json(url, api_key=target.api_key)
        print_balance(amounts, as_json=as_json)


@account.command("earnings")
@click.option("--account-file", type=EXISTING, help="Default: the local network's operator.")
@click.option("--network", "network_id", help="Default: the local network's ID.")
@click.option("--gateway", help="Default: the local network's.")
@click.option("--json", "as_json", is_flag=True)
@DATA_DIR
def earnings(
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Show what an account's nodes, gateways and subclouds earned, matured and not yet matured."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).operator_account, network)
        request = earnings_request(keys, network, system_clock_ms())
        courier = Courier(find_gateway(gateway, data_dir))
        found = courier.send("earnings", request, EarningsStatement)
        amounts = {
            "earned_microcredits": found.earned,
            "earned_unmatured_microcredits": found.unmatured_earned,
            "fees_microcredits": found.fees,
            "fees_unmatured_microcredits": found.unmatured_fees,
            "earned_disputed_microcredits": found.disputed_earned,
            "fees_disputed_microcredits": found.disputed_fees,
            "subclouds_microcredits": found.owner_fees,
            "subclouds_unmatured_microcredits": found.unmatured_owner_fees,
            "subclouds_disputed_microcredits": found.disputed_owner_fees,
            "legs": found.legs,
            "mature_after_s": found.mature_after_s,
        }
        if as_json:
            click.echo(json.dumps({"account_id": keys.account_id, **amounts}))
            return
        click.echo(f"{'':<10}{'matured':>18}{'not yet matured':>18}")
        for name, total, unmatured in (
            ("nodes", found.earned, found.unmatured_earned),
            ("gateways", found.fees, found.unmatured_fees),
            ("subclouds", found.owner_fees, found.unmatured_owner_fees),
        ):
            matured = show_credits(total - unmatured)
            click.echo(f"{name:<10}{matured:>18}{show_credits(unmatured):>18} credits")
        disputed = found.disputed_earned + found.disputed_fees + found.disputed_owner_fees
        if disputed:
            click.echo(f"{show_credits(disputed)} credits of the unmatured are disputed")
        click.echo(
            f"{found.legs} attempts were paid; earnings mature after "
            f"{found.mature_after_s / 86_400:g} days"
        )


def print_balance(amounts: Mapping[str, object], *, as_json: bool) -> None:
    """Print amounts in credits, or as they are. Raises: GatewayCallError."""
    if as_json:
        click.echo(json.dumps(amounts))
        return
    for name in ("available", "held", "spent", "granted"):
        amount = amounts.get(f"{name}_microcredits")
        if not isinstance(amount, int):
            raise GatewayCallError("the gateway's answer has no balance: is it a gateway?")
        click.echo(f"{name:<10}{show_credits(amount):>18} credits")
    leased = amounts.get("leased_microcredits")
    if isinstance(leased, int) and leased:
        click.echo(f"{show_credits(leased)} credits of what is held are leased to gateways")
    staked = amounts.get("staked_microcredits")
    if isinstance(staked, int) and staked:
        click.echo(f"{show_credits(staked)} credits of what is spent are set aside for subclouds")
    if "grants_verified" in amounts:
        click.echo(f"{amounts['grants_verified']} grants, each signed by a mint key of the network")
