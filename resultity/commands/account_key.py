"""Owns `account key list|add|remove|rotate|recover`: the signing keys of an account."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from p2p.types import AccountId, is_account_id
from resultity.account_keys import OwnersDesk, parse_public_key
from resultity.commands.options import DATA_DIR, EXISTING, GATEWAY, NETWORK, PATH
from resultity.courier import Courier
from resultity.errors import SettingsError
from resultity.role_process import reported_errors
from resultity.targets import find_gateway, find_network

FILE = click.argument("file", type=EXISTING)


@click.group("key")
def key() -> None:
    """Add, remove, rotate and recover an account's signing keys."""


def _desk(network_id: str | None, gateway: str | None, data_dir: Path | None) -> OwnersDesk:
    network = find_network(network_id, data_dir)
    return OwnersDesk(Courier(find_gateway(gateway, data_dir)), network, system_clock_ms())


@key.command("list")
@FILE
@click.option("--json", "as_json", is_flag=True)
@NETWORK
@GATEWAY
@DATA_DIR
def list_keys(
    file: Path, as_json: bool, network_id: str | None, gateway: str | None, data_dir: Path | None
) -> None:
    """Show the keys of the account in FILE, as the ledger has them."""
    with reported_errors():
        keys = load_account(file, find_network(network_id, data_dir))
        found = _desk(network_id, gateway, data_dir).view(keys.signing, keys.account_id)
        if as_json:
            shown = {
                "account_id": keys.account_id,
                "signing_keys": [public_key.hex() for public_key in found.signing_keys],
                "recovery_keys": [public_key.hex() for public_key in found.recovery_keys],
                "key_changes": found.key_changes,
                "operations": found.operations,
            }
            click.echo(json.dumps(shown))
            return
        click.echo(keys.account_id)
        for public_key in found.signing_keys:
            own = "  (in this file)" if public_key == keys.signing.public_key else ""
            click.echo(f"signing   {public_key.hex()}{own}")
        for public_key in found.recovery_keys:
            click.echo(f"recovery  {public_key.hex()}")


@key.command("add")
@FILE
@click.argument("new_file", type=PATH)
@NETWORK
@GATEWAY
@DATA_DIR
def add(
    file: Path, new_file: Path, network_id: str | None, gateway: str | None, data_dir: Path | None
) -> None:
    """Make NEW_FILE: the same account with a key of its own, for another person or machine."""
    with reported_errors():
        new = _desk(network_id, gateway, data_dir).add(file, new_file)
        click.echo(f"{new_file} has the new key {new.signing.public_key.hex()}")


@key.command("remove")
@FILE
@click.argument("public_key")
@NETWORK
@GATEWAY
@DATA_DIR
def remove(
    file: Path, public_key: str, network_id: str | None, gateway: str | None, data_dir: Path | None
) -> None:
    """Take PUBLIC_KEY (hex, see `list`) away from the account; it never comes back."""
    with reported_errors():
        _desk(network_id, gateway, data_dir).remove(file, parse_public_key(public_key))
        click.echo(f"{public_key} signs nothing any more")


@key.command("rotate")
@FILE
@NETWORK
@GATEWAY
@DATA_DIR
def rotate(file: Path, network_id: str | None, gateway: str | None, data_dir: Path | None) -> None:
    """Replace the key in FILE by a new one; what the old one signs is refused from then on.

    If it is broken off, run it again: it goes on where it was.
    """
    with reported_errors():
        new = _desk(network_id, gateway, data_dir).rotate(file)
        click.echo(f"{file} has the new key {new.signing.public_key.hex()}")


@key.command("recover")
@click.argument("new_file", type=PATH)
@click.option("--account", "account_id", required=True, help="ID of the account.")
@click.option("--recovery-key", type=EXISTING, required=True, help="The offline recovery key.")
@click.option("--keep", multiple=True, help="Public keys that stay; all others are removed.")
@NETWORK
@GATEWAY
@DATA_DIR
def recover(
    new_file: Path,
    account_id: str,
    recovery_key: Path,
    keep: tuple[str, ...],
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Take an account back: NEW_FILE gets a new key, all others are removed.

    The recovery key is replaced too, because it was online: take the file offline again.
    """
    with reported_errors():
        if not is_account_id(account_id):
            raise SettingsError(f"not an account ID (acct-<40 hex digits>): {account_id[:60]!r}")
        kept = [parse_public_key(text) for text in keep]
        desk = _desk(network_id, gateway, data_dir)
        new = desk.recover(new_file, AccountId(account_id), recovery_key, kept)
        click.echo(f"{new_file} has the new key {new.signing.public_key.hex()}")
        click.echo(f"{recovery_key} holds a new recovery key: take it offline again", err=True)
