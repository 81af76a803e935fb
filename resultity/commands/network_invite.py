"""Owns `network invite-account` and `network invite-node`: lets others open accounts, run nodes."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.clock import system_clock_ms
from p2p.identity import load_key
from p2p.opening_messages import INVITE_USES_MAX, invite_id_of
from p2p.signing import KeyPair
from p2p.types import NetworkId
from resultity.account_invites import make_invite, parse_duration_s
from resultity.commands.options import EXISTING, PATH
from resultity.errors import SettingsError
from resultity.local.state import find_process, read_state
from resultity.network_files import NetworkFiles
from resultity.node_invites import make_node_invite
from resultity.role_process import reported_errors
from resultity.targets import find_network, local_folders


@click.command("invite-account")
@click.option("--uses", type=click.IntRange(1, INVITE_USES_MAX), default=1, show_default=True,
              help="Accounts that it opens.")  # fmt: skip
@click.option("--expires", default="7d", show_default=True, help="Like 90m, 12h, 7d or 2w.")
@click.option("--data-dir", type=PATH, help="The founder's folder: the authority signs.")
@click.option("--key", type=EXISTING, help="Or a delegate's key (participation.invite_keys).")
@click.option("--network", "network_id", help="With --key: ID of the network.")
@click.option("--json", "as_json", is_flag=True)
def invite_account(
    uses: int,
    expires: str,
    data_dir: Path | None,
    key: Path | None,
    network_id: str | None,
    as_json: bool,
) -> None:
    """Print an invite (offline). Whoever has it can open accounts, so hand it on in private.

    To end it early put its ID into participation.revoked_invites of the configuration.
    """
    if (key is None) == (data_dir is None):
        raise click.UsageError("give --data-dir (the authority signs) or --key")
    with reported_errors():
        network, issuer = _issuer(data_dir, key, network_id)
        now_ms = system_clock_ms()
        lifetime_s = parse_duration_s(expires)
        made = make_invite(issuer, network, uses, lifetime_s, now_ms)
        invite_id = invite_id_of(made.invite).hex()
        if as_json:
            facts = {"invite": made.text(), "invite_id": invite_id, "uses": uses}
            click.echo(json.dumps({**facts, "expires_ms": now_ms + lifetime_s * 1000}))
            return
        click.echo(made.text())
        click.echo(f"opens {uses} accounts within {expires}; its ID is {invite_id}", err=True)


@click.command("invite-node")
@click.option("--uses", type=click.IntRange(1, INVITE_USES_MAX), default=1, show_default=True,
              help="Nodes that it admits.")  # fmt: skip
@click.option("--expires", default="7d", show_default=True, help="Like 90m, 12h, 7d or 2w.")
@click.option("--bootstrap", "bootstraps", multiple=True,
              help="Multiaddress of a bootstrap, as nodes reach it (repeatable).")  # fmt: skip
@click.option("--data-dir", type=PATH, help="The founder's folder: the authority signs.")
@click.option("--key", type=EXISTING, help="Or a delegate's key (participation.invite_keys).")
@click.option("--network", "network_id", help="With --key: ID of the network.")
@click.option("--json", "as_json", is_flag=True)
def invite_node(
    uses: int,
    expires: str,
    bootstraps: tuple[str, ...],
    data_dir: Path | None,
    key: Path | None,
    network_id: str | None,
    as_json: bool,
) -> None:
    """Print an invite with which nodes join (offline): `resultity node join` reads it.

    It carries the network's ID, the bootstraps and the right to join: hand it on in private. Of the
    network that `resultity up` runs here, nothing needs to be said. To end it early put its ID into
    participation.revoked_invites of the configuration.
    """
    if key is not None and data_dir is not None:
        raise click.UsageError("give --data-dir (the authority signs) or --key, not both")
    with reported_errors():
        if key is None and data_dir is None:
            data_dir = local_folders(None).network.folder
            bootstraps = bootstraps or _local_bootstrap()
        if not bootstraps:
            raise SettingsError("where do nodes join? give --bootstrap /ip4/.../tcp/.../p2p/...")
        network, issuer = _issuer(data_dir, key, network_id)
        now_ms = system_clock_ms()
        lifetime_s = parse_duration_s(expires)
        made = make_node_invite(issuer, network, bootstraps, uses, lifetime_s, now_ms)
        invite_id = invite_id_of(made.invite).hex()
        if as_json:
            facts = {"invite": made.text(), "invite_id": invite_id, "uses": uses}
            click.echo(json.dumps({**facts, "expires_ms": now_ms + lifetime_s * 1000}))
            return
        click.echo(made.text())
        nodes = "1 node" if uses == 1 else f"{uses} nodes"
        click.echo(f"admits {nodes} within {expires}; its ID is {invite_id}", err=True)


def _issuer(
    data_dir: Path | None, key: Path | None, network_id: str | None
) -> tuple[NetworkId, KeyPair]:
    if key is not None:
        return find_network(network_id, None), load_key(key)
    assert data_dir is not None
    files = NetworkFiles(data_dir)
    return files.network(), files.authority()


def _local_bootstrap() -> tuple[str, ...]:
    record = read_state(local_folders(None)).process("bootstrap")
    running = record is not None and find_process(record) is not None
    return (record.address,) if record is not None and running else ()
