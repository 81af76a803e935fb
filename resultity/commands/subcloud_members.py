"""Owns `subcloud members`: who is in, who asks, and a delegate's word on both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from p2p.clock import system_clock_ms
from p2p.errors import P2PError
from p2p.subclouds.invites import (
    INVITE_USES_MAX,
    MEMBERSHIP_S_MAX,
    MEMBERSHIP_S_MIN,
    make_subcloud_invite,
)
from p2p.subclouds.memberships import RevocationList, open_membership_certificate
from p2p.types import PeerId
from resultity.account_invites import parse_duration_s
from resultity.commands.options import EXISTING, PATH
from resultity.errors import SettingsError
from resultity.role_process import reported_errors
from resultity.subclouds.client import SubcloudClient
from resultity.subclouds.delegate_desk import DelegateDesk, Limits
from resultity.subclouds.delegate_target import (
    DELEGATE_KEY,
    OWNER_ACCOUNT,
    Where,
    asking_key,
    open_desk,
    parse_ids,
    parse_peers,
    with_where,
)
from resultity.subclouds.member_text import join_text, members_as_record, members_as_text
from resultity.subclouds.member_view import read_candidates, read_members
from resultity.subclouds.secret_output import write_secret
from resultity.subclouds.watching import show_changes

LIST_SHARE = 2
"""Without a revocation list that is young enough members are refused: one that is half as old as
it may be is published again in passing."""
FOR = click.option("--for", "lifetime", default="30d", show_default=True, help="Like 12h, 7d, 2w.")
JSON = click.option("--json", "as_json", is_flag=True)
PEERS = click.argument("peers", nargs=-1, required=True, metavar="PEER...")


@click.group()
def members() -> None:
    """See, admit and remove members, by a delegate's key."""


@members.command("list")
@click.argument("name")
@click.option("--watch", is_flag=True, help="Again whenever something changes, until ctrl-c.")
@JSON
@DELEGATE_KEY
@with_where
def list_members(name: str, watch: bool, as_json: bool, delegate_key: Path, where: Where) -> None:
    """List the members, whether they qualify and why not, who asks to join, and who is banned."""
    with reported_errors():

        def look() -> dict[str, Any]:
            return _record(*open_desk(name, delegate_key, where))

        show_changes(look, json.dumps if as_json else members_as_text, watch=watch)


def _record(desk: DelegateDesk, client: SubcloudClient) -> dict[str, Any]:
    requests = desk.requests() if desk.known.policy.join != "open" else []
    peers = [request.request.peer_id for request in requests]
    view = client.view(desk.known.identity, desk.key, peers)
    revocations = client.revocations(desk.known)
    banned = revocations.banned_peers if revocations is not None else ()
    return members_as_record(read_members(view), requests, read_candidates(view), banned)


@members.command("log")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each entry.")
@click.option("--delegate-key", type=EXISTING, envvar="RESULTITY_DELEGATE_KEY")
@OWNER_ACCOUNT
@with_where
def show_log(
    name: str,
    as_json: bool,
    delegate_key: Path | None,
    account_file: Path | None,
    where: Where,
) -> None:
    """Show which nodes joined and left, and when, as the bootstraps saw it; the oldest first."""
    with reported_errors():
        client = where.client()
        known = client.get(name)
        key = asking_key(known, delegate_key, account_file, where)
        for event in client.all_joins(known.identity, key):
            click.echo(json.dumps(event) if as_json else join_text(event))


@members.command()
@click.argument("name")
@PEERS
@FOR
@click.option("--model", "models", multiple=True, help="Only these (digests; default: all).")
@click.option("--slots", type=click.IntRange(0, 100_000), default=0, help="At most; 0: all.")
@DELEGATE_KEY
@with_where
def approve(
    name: str,
    peers: tuple[str, ...],
    lifetime: str,
    models: tuple[str, ...],
    slots: int,
    delegate_key: Path,
    where: Where,
) -> None:
    """Admit nodes: each gets a certificate of its own, as soon as it asks for it."""
    with reported_errors():
        desk, client = open_desk(name, delegate_key, where)
        limits = Limits(parse_duration_s(lifetime), parse_digests(models), slots)
        present = {
            m.peer_id for m in client.members(desk.known.identity, desk.key) if not m.left_ms
        }
        for peer_id in parse_peers(peers):
            present.add(peer_id)
            if len(present) > desk.known.policy.members_max:
                raise SettingsError(
                    f"{peer_id}: there are {desk.known.policy.members_max} members already "
                    "(members_max)"
                )
            certificate = desk.certify(peer_id, limits)
            click.echo(f"{peer_id} is admitted for {lifetime} ({certificate.certificate_id.hex()})")
        desk.keep_young(LIST_SHARE)


@members.command()
@click.argument("name")
@PEERS
@click.option("--reason", default="", help="The node's operator is told.")
@click.option("--for", "rest", default="7d", show_default=True, help="It asks no sooner again.")
@DELEGATE_KEY
@with_where
def deny(
    name: str,
    peers: tuple[str, ...],
    reason: str,
    rest: str,
    delegate_key: Path,
    where: Where,
) -> None:
    """Answer requests with no."""
    with reported_errors():
        desk, _ = open_desk(name, delegate_key, where)
        for peer_id in parse_peers(peers):
            desk.deny(peer_id, parse_duration_s(rest), reason[:300])
            click.echo(f"{peer_id} is denied for {rest}")


@members.command()
@click.argument("name")
@PEERS
@DELEGATE_KEY
@with_where
def ban(name: str, peers: tuple[str, ...], delegate_key: Path, where: Where) -> None:
    """Remove nodes and keep them out, whatever certificate or invite they show."""
    with reported_errors():
        desk, _ = open_desk(name, delegate_key, where)
        _say(desk.ban(parse_peers(peers)))


@members.command()
@click.argument("name")
@PEERS
@DELEGATE_KEY
@with_where
def unban(name: str, peers: tuple[str, ...], delegate_key: Path, where: Where) -> None:
    """Let banned nodes ask again (a certificate that still holds is good again)."""
    with reported_errors():
        desk, _ = open_desk(name, delegate_key, where)
        _say(desk.unban(parse_peers(peers)))


@members.command()
@click.argument("name")
@click.argument("peers", nargs=-1, metavar="[PEER]...")
@click.option("--certificate", "certificates", multiple=True, help="ID of a certificate.")
@click.option("--invite", "invites", multiple=True, help="ID of an invite, with who came by it.")
@DELEGATE_KEY
@with_where
def revoke(
    name: str,
    peers: tuple[str, ...],
    certificates: tuple[str, ...],
    invites: tuple[str, ...],
    delegate_key: Path,
    where: Where,
) -> None:
    """Take certificates back: those of nodes, or single ones. The nodes may ask again."""
    with reported_errors():
        desk, client = open_desk(name, delegate_key, where)
        found = list(parse_ids(certificates, "a certificate"))
        for peer_id in parse_peers(peers):
            found += _certificates_of(desk, client, peer_id)
        ends = parse_ids(invites, "an invite")
        if not found and not ends:
            raise SettingsError("nothing to revoke: name nodes, --certificate or --invite")
        _say(desk.revoke(certificates=found, invites=ends))


def _certificates_of(desk: DelegateDesk, client: SubcloudClient, peer_id: PeerId) -> list[bytes]:
    """The IDs of all certificates of a node that hold now, kept or shown."""
    known, now_ms = desk.known, system_clock_ms()
    view = read_members(client.view(known.identity, desk.key))
    found = {
        bytes.fromhex(m.certificate_id) for m in view if m.peer_id == peer_id and m.certificate_id
    }
    for signed in client.certificates(known.identity, desk.key):
        try:
            certificate = open_membership_certificate(signed, known.policy, peer_id, now_ms)
        except P2PError:
            continue  # of another node, or over
        found.add(certificate.certificate_id)
    if not found:
        raise SettingsError(f"{peer_id} has no certificate that holds")
    return sorted(found)


@members.command()
@click.argument("name")
@click.option("--uses", type=click.IntRange(1, INVITE_USES_MAX), default=1, show_default=True,
              help="Nodes that it admits.")  # fmt: skip
@click.option("--expires", default="7d", show_default=True, help="Until when it can be used.")
@click.option("--membership", default="30d", show_default=True,
              help="How long a membership by it holds, unless a steward renews it.")  # fmt: skip
@click.option("--model", "models", multiple=True, help="Only these (digests; default: all).")
@click.option("--slots", type=click.IntRange(0, 100_000), default=0, help="At most; 0: all.")
@click.option("-o", "--output", type=PATH, help="Write it to a new file (0600).")
@JSON
@DELEGATE_KEY
@with_where
def invite(
    name: str,
    uses: int,
    expires: str,
    membership: str,
    models: tuple[str, ...],
    slots: int,
    output: Path | None,
    as_json: bool,
    delegate_key: Path,
    where: Where,
) -> None:
    """Print an invite with which nodes join by themselves: hand it on in private.

    A node's operator gives it to `resultity node subclouds join`. To end it: members
    revoke --invite.
    """
    with reported_errors():
        desk, _ = open_desk(name, delegate_key, where)
        if desk.known.policy.join == "open":
            raise SettingsError("an open subcloud needs no invites: nodes join by themselves")
        membership_s = parse_duration_s(membership)
        if not MEMBERSHIP_S_MIN <= membership_s <= MEMBERSHIP_S_MAX:
            raise SettingsError("--membership is 5m to 90d")
        now_ms = system_clock_ms()
        made = make_subcloud_invite(
            desk.key,
            desk.known.policy,
            uses=uses,
            lifetime_s=parse_duration_s(expires),
            membership_s=membership_s,
            now_ms=now_ms,
            models=parse_digests(models),
            slots_max=slots,
        )
        facts = {
            "invite_id": made.invite_id.hex(),
            "subcloud_id": desk.known.identity,
            "uses": uses,
            "expires_ms": made.document.expires_ms,
        }
        nodes = "1 node" if uses == 1 else f"{uses} nodes"
        told = f"admits {nodes} within {expires}; its ID is {made.invite_id.hex()}"
        desk.keep_young(LIST_SHARE)
        write_secret("invite", made.text(), facts, told, output, as_json)


def parse_digests(models: tuple[str, ...]) -> tuple[bytes, ...]:
    """Read models' digests (64 hex digits). Raises: SettingsError."""
    found = []
    for text in models:
        try:
            digest = bytes.fromhex(text)
        except ValueError:
            digest = b""
        if len(digest) != 32:
            raise SettingsError(f"not a model's digest (64 hex digits): {text[:80]!r}")
        found.append(digest)
    return tuple(found)


def _say(revocations: RevocationList) -> None:
    click.echo(
        f"revocation list {revocations.number}: {len(revocations.banned_peers)} banned, "
        f"{len(revocations.revoked_certificates)} certificates, "
        f"{len(revocations.revoked_invites)} invites, {len(revocations.revoked_tokens)} tokens"
    )
