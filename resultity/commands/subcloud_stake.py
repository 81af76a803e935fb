"""Owns `subcloud stake|unstake`: credits that are set aside for a subcloud."""

from __future__ import annotations

import os
from pathlib import Path

import click

from p2p.account_file import AccountKeys, load_account
from p2p.clock import system_clock_ms
from p2p.stake_messages import SubcloudStake, SubcloudUnstake
from p2p.subclouds.identity import SubcloudId, parse_subcloud_id, subcloud_id
from p2p.types import NetworkId
from resultity.accounts import parse_credits, show_credits
from resultity.commands.options import EXISTING
from resultity.courier import Courier
from resultity.role_process import reported_errors
from resultity.subclouds.delegate_target import Where, with_where
from resultity.targets import find_gateway

ACCOUNT = click.option("--account-file", type=EXISTING, required=True, help="The founder's.")
NAMESPACE = click.option("--namespace", default="default", show_default=True)


@click.command()
@click.argument("name")
@click.option("--credits", "text", required=True, help="What the network asks for.")
@ACCOUNT
@NAMESPACE
@with_where
def stake(name: str, text: str, account_file: Path, namespace: str, where: Where) -> None:
    """Set credits aside for a subcloud, before it is published for the first time.

    Networks whose configuration says `subclouds.creation = stake` ask for it. Nobody can spend
    them; `resultity subcloud unstake` takes them back when the subcloud has ended.
    """
    with reported_errors():
        microcredits = parse_credits(text)
        network, keys = where.network, load_account(account_file, where.network)
        identity = _identity(network, keys, name)
        document = SubcloudStake(
            os.urandom(16), keys.account_id, namespace, identity, microcredits, system_clock_ms()
        )
        result = _courier(where).operation(keys.signing.sign(network, document))
        click.echo(
            f"{show_credits(microcredits)} credits are set aside for {identity}; "
            f"{show_credits(result.available)} are left in {namespace}"
        )


@click.command()
@click.argument("name")
@ACCOUNT
@NAMESPACE
@with_where
def unstake(name: str, account_file: Path, namespace: str, where: Where) -> None:
    """Take a subcloud's stake back, into the namespace that it came from.

    Possible when the subcloud has ended (`resultity subcloud revoke`), or if it was never
    published, a day after the stake.
    """
    with reported_errors():
        network, keys = where.network, load_account(account_file, where.network)
        identity = _identity(network, keys, name)
        document = SubcloudUnstake(
            os.urandom(16), keys.account_id, namespace, identity, system_clock_ms()
        )
        result = _courier(where).operation(keys.signing.sign(network, document))
        click.echo(f"{show_credits(result.amount)} credits are back in {namespace}")


def _courier(where: Where) -> Courier:
    return Courier(find_gateway(where.gateway, where.data_dir))


def _identity(network: NetworkId, keys: AccountKeys, name: str) -> SubcloudId:
    """A subcloud's ID, or the label of one that this account founds. Raises: MalformedError."""
    label, _, digest = name.rpartition("-")
    if label and len(digest) == 32:
        return parse_subcloud_id(name)
    return subcloud_id(network, keys.account_id, name)
