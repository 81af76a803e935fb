"""Owns `namespace create|list`: an account's namespaces, each with its own balance and API keys."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from resultity.account_keys import OwnersDesk
from resultity.accounts import opening, show_credits
from resultity.commands.options import ACCOUNT, DATA_DIR, GATEWAY, NETWORK
from resultity.courier import Courier
from resultity.role_process import reported_errors
from resultity.targets import find_gateway, find_network, local_folders


@click.group()
def namespace() -> None:
    """Open and list namespaces."""


@namespace.command("create")
@click.argument("name")
@ACCOUNT
@NETWORK
@GATEWAY
@DATA_DIR
def create(
    name: str,
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Open the namespace NAME (1 to 64 of a-z, 0-9, - and _)."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).consumer_account, network)
        document = opening(keys, network, name, system_clock_ms())
        result = Courier(find_gateway(gateway, data_dir)).operation(document)
        click.echo(f"{keys.account_id}/{name}{' exists already' if result.exists else ''}")


@namespace.command("list")
@ACCOUNT
@click.option("--json", "as_json", is_flag=True)
@NETWORK
@GATEWAY
@DATA_DIR
def list_namespaces(
    account_file: Path | None,
    as_json: bool,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Show an account's namespaces with what each can spend, and how many API keys it has."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).consumer_account, network)
        courier = Courier(find_gateway(gateway, data_dir))
        found = OwnersDesk(courier, network, system_clock_ms()).view(keys.signing, keys.account_id)
        if as_json:
            rows = [
                {
                    "namespace": n.name,
                    "available_microcredits": n.available,
                    "held_microcredits": n.held,
                    "api_keys": n.api_keys,
                }
                for n in found.namespaces
            ]
            click.echo(json.dumps(rows))
            return
        for n in found.namespaces:
            click.echo(
                f"{n.name:<24}{show_credits(n.available):>18} available"
                f"{show_credits(n.held):>18} held{n.api_keys:>6} keys"
            )
