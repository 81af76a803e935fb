"""Owns `network invite-account`: lets somebody open accounts in a network that takes invites."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.clock import system_clock_ms
from p2p.identity import load_key
from p2p.opening_messages import INVITE_USES_MAX, invite_id_of
from resultity.account_invites import make_invite, parse_duration_s
from resultity.commands.options import EXISTING, PATH
from resultity.network_files import NetworkFiles
from resultity.role_process import reported_errors
from resultity.targets import find_network


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
        if key is not None:
            network, issuer = find_network(network_id, None), load_key(key)
        else:
            assert data_dir is not None
            files = NetworkFiles(data_dir)
            network, issuer = files.network(), files.authority()
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
