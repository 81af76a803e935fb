"""Owns `subcloud token`: bearer tokens that let callers in."""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from p2p.clock import system_clock_ms
from p2p.codec import decode_message
from p2p.subclouds.tokens import (
    TOKEN_TEXT_CHARACTERS_MAX,
    TOKEN_TEXT_PREFIX,
    TOKEN_USES_MAX,
    CallerToken,
    issue_token,
    parse_token,
    token_text,
)
from p2p.types import is_account_id
from resultity.account_invites import parse_duration_s
from resultity.commands.options import PATH
from resultity.errors import SettingsError
from resultity.role_process import reported_errors
from resultity.subclouds.delegate_target import (
    DELEGATE_KEY,
    Where,
    open_desk,
    parse_ids,
    with_where,
)
from resultity.subclouds.secret_output import write_secret

JSON = click.option("--json", "as_json", is_flag=True)


@click.group()
def token() -> None:
    """Issue and take back tokens with which callers send jobs."""


@token.command()
@click.argument("name")
@click.option("--expires", default="30d", show_default=True, help="Like 90m, 12h, 7d or 2w.")
@click.option("--uses", type=click.IntRange(0, TOKEN_USES_MAX), default=0, show_default=True,
              help="Jobs in all; 0: not counted.")  # fmt: skip
@click.option("--account", default="", help="Only jobs that this account pays.")
@click.option("--namespace", default="", help="Of that account, only this namespace's.")
@click.option("-o", "--output", type=PATH, help="Write it to a new file (0600).")
@JSON
@DELEGATE_KEY
@with_where
def issue(
    name: str,
    expires: str,
    uses: int,
    account: str,
    namespace: str,
    output: Path | None,
    as_json: bool,
    delegate_key: Path,
    where: Where,
) -> None:
    """Print a token. Who has it may call the subcloud, and pays with an API key of their own.

    A token that names nobody is bound to the namespace that uses it first.
    """
    with reported_errors():
        if account and not is_account_id(account):
            raise SettingsError(f"not an account's ID (acct-...): {account[:80]!r}")
        if namespace and not account:
            raise SettingsError("--namespace needs --account: whose is it?")
        desk, _ = open_desk(name, delegate_key, where)
        now_ms = system_clock_ms()
        made = CallerToken(
            os.urandom(16),
            desk.known.identity,
            now_ms,
            now_ms + parse_duration_s(expires) * 1000,
            uses,
            account,
            namespace,
        )
        text = token_text(issue_token(desk.key, desk.known.policy, made))
        counted = f"{uses} jobs" if uses else "any number of jobs"
        told = f"lets {counted} in within {expires}; its ID is {made.token_id.hex()}"
        write_secret("token", text, _facts(made), told, output, as_json)


@token.command()
@click.argument("source", default="-", metavar="[FILE]")
@JSON
def show(source: str, as_json: bool) -> None:
    """Show what a token says (offline), from a file, a pipe or a hidden prompt.

    That a delegate signed it is for the ledger to check.
    """
    with reported_errors():
        found = decode_message(parse_token(_read(source)).body, CallerToken)
        if as_json:
            click.echo(json.dumps(_facts(found)))
            return
        end = datetime.datetime.fromtimestamp(found.expires_ms / 1000, datetime.UTC)
        over = " (over)" if found.expires_ms <= system_clock_ms() else ""
        payer = "/".join(part for part in (found.account, found.namespace) if part)
        click.echo(f"token {found.token_id.hex()}")
        click.echo(f"  for      {found.subcloud_id}")
        click.echo(f"  until    {end:%Y-%m-%d %H:%M} UTC{over}")
        click.echo(f"  uses     {found.uses or 'not counted'}")
        click.echo(f"  paid by  {payer or 'anybody (bound at its first use)'}")


@token.command()
@click.argument("name")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@DELEGATE_KEY
@with_where
def revoke(name: str, ids: tuple[str, ...], delegate_key: Path, where: Where) -> None:
    """Take tokens back by their IDs: in force within seconds."""
    with reported_errors():
        desk, _ = open_desk(name, delegate_key, where)
        revocations = desk.revoke(tokens=parse_ids(ids, "a token"))
        click.echo(
            f"revocation list {revocations.number}: {len(revocations.revoked_tokens)} tokens"
        )


def _facts(found: CallerToken) -> dict[str, Any]:
    return {
        "token_id": found.token_id.hex(),
        "subcloud_id": found.subcloud_id,
        "expires_ms": found.expires_ms,
        "uses": found.uses,
        "account": found.account,
        "namespace": found.namespace,
    }


def _read(source: str) -> str:
    if source.startswith(TOKEN_TEXT_PREFIX):
        raise SettingsError("a token is a secret: give its file, or pipe it in")
    if source != "-":
        with Path(source).open(encoding="ascii", errors="replace") as file:
            return file.read(2 * TOKEN_TEXT_CHARACTERS_MAX)
    if sys.stdin.isatty():
        return str(click.prompt("Token (rt_...)", hide_input=True, err=True))
    return sys.stdin.read(2 * TOKEN_TEXT_CHARACTERS_MAX)
