"""Owns `subcloud delegate`: keys that act for a subcloud while the owner's stays offline."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.identity import load_key
from resultity.commands.options import EXISTING, PATH
from resultity.role_process import reported_errors
from resultity.subclouds.delegate_files import create_delegate_key


@click.group()
def delegate() -> None:
    """Make the keys that admit nodes and callers."""


@delegate.command()
@click.option("-o", "--output", type=PATH, required=True, help="The key file to make (0600).")
@click.option("--json", "as_json", is_flag=True)
def new(output: Path, as_json: bool) -> None:
    """Make a delegate's key (offline); its public key goes into the policy's `delegate_keys`."""
    with reported_errors():
        key = create_delegate_key(output)
        _show(output, key.public_key, as_json)


@delegate.command()
@click.argument("file", type=EXISTING)
@click.option("--json", "as_json", is_flag=True)
def show(file: Path, as_json: bool) -> None:
    """Print the public key of a delegate's key file."""
    with reported_errors():
        _show(file, load_key(file).public_key, as_json)


def _show(path: Path, public_key: bytes, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"file": str(path), "public_key": public_key.hex()}))
    else:
        click.echo(public_key.hex())
