"""Owns `node subclouds list|join|request|leave|isolate|log`: subclouds as a node's operator."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from node.limits import EVIDENCE_FILE_BYTES_MAX
from node.subclouds.evidence_keeper import give_to_inbox
from node.subclouds.kept import read_log
from node.subclouds.settings import check_name
from node.subclouds.wishes import EVIDENCE_FOLDER, FOLDER, NOTE_CHARACTERS_MAX, Wish, Wishes
from p2p.codec import decode_message
from p2p.errors import MalformedError
from p2p.signing import Signed
from p2p.subclouds.identity import label_of
from p2p.subclouds.invites import INVITE_TEXT_CHARACTERS_MAX, parse_subcloud_invite
from resultity.commands.options import FOLDER as FOLDER_TYPE
from resultity.errors import NotRunningError
from resultity.node_status import node_folders, running_status
from resultity.node_subclouds import (
    kept_state,
    other_names,
    subcloud_line,
    tell_node,
    wait_for_answer,
)
from resultity.role_process import reported_errors

data_dir_option = click.option(
    "--data-dir", type=FOLDER_TYPE, help="The node's folder; default: the one node of this machine."
)
note_option = click.option("--note", default="", help="A word to the subcloud's owner.")


@click.group()
def subclouds() -> None:
    """Join, leave and watch subclouds with a node.

    NAME is a subcloud's registered name or its ID. A running node follows within seconds, one that
    is stopped when it starts.
    """


def _folder(data_dir: Path | None) -> Path:
    folders = node_folders(data_dir)
    if len(folders) > 1:
        names = ", ".join(str(folder) for folder in folders)
        raise NotRunningError(f"there are several nodes here: name one with --data-dir ({names})")
    return folders[0]


def _tell(folder: Path, name: str, change: Callable[[Wishes], Wishes]) -> None:
    """Tell a node something about a subcloud, and say what came of it."""
    written_ns = tell_node(folder, change)
    if running_status(folder) is None:
        click.echo("the node does not run: it follows when it starts")
        return
    status = wait_for_answer(folder, written_ns)
    if status is None:
        click.echo("the node has not answered yet: see `resultity node subclouds list`", err=True)
        raise click.exceptions.Exit(1)
    names = {name, *other_names(folder, name)}
    found = [s for s in status.subclouds if s.name in names or s.subcloud_id in names]
    for subcloud in found:
        click.echo(subcloud_line(subcloud))
    if name and not found:
        click.echo(f"{name}: the node is not a member")


@subclouds.command("list")
@click.option("--json", "as_json", is_flag=True, help="One line for each subcloud.")
@data_dir_option
def list_subclouds(as_json: bool, data_dir: Path | None) -> None:
    """List the node's subclouds: state, why, and each criterion that it does not meet."""
    with reported_errors():
        folder = _folder(data_dir)
        status = running_status(folder)
        if status is None:
            _list_kept(folder, as_json)
            return
        for found in status.subclouds:
            if as_json:
                click.echo(json.dumps(dataclasses.asdict(found)))
                continue
            click.echo(subcloud_line(found))
            for failed in found.failed:
                click.echo(f"  {failed.criterion}: wanted {failed.wanted}, found {failed.found}")
        if not status.subclouds and not as_json:
            click.echo("none: it serves the global pool")


def _list_kept(folder: Path, as_json: bool) -> None:
    kept = kept_state(folder)
    click.echo("the node does not run; it was a member of:", err=True)
    for identity, membership in kept.memberships.items():
        entry = {
            "name": label_of(identity),
            "subcloud_id": identity,
            "joined_ms": membership.membership.joined_ms,
            "isolates": membership.membership.isolates,
        }
        click.echo(json.dumps(entry) if as_json else identity)


@subclouds.command("join")
@click.argument("name", required=False)
@click.option("--invite", is_flag=True, help="Ask for an invite (rs_...), without showing it.")
@click.option(
    "--invite-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    help="File with an invite; - reads it from standard input.",
)
@note_option
@data_dir_option
def join(
    name: str | None,
    invite: bool,
    invite_file: Path | None,
    note: str,
    data_dir: Path | None,
) -> None:
    """Join a subcloud: an open one now, a semi-open one once its owner approves.

    A private one takes an invite, which names the subcloud: leave NAME out.
    """
    if invite and invite_file is not None:
        raise click.UsageError("--invite and --invite-file exclude each other")
    if (name is None) != (invite or invite_file is not None):
        raise click.UsageError("give the NAME of a subcloud, or an invite")
    with reported_errors():
        folder = _folder(data_dir)
        text = ""
        if name is None:
            text = _invite_text(invite_file)
            name = parse_subcloud_invite(text).document.subcloud_id
        _join(folder, name, Wish(text, _checked(note)))


def _join(folder: Path, name: str, wish: Wish) -> None:
    also = other_names(folder, check_name(name))
    _tell(folder, name, lambda wishes: wishes.with_join(name, wish, also))


def _invite_text(path: Path | None) -> str:
    """Read an invite, never from the command's arguments: those are seen by others."""
    if path is None:
        return str(click.prompt("Invite", hide_input=True)).strip()
    if str(path) == "-":
        return sys.stdin.read(INVITE_TEXT_CHARACTERS_MAX + 2).strip()
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(INVITE_TEXT_CHARACTERS_MAX + 2).strip()


def _checked(note: str) -> str:
    if len(note) > NOTE_CHARACTERS_MAX:
        raise MalformedError(f"a note has at most {NOTE_CHARACTERS_MAX} characters")
    return note


@subclouds.command("request")
@click.argument("name")
@note_option
@data_dir_option
def request(name: str, note: str, data_dir: Path | None) -> None:
    """Ask the owner of a semi-open subcloud to let the node in (`join` does the same)."""
    with reported_errors():
        _join(_folder(data_dir), name, Wish(note=_checked(note)))


@subclouds.command("leave")
@click.argument("name")
@data_dir_option
def leave(name: str, data_dir: Path | None) -> None:
    """Leave a subcloud, and stay out of it, whatever the settings' patterns say.

    Running jobs finish. The policy may keep the node out for a while (its cooldown).
    """
    with reported_errors():
        folder = _folder(data_dir)
        also = other_names(folder, check_name(name))
        _tell(folder, name, lambda wishes: wishes.with_left(name, *also))


@subclouds.command("isolate")
@click.argument("name", required=False)
@click.option("--none", "nothing", is_flag=True, help="Take the consent back.")
@data_dir_option
def isolate(name: str | None, nothing: bool, data_dir: Path | None) -> None:
    """Consent to leave the global pool for one subcloud whose policy isolates; joins it, too.

    From then on the node refuses global jobs; those that run finish. There is one such subcloud at
    most: a new consent replaces the old one.
    """
    if (name is None) != nothing:
        raise click.UsageError("give the NAME of a subcloud, or --none")
    with reported_errors():
        folder = _folder(data_dir)
        if name is None:
            _tell(folder, "", lambda wishes: wishes.with_isolate(""))
            click.echo("the consent is taken back")
            return
        chosen, also = name, other_names(folder, check_name(name))
        _tell(folder, chosen, lambda wishes: wishes.with_isolate(chosen, also))


@subclouds.group()
def evidence() -> None:
    """Documents of others about the node: what subclouds ask for beside its own word."""


@evidence.command("add")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@data_dir_option
def evidence_add(file: Path, data_dir: Path | None) -> None:
    """Hand an attestation that a subcloud's owner made to the node; its log says what it is."""
    with reported_errors():
        if file.stat().st_size > EVIDENCE_FILE_BYTES_MAX:
            raise MalformedError(f"{file} is larger than {EVIDENCE_FILE_BYTES_MAX} bytes")
        try:
            signed = decode_message(file.read_bytes(), Signed)
        except MalformedError as error:
            raise MalformedError(f"{file} is not what `subcloud attest -o` writes") from error
        give_to_inbox(_folder(data_dir) / FOLDER / EVIDENCE_FOLDER, signed)
    click.echo("handed over; `resultity node logs` says whether it counts")


@evidence.command("list")
@data_dir_option
def evidence_list(data_dir: Path | None) -> None:
    """List the documents that the running node shows."""
    with reported_errors():
        status = running_status(_folder(data_dir))
        if status is None:
            raise NotRunningError("the node does not run")
        for line in status.evidence:
            click.echo(line)
        if not status.evidence:
            click.echo("none", err=True)


@subclouds.command("log")
@click.option("--lines", type=click.IntRange(1, 2000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each entry.")
@data_dir_option
def show_log(lines: int, as_json: bool, data_dir: Path | None) -> None:
    """Show what the node joined and left, when, and why."""
    with reported_errors():
        for entry in read_log(_folder(data_dir) / FOLDER)[-lines:]:
            if as_json:
                click.echo(json.dumps(entry))
                continue
            moment = datetime.fromtimestamp(entry["at_ms"] / 1000, UTC)
            reason = f": {entry['reason']}" if entry.get("reason") else ""
            click.echo(
                f"{moment:%Y-%m-%d %H:%M:%S} UTC {entry['subcloud']} {entry['what']}{reason}"
            )
