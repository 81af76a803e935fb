"""Owns `node service install|status|remove`: a node that systemd starts and watches."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path

import click

from resultity.commands.options import PATH
from resultity.errors import NotRunningError
from resultity.node_service import Service, install, lingers, remove
from resultity.node_unit import is_ours
from resultity.role_process import reported_errors
from resultity.settings_sources import default_data_dir

DATA_DIR = click.option(
    "--data-dir", type=PATH, help="The node's folder; default: node in the default data folder."
)
SYSTEM = click.option(
    "--system", "of_system", is_flag=True, help="A unit of the system (root), not of this user."
)


@click.group()
def service() -> None:
    """Have systemd start the node, watch it, and start it again."""


def _service(data_dir: Path | None, of_system: bool) -> Service:
    folder = (data_dir or default_data_dir() / "node").expanduser().absolute()
    return Service(folder, of_system)


@service.command("install")
@DATA_DIR
@SYSTEM
@click.option("--run-as", help="With --system: the user of the node; default: who called sudo.")
def install_command(data_dir: Path | None, of_system: bool, run_as: str | None) -> None:
    """Write a unit for a node that has joined, enable it and start it; shows what it wrote.

    Installing again replaces the unit. A unit that is not ours is left as it is.
    """
    with reported_errors():
        found = _service(data_dir, of_system)
        text = install(found, run_as or os.environ.get("SUDO_USER"))
    click.echo(text, nl=False)
    click.echo(f"wrote {found.path}; it starts now, and with the {_when(of_system)}", err=True)
    click.echo(f"look: resultity node service status{_where(data_dir, of_system)}", err=True)
    if not of_system and not lingers(getpass.getuser()):
        click.echo("it ends when you log out; to keep it: loginctl enable-linger", err=True)


@service.command("status")
@DATA_DIR
@SYSTEM
@click.option("--json", "as_json", is_flag=True)
def status_command(data_dir: Path | None, of_system: bool, as_json: bool) -> None:
    """Show what systemd says of the node's unit. Exit code 1 if it does not run."""
    with reported_errors():
        found = _service(data_dir, of_system)
        found.require_systemd()
        if not found.path.exists():
            raise NotRunningError(f"there is no {found.path}: `resultity node service install`")
        facts = found.properties()
        ours = is_ours(found.path.read_text(encoding="utf-8", errors="replace"))
    if as_json:
        click.echo(json.dumps({"unit": found.name, "path": str(found.path), "ours": ours, **facts}))
    else:
        click.echo(f"{found.name}: {facts.get('ActiveState')} ({facts.get('SubState')})")
        click.echo(f"  file      {found.path}{'' if ours else ' (not ours)'}")
        click.echo(f"  at boot   {facts.get('UnitFileState')}")
        click.echo(f"  process   {facts.get('MainPID')}, restarted {facts.get('NRestarts')} times")
    if facts.get("ActiveState") != "active":
        raise click.exceptions.Exit(1)


@service.command("remove")
@DATA_DIR
@SYSTEM
def remove_command(data_dir: Path | None, of_system: bool) -> None:
    """Stop the node (its running jobs finish) and remove its unit. Twice is harmless."""
    with reported_errors():
        found = _service(data_dir, of_system)
        if remove(found):
            click.echo(f"removed {found.path}; the node ends when its jobs are done")
        else:
            click.echo(f"there is no {found.path}")


def _when(of_system: bool) -> str:
    return "system" if of_system else "user's session"


def _where(data_dir: Path | None, of_system: bool) -> str:
    return (f" --data-dir {data_dir}" if data_dir else "") + (" --system" if of_system else "")
