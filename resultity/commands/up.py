"""Owns `resultity up`: options, what is printed, and the live line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import trio
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from resultity.accounts import show_credits
from resultity.errors import DataFolderError, GatewayCallError, ProcessError
from resultity.folder_lock import is_locked
from resultity.http_json import gateway_root, get_json
from resultity.local.folders import LocalFolders
from resultity.local.processes import POLL_INTERVAL_S, START_TIMEOUT_S
from resultity.local.progress import LineProgress, progress_on
from resultity.local.start import LocalNetwork, remembered_options
from resultity.local.state import read_state
from resultity.local.supervise import LOCK, start_or_stop, supervised, watch
from resultity.role_process import reported_errors
from resultity.settings_sources import default_data_dir


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Default: RESULTITY_DATA_DIR.")
@click.option("--nodes", type=click.IntRange(1, 64), help="How many nodes; the first time 2.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the API; 0 for a free one.")
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="GGUF file that the nodes serve; the first time the demo model.",
)
@click.option("--detach", is_flag=True, help="Return when the API answers; `down` ends it.")
@click.option("--json", "as_json", is_flag=True, help="With --detach: print one line of JSON.")
def up(
    data_dir: Path | None,
    nodes: int | None,
    port: int | None,
    model: Path | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Start a network of your own on this machine: bootstrap, nodes, gateway.

    Keys, ports and balances live in one folder: the next start continues with them.
    """
    if as_json and not detach:
        raise click.UsageError("--json needs --detach")
    with reported_errors():
        folders = LocalFolders((data_dir or default_data_dir()).absolute())
        options = remembered_options(read_state(folders), nodes, port, model)
        console = Console(stderr=True)
        with progress_on(console) as progress:
            network = LocalNetwork(folders, options, progress)
            if detach:
                trio.run(_detached, network)
        if not detach:
            trio.run(_foreground, network, console)
        elif as_json:
            click.echo(json.dumps(network.summary()))
        else:
            _print_how_to(network, Console(), "resultity down")


async def _detached(network: LocalNetwork) -> None:
    await _wait_for_other_start(network)
    if is_locked(network.folders.run, LOCK):
        network.state = read_state(network.folders)
        if _complete(network):
            return  # an `up` in the foreground watches over it: nothing is missing
    with supervised(network):
        await start_or_stop(network)


async def _wait_for_other_start(network: LocalNetwork) -> None:
    """Another `up` may be starting, or restarting what died: let it finish."""
    said = False
    with trio.move_on_after(START_TIMEOUT_S):
        while is_locked(network.folders.run, LOCK):
            network.state = read_state(network.folders)
            if _complete(network):
                return
            if not said:
                click.echo("another `up` is starting or repairing this network: waiting", err=True)
                said = True
            await trio.sleep(POLL_INTERVAL_S)


def _complete(network: LocalNetwork) -> bool:
    """Whether everything that is wanted runs and the gateway says that it serves."""
    alive = {record.name for record in network.state.alive() if record.peer_id}
    if not {"bootstrap", "gateway", *network.node_names} <= alive:
        return False
    try:
        health = get_json(f"{gateway_root(network.base_url)}/healthz", timeout_s=2.0)
    except (ProcessError, GatewayCallError):
        return False
    return bool(health["nodes"] >= len(network.node_names))


async def _foreground(network: LocalNetwork, console: Console) -> None:
    state = read_state(network.folders)
    if state.alive():
        gateway = state.process("gateway")
        where = f" at {gateway.base_url}" if gateway is not None and gateway.base_url else ""
        raise DataFolderError(
            f"this network is running already{where}: `resultity down` ends it, "
            "`resultity up --detach` starts what is missing"
        )
    with supervised(network):
        with progress_on(console) as progress:
            network.progress = progress
            await start_or_stop(network)
        network.progress = LineProgress(console)
        _print_how_to(network, Console(), "Ctrl-C")
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            await watch(network, lambda status: live.update(status_line(status)))
        console.print("all stopped", style="green")


def status_line(status: dict[str, Any]) -> Text:
    """What goes on, in one line, from the gateway's /status/network."""
    if "error" in status:
        return Text(f"gateway: {status['error']}", "yellow")
    text = (
        f"{status.get('nodes_connected', 0)} of {status.get('nodes_known', 0)} nodes connected, "
        f"{status.get('jobs_running', 0)} jobs running, {status.get('jobs_done', 0)} done"
    )
    return Text(text, "dim" if status.get("bootstrap_connected") else "yellow")


def _print_how_to(network: LocalNetwork, console: Console, ended_by: str) -> None:
    base_url, api_key = network.base_url, network.folders.read_api_key()
    model = network.model.name if network.model else "tiny-chat"
    balance = _balance(base_url, api_key)
    lines = [
        f"base URL  {base_url}",
        f"API key   {api_key}",
        f"model     {model}",
        f"balance   {balance}",
        f"network   {network.folders.network.network()}",
        f"data      {network.folders.root}",
        f"ended by  {ended_by}",
    ]
    text = "\n".join(lines)
    if console.is_terminal:
        console.print(Panel(Text(text), title="your network is up", expand=False))
    else:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
        }
    )
    example = (
        f"\ncurl {base_url}/chat/completions \\\n"
        f"  -H 'Authorization: Bearer {api_key}' \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d '{body}'\n\n"
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{base_url}", api_key="{api_key}")\n'
    )
    console.print(example, markup=False, highlight=False, soft_wrap=True)


def _balance(base_url: str, api_key: str) -> str:
    url = f"{gateway_root(base_url)}/v1/account/balance"
    answer = get_json(url, api_key=api_key)
    return f"{show_credits(answer['available_microcredits'])} credits"
