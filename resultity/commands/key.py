"""Owns `key create|list|limit|rotate|revoke`: API keys, by an account's owner."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from p2p.key_limits import RATE_MAX, KeyLimits
from resultity.accounts import key_rotation, new_key, parse_credits, revocation
from resultity.api_keys import key_as_record, key_as_text, parse_gateway, parse_source, read_keys
from resultity.commands.key_limit import limit
from resultity.commands.options import ACCOUNT, DATA_DIR, GATEWAY, NETWORK
from resultity.courier import Courier
from resultity.errors import SettingsError
from resultity.key_subclouds import finder, with_subclouds
from resultity.role_process import reported_errors
from resultity.targets import find_gateway, find_network, local_folders

SUBCLOUD_HELP = "Subclouds (ID or name; `global`: the global pool) it may use; default: all."
DEFAULT_SUBCLOUD_HELP = "Where requests go that name no subcloud; default: the only one it may use."
MILLISECONDS_PER_HOUR = 3_600_000
MILLISECONDS_PER_DAY = 24 * MILLISECONDS_PER_HOUR


@click.group()
def key() -> None:
    """Create, list, limit, rotate and revoke API keys."""


key.add_command(limit)


@key.command("create")
@ACCOUNT
@click.option("--namespace", default="default", show_default=True)
@click.option("--name", default="key", show_default=True, help="What you call it.")
@click.option("--expires-days", type=click.IntRange(1, 3650), help="Default: never.")
@click.option("--credit-cap", help="Credits that it may spend in total; default: no cap.")
@click.option("--credits-per-day", help="Credits that it may spend on a UTC day.")
@click.option("--requests-per-minute", type=click.IntRange(1, RATE_MAX), help="At each gateway.")
@click.option("--tokens-per-minute", type=click.IntRange(1, RATE_MAX), help="At each gateway.")
@click.option("--model", "models", multiple=True, help="Models that it may use; default: all.")
@click.option("--allow-gateway", "gateways", multiple=True, help="Peer IDs; default: all.")
@click.option("--source", "sources", multiple=True, help="Networks (CIDR); default: everywhere.")
@click.option("--subcloud", "subclouds", multiple=True, help=SUBCLOUD_HELP)
@click.option("--default-subcloud", help=DEFAULT_SUBCLOUD_HELP)
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
    credits_per_day: str | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    models: tuple[str, ...],
    gateways: tuple[str, ...],
    sources: tuple[str, ...],
    subclouds: tuple[str, ...],
    default_subcloud: str | None,
    as_json: bool,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Create an API key. It is shown once: nobody stores the secret."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).consumer_account, network)
        now_ms, url = system_clock_ms(), find_gateway(gateway, data_dir)
        limits = KeyLimits(
            parse_credits(credits_per_day) if credits_per_day else 0,
            requests_per_minute or 0,
            tokens_per_minute or 0,
            tuple(parse_source(text) for text in sources),
        )
        limits = with_subclouds(limits, subclouds, default_subcloud, finder(url, network))
        api_key, document = new_key(
            keys,
            network,
            namespace,
            now_ms,
            name=name,
            expires_ms=now_ms + expires_days * MILLISECONDS_PER_DAY if expires_days else 0,
            credit_cap_total=parse_credits(credit_cap) if credit_cap else 0,
            models=models,
            gateways=tuple(parse_gateway(text) for text in gateways),
            limits=limits,
        )
        Courier(url).operation(document)
        if as_json:
            click.echo(json.dumps({"key_id": api_key.key_id, "api_key": api_key.text}))
        else:
            click.echo(api_key.text)


@key.command("list")
@ACCOUNT
@click.option("--namespace", default="default", show_default=True)
@click.option("--json", "as_json", is_flag=True)
@NETWORK
@GATEWAY
@DATA_DIR
def list_keys(
    account_file: Path | None,
    namespace: str,
    as_json: bool,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Show the API keys of a namespace: their limits, and what they have used of them."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).consumer_account, network)
        found = read_keys(Courier(find_gateway(gateway, data_dir)), keys, network, namespace)
        now_ms = system_clock_ms()
        if as_json:
            click.echo(json.dumps([key_as_record(summary, now_ms) for summary in found]))
            return
        for summary in found:
            click.echo(key_as_text(summary, now_ms))


@key.command("rotate")
@click.argument("key_id")
@click.option("--namespace", default="default", show_default=True)
@click.option(
    "--grace-hours",
    type=click.FloatRange(0, 720),
    default=24,
    show_default=True,
    help="How long the old secret stays good.",
)
@click.option("--json", "as_json", is_flag=True)
@ACCOUNT
@NETWORK
@GATEWAY
@DATA_DIR
def rotate(
    key_id: str,
    namespace: str,
    grace_hours: float,
    as_json: bool,
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Give an API key a new secret (shown once); its ID, limits and counters stay.

    KEY_ID is the part between rk_ and the second underscore.
    """
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).consumer_account, network)
        courier = Courier(find_gateway(gateway, data_dir))
        found = [k for k in read_keys(courier, keys, network, namespace) if k.key_id == key_id]
        if not found:
            raise SettingsError(f"the namespace {namespace} has no API key {key_id[:40]!r}")
        api_key, document = key_rotation(
            keys,
            network,
            key_id,
            found[0].generation + 1,
            int(grace_hours * MILLISECONDS_PER_HOUR),
            system_clock_ms(),
        )
        if not as_json:
            # Before the ledger takes it: a secret that is in force and not known would be lost.
            click.echo(api_key.text)
        courier.operation(document)
        if account_file is None:
            local_folders(data_dir).replace_api_key(key_id, api_key.text)
        if as_json:
            click.echo(json.dumps({"key_id": key_id, "api_key": api_key.text}))
        click.echo(f"the old secret is good for {grace_hours:g} hours more", err=True)


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
