"""Owns `admin grant`: credit, by the holder of a mint key."""

from __future__ import annotations

from pathlib import Path

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from p2p.identity import load_key
from p2p.types import AccountId, is_account_id
from resultity.accounts import grant as sign_grant
from resultity.accounts import parse_credits, show_credits
from resultity.commands.options import EXISTING, PATH
from resultity.courier import Courier
from resultity.errors import SettingsError
from resultity.role_process import reported_errors
from resultity.targets import find_gateway, find_network, local_folders


@click.group()
def admin() -> None:
    """Grant credit."""


@admin.command("grant")
@click.argument("credits_text", metavar="CREDITS")
@click.option("--account", help="Account ID; default: the local network's consumer.")
@click.option("--namespace", default="default", show_default=True)
@click.option("--memo", default="", help="Shown in the account's statement.")
@click.option("--mint-key", type=EXISTING, help="Default: the local network's.")
@click.option("--network", "network_id", help="Default: the local network's ID.")
@click.option("--gateway", help="Default: the local network's.")
@click.option("--data-dir", type=PATH, help="Of the local network.")
def grant(
    credits_text: str,
    account: str | None,
    namespace: str,
    memo: str,
    mint_key: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Give CREDITS (at most six decimals) to a namespace."""
    with reported_errors():
        amount = parse_credits(credits_text)
        network = find_network(network_id, data_dir)
        folders = local_folders(data_dir)
        account_id = (
            AccountId(account)
            if account
            else load_account(folders.consumer_account, network).account_id
        )
        if not is_account_id(account_id):
            raise SettingsError(f"not an account ID (acct-<40 hex digits>): {account_id[:60]!r}")
        mint = load_key(mint_key or folders.network.mint_path)
        document = sign_grant(mint, network, account_id, namespace, amount, memo, system_clock_ms())
        result = Courier(find_gateway(gateway, data_dir)).operation(document)
        click.echo(
            f"granted {show_credits(amount)} credits to {account_id}/{namespace}, "
            f"now {show_credits(result.available)}"
        )
