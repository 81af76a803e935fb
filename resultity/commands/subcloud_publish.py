"""Owns `subcloud publish|revoke|resign|handover`: what changes a subcloud for everybody."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import click

from p2p.account_file import AccountKeys, load_account
from p2p.clock import system_clock_ms
from p2p.subclouds.identity import label_of, subcloud_id
from p2p.subclouds.records import PolicyRecord, verify_record
from p2p.types import AccountId, NetworkId, is_account_id
from resultity.account_keys import OwnersDesk
from resultity.commands.options import ACCOUNT, DATA_DIR, EXISTING, GATEWAY, NETWORK, PATH
from resultity.commands.subcloud_file import load_policy_file, reported_problems
from resultity.commands.subcloud_sign import AFTER, REPLACE, account_path, report
from resultity.courier import Courier
from resultity.errors import GatewayCallError, SettingsError
from resultity.role_process import reported_errors
from resultity.subclouds.client import SubcloudClient
from resultity.subclouds.signed_versions import note_signed
from resultity.subclouds.signing import (
    Before,
    Owner,
    digest_of,
    hand_over,
    is_record,
    policy_in,
    read_before,
    read_record,
    sign_again,
    sign_file,
    sign_last,
    write_handover,
)
from resultity.targets import find_gateway, find_network

UNKNOWN = ("unknown_subcloud", "subcloud_not_found")


@dataclass(frozen=True, slots=True)
class Desk:
    """What an owner's command works with."""

    network: NetworkId
    gateway: str
    account_file: Path

    @property
    def client(self) -> SubcloudClient:
        """The way to the bootstraps."""
        return SubcloudClient(self.gateway, self.network)

    def keys(self) -> AccountKeys:
        """Read the account file. Raises: FileNotFoundError, P2PError."""
        return load_account(self.account_file, self.network)

    def owner(self, keys: AccountKeys) -> Owner:
        """The account with the proof of its keys from the ledger. Raises: GatewayCallError."""
        desk = OwnersDesk(Courier(self.gateway), self.network, system_clock_ms())
        return Owner(keys, desk.proof(keys.signing, keys.account_id))

    def in_force(self, name: str, keys: AccountKeys, *, founds: bool) -> Before | None:
        """The version in force of a subcloud of the account's, if there is one.

        Raises: GatewayCallError, P2PError, SettingsError (the name is another account's, and
            nobody said that this one founds a subcloud without it).
        """
        founded = subcloud_id(self.network, keys.account_id, name)
        try:
            return Before(self.client.get(founded))
        except GatewayCallError as error:
            if error.code not in UNKNOWN:
                raise
        try:
            found = self.client.get(name)
        except GatewayCallError as error:
            if error.code not in UNKNOWN:
                raise
            return None
        # Not founded by the account: it is the account's only if it was handed over.
        if found.policy.owner == keys.account_id:
            return Before(found)
        if founds:
            return None
        raise SettingsError(
            f"{name} is the name of {found.identity}, which belongs to {found.policy.owner}: give "
            "that account's --account-file, or its handover with --after; to found another one, "
            "which only its ID addresses, give --found"
        )

    def publish(self, record: PolicyRecord) -> None:
        """Publish a record and say so. Raises: GatewayCallError, P2PError."""
        known = verify_record(record, self.network)
        published = self.client.publish(record)
        report(known.policy, known.digest, "is published")
        label = label_of(known.identity)
        if known.policy.join != "open" and known.policy.version == 1:
            click.echo(
                "members are refused until a delegate publishes a list of revocations: "
                f"`resultity subcloud steward {label}`",
                err=True,
            )
        if published.label != label and not known.policy.ended:
            click.echo(
                f"the name {label} is another subcloud's or reserved: yours is addressed by its ID",
                err=True,
            )


def _desk(
    account_file: Path | None, network_id: str | None, gateway: str | None, data_dir: Path | None
) -> Desk:
    return Desk(
        find_network(network_id, data_dir),
        find_gateway(gateway, data_dir),
        account_path(account_file, data_dir),
    )


@click.command("publish")
@click.argument("file", type=EXISTING)
@AFTER
@REPLACE
@click.option("--found", "founds", is_flag=True, help="Even if another subcloud has the name.")
@ACCOUNT
@NETWORK
@GATEWAY
@DATA_DIR
def publish(
    file: Path,
    after: Path | None,
    replace: bool,
    founds: bool,
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Put a policy in force: FILE as it was signed, or a policy file, signed here and now.

    A policy file becomes the version that follows the one in force. Who takes a subcloud over
    gives the handover with --after. A signed file needs no account file, unless the account's keys
    have changed since.
    """
    with reported_errors(), reported_problems(file):
        desk = _desk(account_file, network_id, gateway, data_dir)
        if is_record(file):
            record = read_record(file)
            if account_file is not None:
                owner = desk.owner(desk.keys())
                record = _with_proof(record, owner)
            desk.publish(record)
            return
        policy_file = load_policy_file(file)
        keys = desk.keys()
        before = read_before(after, desk.network) if after is not None else None
        if before is None:
            before = desk.in_force(policy_file.name, keys, founds=founds)
        owner = desk.owner(keys)
        record = sign_file(policy_file, owner, before, desk.network, system_clock_ms())
        note_signed(desk.account_file, record, replace=replace)
        desk.publish(record)


def _with_proof(record: PolicyRecord, owner: Owner) -> PolicyRecord:
    policy = policy_in(record)
    if policy.owner != owner.keys.account_id:
        raise SettingsError(f"the policy is {policy.owner}'s, the account file another's")
    return replace(record, accounts=(owner.proof, *record.accounts[1:]))


NAME = click.argument("name")


@click.command("revoke")
@NAME
@click.option("--yes", is_flag=True, help="Do not ask.")
@ACCOUNT
@NETWORK
@GATEWAY
@DATA_DIR
def revoke(
    name: str,
    yes: bool,
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """End the subcloud NAME (name or ID) for good: a last version, after which nothing runs there.

    Running jobs end by the policy's rule; members return to the global pool. A stake can be taken
    back then (`subcloud unstake`).
    """
    with reported_errors():
        desk = _desk(account_file, network_id, gateway, data_dir)
        owner = desk.owner(desk.keys())
        before = Before(desk.client.get(name))
        record = sign_last(owner, before, system_clock_ms())
        if not yes:
            click.confirm(f"{before.known.identity} ends, and never comes back. Go on?", abort=True)
        note_signed(desk.account_file, record, replace=False)
        desk.publish(record)


@click.command("resign")
@NAME
@ACCOUNT
@NETWORK
@GATEWAY
@DATA_DIR
def resign(
    name: str,
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Sign the version in force of NAME again, after the key that signed it was removed.

    Who learns of the account's new keys refuses what a removed key signed.
    """
    with reported_errors():
        desk = _desk(account_file, network_id, gateway, data_dir)
        owner = desk.owner(desk.keys())
        desk.publish(sign_again(owner, Before(desk.client.get(name))))


@click.command("handover")
@NAME
@click.option("--to", "taker", required=True, help="ID of the account that takes it.")
@click.option("-o", "--output", type=PATH, help="Default: NAME.handover.")
@ACCOUNT
@NETWORK
@GATEWAY
@DATA_DIR
def handover(
    name: str,
    taker: str,
    output: Path | None,
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Give the subcloud NAME to another account, which accepts by publishing the next version.

    Until then you own it. The ID and the name stay. Send the file to the new owner, who runs
    `resultity subcloud publish POLICY --after FILE`.
    """
    with reported_errors():
        if not is_account_id(taker):
            raise SettingsError(f"not an account ID (acct-<40 hex digits>): {taker[:60]!r}")
        desk = _desk(account_file, network_id, gateway, data_dir)
        owner = desk.owner(desk.keys())
        before = Before(desk.client.get(name))
        signed = hand_over(owner, before, AccountId(taker), system_clock_ms())
        # The proof in the record may be older than the key that signs the handover.
        record = replace(
            before.known.record, accounts=(owner.proof, *before.known.record.accounts[1:])
        )
        target = output or Path(f"{label_of(before.known.identity)}.handover")
        write_handover(target, record, signed)
        digest = digest_of(record)
        click.echo(f"{target} gives {before.known.identity} (after digest {digest}) to {taker}")
