"""Owns `account refer`: an account says, once, who brought it here."""

from __future__ import annotations

from pathlib import Path

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from p2p.types import AccountId, is_account_id
from resultity.accounts import referral
from resultity.commands.options import EXISTING, PATH
from resultity.courier import Courier
from resultity.errors import SettingsError
from resultity.role_process import reported_errors
from resultity.targets import find_gateway, find_network, local_folders


@click.command("refer")
@click.option("--by", "referrer", required=True, help="ID of the account that brought this one.")
@click.option("--account-file", type=EXISTING, help="Default: the local network's consumer.")
@click.option("--network", "network_id", help="Default: the local network's ID.")
@click.option("--gateway", help="Default: the local network's.")
@click.option("--data-dir", type=PATH, help="Of the local network.")
def refer(
    referrer: str,
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Say who brought this account here: once, within 30 days (or what the network says).

    That account then gets contribution points for the fees that this one pays, if the network gives
    points for referrals. It costs this account nothing.
    """
    with reported_errors():
        if not is_account_id(referrer):
            raise SettingsError(f"not an account ID (acct-<40 hex digits>): {referrer[:60]!r}")
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).consumer_account, network)
        document = referral(keys, network, AccountId(referrer), system_clock_ms())
        result = Courier(find_gateway(gateway, data_dir)).operation(document)
        again = " (it was recorded before)" if result.exists else ""
        click.echo(f"{keys.account_id} was referred by {referrer}{again}")
