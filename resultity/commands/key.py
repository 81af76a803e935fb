"""Owns `key create|revoke`: API keys, by an account's owner."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from resultity.accounts import new_key, parse_credits, revocation
from resultity.courier import Courier
from resultity.role_process import reported_errors
from resultity.targets import find_gateway, find_network, local_folders

PATH = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)
MILLISECONDS_PER_DAY = 86_400_000
ACCOUNT = click.option(
    "--account-file", type=EXISTING, help="Default: the local network's consumer."
)
NETWORK = click.option("--network", "network_id", help="Default: the local network's ID.")
GATEWAY = click.option("--gateway", help="Default: the local network's.")
DATA_DIR = click.option("--data-dir", type=PATH, help="Of the local network.")


@click.group()
def key() -> None:
    """Create and revoke API keys."""


@key.command("create")
@ACCOUNT
@click.option("--namespace", default="default", show_default=True)
@click.option("--name", default="key", show_default=True, help="What you call it.")
@click.option("--expires-days", type=click.IntRange(1, 3650), help="Default: never.")
@click.option("--credit-cap", help="Credits that it may spend in total; default: no cap.")
@click.option("--model", "models", multiple=True, help="Models that it may use; default: all.")
@click.option("--json", "as_json", is_flag=True)
@NETWORK
@GATEWAY
@DATA_DIR
def create(
    account_file: Path | None,
    namespace: str,
    name: str,
    expires_days: int | None,
    credit_cap: str | None,
    models: tuple[str, ...],
    as_json: bool,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Create an API key. It is shown once: nobody stores the secret."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).consumer_account, network)
        now_ms = system_clock_ms()
        api_key, document = new_key(
            keys,
            network,
            namespace,
            now_ms,
            name=name,
            expires_ms=now_ms + expires_days * MILLISECONDS_PER_DAY if expires_days else 0,
            credit_cap_total=parse_credits(credit_cap) if credit_cap else 0,
            models=models,
        )
        Courier(find_gateway(gateway, data_dir)).operation(document)
        if as_json:
            click.echo(json.dumps({"key_id": api_key.key_id, "api_key": api_key.text}))
        else:
            click.echo(api_key.text)


@key.command("revoke")
@click.argument("key_id")
@ACCOUNT
@NETWORK
@GATEWAY
@DATA_DIR
def revoke(
    key_id: str,
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """End an API key; KEY_ID is the part between rk_ and the second underscore."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).consumer_account, network)
        document = revocation(keys, network, key_id, system_clock_ms())
        Courier(find_gateway(gateway, data_dir)).operation(document)
        click.echo(f"{key_id} is revoked; gateways that know it refuse it within seconds")
