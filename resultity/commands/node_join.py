"""Owns `node join` and `node leave`: how an operator's computer comes into a network, and goes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import click
import psutil

from p2p.clock import system_clock_ms
from p2p.node_invites import JoinInvite
from resultity.accounts import show_credits
from resultity.commands.options import EXISTING, PATH
from resultity.errors import DataFolderError, SettingsError
from resultity.folder_lock import is_locked, lock_holder, locked_folder
from resultity.local.processes import wait_gone
from resultity.log_setup import set_up_logging
from resultity.node_invites import check_bootstrap_address, read_join_text
from resultity.node_joining import (
    Choices,
    Joined,
    check_folder,
    forget_membership,
    join,
    node_table,
    owed_attempts,
)
from resultity.node_service import Service, remove, services_of
from resultity.role_process import reported_errors
from resultity.settings_sources import default_data_dir

STOP_WAIT_S = 3660.0
"""A drain takes an hour at most (`drain_s`)."""
DATA_DIR = click.option(
    "--data-dir", type=PATH, help="The node's folder; default: node in the default data folder."
)


@click.command("join")
@click.option("--invite-file", metavar="[FILE|-]",
              help="The invite's file, or - for a pipe; default: prompt or pipe.")  # fmt: skip
@DATA_DIR
@click.option("--account-file", type=PATH,
              help="Account that earns; without it one is made in the folder.")  # fmt: skip
@click.option("--model", help="A GGUF file, or the name of a model in the node's store.")
@click.option("--listen", multiple=True,
              help="Multiaddress to listen on, for a computer that others can reach (repeatable); "
              "none (the default): outbound connections only.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=click.FloatRange(1, 3600), default=60.0,
              show_default=True, help="Seconds to try to reach a bootstrap.")  # fmt: skip
@click.option("--pre-shared-key-file", type=EXISTING,
              help="The key of a network that has one; its operator gives it to you.")  # fmt: skip
@click.option("--run", "run_it", is_flag=True, help="Serve at once, until SIGINT or SIGTERM.")
@click.option("--yes", is_flag=True, help="Do not ask before joining.")
@click.option("--json", "as_json", is_flag=True)
def join_command(
    invite_file: str | None,
    data_dir: Path | None,
    account_file: Path | None,
    model: str | None,
    listen: tuple[str, ...],
    timeout_s: float,
    pre_shared_key_file: Path | None,
    run_it: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Join a network with an invite (rj_...), so that `resultity node run` needs nothing else.

    The invite is asked for at a hidden prompt, or read from a pipe or a file: never from the
    command line, where others can see it. Joining again is harmless.
    """
    folder = (data_dir or default_data_dir() / "node").expanduser().absolute()
    with reported_errors():
        invite = read_join_text(invite_file)
        for address in invite.bootstraps:
            check_bootstrap_address(address)
        _show_invite(invite)
        check_folder(folder, invite, system_clock_ms())
        if is_locked(folder) and node_table(folder).get("network") == invite.network:
            if account_file or model or listen or run_it:
                raise DataFolderError(
                    f"the node in {folder} has joined this network, and it runs: end it first "
                    "(`resultity node drain`) to change it"
                )
            click.echo(f"the node in {folder} has joined this network, and it runs", err=True)
            return
        if not yes and sys.stdin.isatty():
            click.confirm("Join this network?", default=True, abort=True, err=True)
        with locked_folder(folder):
            set_up_logging("info", folder / "logs" / "join.log", quiet=True)
            choices = Choices(account_file, model, listen, timeout_s, pre_shared_key_file)
            joined = join(folder, invite, choices)
    if as_json:
        click.echo(json.dumps(_facts(folder, joined)))
    else:
        _show_joined(folder, joined, run_it, data_dir)
    if run_it:
        from resultity.commands.roles import run_node

        run_node(folder)


def _show_invite(invite: JoinInvite) -> None:
    document = invite.document
    count = "1 node" if document.uses == 1 else f"{document.uses} nodes"
    signer = "the network's authority" if invite.by_authority else "a delegate"
    click.echo(f"network    {invite.network}", err=True)
    for address in invite.bootstraps:
        click.echo(f"bootstrap  {address}", err=True)
    from ledger.errors import utc_text  # a node that runs needs nothing of the ledger

    until = utc_text(document.expires_ms)
    click.echo(f"invite     for {count}, until {until}, signed by {signer}", err=True)


def _facts(folder: Path, joined: Joined) -> dict[str, object]:
    enrolment = joined.enrolment
    return {
        "folder": str(folder),
        "network": enrolment.configuration.network_id,
        "peer_id": enrolment.peer_id,
        "account_id": joined.account.account_id,
        "account_file": str(joined.account_file),
        "certificate_expires_ms": enrolment.certificate_ends_ms,
        "approved_models": [
            {"name": model.name, "sha256": model.digest} for model in enrolment.configuration.models
        ],
        "serves": joined.serves,
    }


def _show_joined(folder: Path, joined: Joined, run_it: bool, data_dir: Path | None) -> None:
    enrolment = joined.enrolment
    click.echo(f"node       {enrolment.peer_id}")
    click.echo(f"earns for  {joined.account.account_id} ({joined.account_file})")
    if joined.account_is_new:
        recovery = joined.account_file.with_name(f"{joined.account_file.stem}.recovery.key")
        click.echo(f"           take {recovery} offline: it is for emergencies only")
    from ledger.errors import utc_text

    until = utc_text(enrolment.certificate_ends_ms)
    click.echo(f"joined     the certificate is good until {until}, and renews itself")
    where = f" --data-dir {data_dir}" if data_dir is not None else ""
    if joined.serves:
        if not run_it:
            click.echo(f"next       resultity node run{where}")
        return
    models = enrolment.configuration.models
    click.echo("next       nothing to serve yet; this network approves")
    for model in models:
        price = show_credits(model.output_microcredits_per_million_tokens)
        click.echo(f"             {model.name}: {price} credits for 10^6 tokens written,")
        click.echo(f"               sha256 {model.digest}")
    if not models:
        click.echo("             no model file at the moment")
    if enrolment.configuration.unverified_models:
        names = ", ".join(model.name for model in enrolment.configuration.unverified_models)
        click.echo(f"             from a server of yours (node run --upstream): {names}")
    click.echo(f"           add one: resultity node models add FILE|URL{where}")
    click.echo(f"           and then: resultity node run{where}")


@click.command("leave")
@DATA_DIR
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Leave although pay is owed: it cannot be claimed.")
def leave_command(data_dir: Path | None, yes: bool, force: bool) -> None:
    """Leave the network: finish the running jobs, stop, forget the certificate and the settings.

    The account, the node's identity and its record of pay stay. Refused while pay is owed, because
    only a node that runs can claim it.
    """
    folder = (data_dir or default_data_dir() / "node").expanduser().absolute()
    with reported_errors():
        table = node_table(folder)
        if not table and not (folder / "certificate.msgpack").exists():
            raise DataFolderError(f"the node in {folder} has not joined a network")
        network = table.get("network", "its network")
        if not yes:
            if not sys.stdin.isatty():
                raise SettingsError(f"{folder} would leave {network}: say so with --yes")
            click.confirm(f"Leave {network}?", default=False, abort=True, err=True)
        services = services_of(folder)
        _stop(folder, services)
        with locked_folder(folder):
            owed = owed_attempts(folder)
            if owed and not force:
                raise DataFolderError(
                    f"gateways have not settled {owed} attempts yet: start the node again until "
                    "they have, or give --force to lose the pay"
                )
            for service in services:
                remove(service)
                click.echo(f"removed {service.path}")
            forget_membership(folder)
    click.echo(f"the node has left {network}; its account and its identity stay in {folder}")


def _stop(folder: Path, services: list[Service]) -> None:
    """End a node that runs: it drains, and learns what was settled. Raises: ProcessError."""
    for service in services:
        service.systemctl("stop", "--no-block", service.name)
    signalled = bool(services)  # by systemd; a second signal would cut the drain short
    while (holder := lock_holder(folder)) is not None:
        click.echo("the node finishes its jobs and ends", err=True)
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if not signalled:
                os.kill(holder, signal.SIGTERM)
            wait_gone([psutil.Process(holder)], STOP_WAIT_S)
        signalled = False
