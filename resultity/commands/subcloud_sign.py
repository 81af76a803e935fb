"""Owns `subcloud sign`, and what every command needs that signs for a subcloud's owner."""

from __future__ import annotations

from pathlib import Path

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from p2p.subclouds.identity import label_of
from p2p.subclouds.policy import SubcloudPolicy
from resultity.commands.options import ACCOUNT, DATA_DIR, EXISTING, NETWORK, PATH
from resultity.commands.subcloud_file import load_policy_file, reported_problems
from resultity.role_process import reported_errors
from resultity.subclouds.notes import notes_about
from resultity.subclouds.signed_versions import note_signed
from resultity.subclouds.signing import (
    Owner,
    digest_of,
    policy_in,
    read_before,
    sign_file,
    write_record,
)
from resultity.targets import find_network, local_folders

AFTER = click.option(
    "--after",
    type=EXISTING,
    help="The version in force (`subcloud show -o`), or a handover; without: the first version.",
)
REPLACE = click.option(
    "--replace", is_flag=True, help="What was signed for this version before was shown to nobody."
)


def account_path(account_file: Path | None, data_dir: Path | None) -> Path:
    """The account file that signs: by option, or the local network's consumer."""
    return account_file or local_folders(data_dir).consumer_account


@click.command("sign")
@click.argument("file", type=EXISTING)
@click.option("-o", "--output", type=PATH, help="Default: FILE with the ending .policy.")
@AFTER
@REPLACE
@ACCOUNT
@NETWORK
@DATA_DIR
def sign(
    file: Path,
    output: Path | None,
    after: Path | None,
    replace: bool,
    account_file: Path | None,
    network_id: str | None,
    data_dir: Path | None,
) -> None:
    """Sign the policy in FILE with the account's key; `publish` puts it in force.

    Works without a network, so that the owner's key may stay offline.
    """
    with reported_errors(), reported_problems(file):
        network = find_network(network_id, data_dir)
        path = account_path(account_file, data_dir)
        keys = load_account(path, network)
        before = read_before(after, network) if after is not None else None
        owner = Owner.offline(keys, before, network)
        record = sign_file(load_policy_file(file), owner, before, network, system_clock_ms())
        note_signed(path, record, replace=replace)
        target = output or file.with_suffix(".policy")
        write_record(target, record)
        report(policy_in(record), digest_of(record), "is signed")
        click.echo(f"it is in {target}: publish it with `resultity subcloud publish {target}`")
        if not owner.is_proven(network):
            click.echo(
                "the key in the account file was added later: publish it with --account-file, so "
                "that the change of keys is added",
                err=True,
            )


def report(policy: SubcloudPolicy, digest: str, what: str) -> None:
    """Say which version of what was made."""
    name = label_of(policy.identity)
    click.echo(f"version {policy.version} of {name} {what}: {policy.subcloud_id}, digest {digest}")
    for note in notes_about(policy):
        click.echo(f"note: {note}", err=True)
