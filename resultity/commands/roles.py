"""Owns `node run`, `gateway run` and `bootstrap run`: from options to a process."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from node.limits import MODES
from node.settings_file import SETTINGS_FILE
from p2p.reaching.hidden_modes import HIDDEN_MODES
from resultity.commands import node_join, node_service, node_status
from resultity.commands.options import EXISTING, PATH
from resultity.lazy_group import LazyGroup
from resultity.log_setup import LEVELS
from resultity.role_process import is_ours, one_line, reported_errors, run_role
from resultity.settings_sources import collect_settings, default_data_dir, read_table

F = TypeVar("F", bound=Callable[..., Any])
NODE_COMMANDS = {
    # Imports an HTTP client, which no other command of a node needs.
    "models": ("resultity.commands.node_models:models", "Keep the model files of a node."),
    "subclouds": (
        "resultity.commands.node_subclouds:subclouds",
        "Join, leave and watch subclouds with a node.",
    ),
}
LISTEN_HELP = "Multiaddress to listen on (repeatable), or none; default /ip4/127.0.0.1/tcp/0."


def common_options(function: F) -> F:
    """Add the options that every role has."""
    for option in reversed(
        [
            click.option("--network", help="ID of the network (name-<32 hex digits>)."),
            click.option("--data-dir", type=PATH, help="Folder for the identity and all state."),
            click.option("--listen", multiple=True, help=LISTEN_HELP),
            click.option(
                "--pre-shared-key-file", type=PATH, help="The key of a network that has one."
            ),
            click.option("--config", type=EXISTING, help="TOML file with a table for the role."),
            click.option(
                "--log-level", type=click.Choice(LEVELS), default="info", show_default=True
            ),
            click.option(
                "--log-file", type=PATH, help="Default: logs/<role>.log in the data folder."
            ),
            click.option("--quiet", is_flag=True, help="Only errors on stderr."),
            click.option("--ready-file", type=PATH, help="Written (JSON) when the role serves."),
        ]
    ):
        function = option(function)
    return function


def bootstraps_option(function: F) -> F:
    """Add --bootstrap, for the roles that need one."""
    return click.option(
        "--bootstrap",
        "bootstraps",
        multiple=True,
        help="Multiaddress of a bootstrap, ending in /p2p/<peer ID> (repeatable).",
    )(function)


def _run(role: str, given: dict[str, Any]) -> None:
    log_level, log_file = given.pop("log_level"), given.pop("log_file")
    quiet, ready_file, config = given.pop("quiet"), given.pop("ready_file"), given.pop("config")
    with reported_errors():
        settings = _settings(role, config, given)
        run_role(
            role,
            settings,
            log_level=log_level,
            log_file=log_file,
            quiet=quiet,
            ready_file=ready_file,
        )


def _settings(role: str, config: Path | None, given: dict[str, Any]) -> Any:
    """Make a role's settings. Raises: click.UsageError (exit code 2) with one line."""
    settings_class = getattr(
        importlib.import_module(f"{role}.settings"), f"{role.capitalize()}Settings"
    )
    try:
        table = read_table(config, role) if config is not None else {}
        variable = f"RESULTITY_{role.upper()}_DATA_DIR"
        if given["data_dir"] is None and variable not in os.environ and "data_dir" not in table:
            given["data_dir"] = default_data_dir() / role
        if role == "node" and config is None:
            folder = Path(given["data_dir"] or os.environ[variable])
            if (folder / SETTINGS_FILE).exists():  # it has joined
                table = read_table(folder / SETTINGS_FILE, role)
        return collect_settings(settings_class, role, given, os.environ, table)
    except Exception as error:
        # Whatever a settings class refuses with (each role has its own errors) is a bad argument.
        if not is_ours(error):
            raise
        raise click.UsageError(one_line(error)) from error


@click.group(cls=LazyGroup, lazy=NODE_COMMANDS)
def node() -> None:
    """Serve a model to a network."""


@node.command("run")
@common_options
@bootstraps_option
@click.option("--model", type=PATH, help="The model: a GGUF file that the network approves.")
@click.option("--models-dir", type=PATH, help="Serve the models of this store (`node models`).")
@click.option("--preload", multiple=True, help="Models loaded at the start: a pattern.")
@click.option("--slots", type=click.IntRange(1, 256), help="Jobs at the same time.")
@click.option("--context-tokens", type=click.IntRange(16), help="Context of each job.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of the model's process.")
@click.option("--mode", type=click.Choice(MODES), help="Answers: reproducible, or faster.")
@click.option("--gpu-layers", help="Layers on GPUs: a number, or auto (as many as fit).")
@click.option("--account-file", type=PATH, help="Account that earns (from `account create`).")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Prometheus, on 127.0.0.1.")
@click.option("--invite-file", type=PATH, help="File with an invite, for networks that ask one.")
@click.option(
    "--hidden", type=click.Choice(HIDDEN_MODES), help="Whether others cannot dial it; default auto."
)
@click.option("--country", help="Where it stands, as you tell subclouds: DE, FR, ...")
@click.option("--upstream", help="Offer another server, as http://127.0.0.1:8000/v1.")
@click.option(
    "--upstream-model",
    "upstream_models",
    multiple=True,
    help="Which of its models: NAME or NAME=NETWORK_NAME (repeatable).",
)
@click.option("--upstream-key-file", type=PATH, help="File with its key, readable by you only.")
@click.option("--upstream-slots", type=click.IntRange(1, 256), help="Jobs at once it takes.")
@click.option(
    "--upstream-context-tokens", type=click.IntRange(16), help="Its context, if it does not tell."
)
def node_run(**given: Any) -> None:
    """Serve a model until SIGINT or SIGTERM."""
    _run("node", given)


def run_node(folder: Path) -> None:
    """Serve with what a data folder says, until SIGINT or SIGTERM."""
    options = {parameter.name: None for parameter in node_run.params if parameter.name}
    _run("node", {**options, "data_dir": folder, "log_level": "info", "quiet": False})


node.add_command(node_join.join_command)
node.add_command(node_join.leave_command)
node.add_command(node_service.service)
node.add_command(node_status.status)
node.add_command(node_status.logs)
node.add_command(node_status.drain)


@click.group()
def gateway() -> None:
    """Offer a network as an OpenAI-compatible API."""


@gateway.command("run")
@common_options
@bootstraps_option
@click.option("--certificate", type=PATH, help="Certificate chain (from `network certify`).")
@click.option(
    "--binding", type=PATH, help="Instead: the account's (from `account certify-gateway`)."
)
@click.option("--http-host", help="Address of the API; default 127.0.0.1.")
@click.option("--http-port", type=click.IntRange(0, 65535), help="Port of the API; default 8420.")
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    help="Multiaddress of a mirror to ask about the ledger's log (repeatable).",
)
@click.option("--geoip-file", type=PATH, help="MaxMind DB of countries, for subclouds' regions.")
def gateway_run(**given: Any) -> None:
    """Serve the API until SIGINT or SIGTERM."""
    _run("gateway", given)


@click.group()
def bootstrap() -> None:
    """Let peers in, publish the configuration, keep the ledger."""


@bootstrap.command("run")
@common_options
@click.option("--certificate", type=PATH, help="Certificate chain (from `network certify`).")
@click.option("--configuration", type=PATH, help="Signed configuration (from `network sign`).")
@click.option("--database-url", help="SQLAlchemy URL; default SQLite in the data folder.")
@click.option("--mirror-of", help="Follow and check the ledger of the bootstrap at this address.")
def bootstrap_run(**given: Any) -> None:
    """Serve as a bootstrap until SIGINT or SIGTERM."""
    _run("bootstrap", given)
