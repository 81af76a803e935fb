"""Owns making and reading invites: strings with which somebody else opens accounts.

An invite is a secret until it is used up: it is read from a file, a pipe or a hidden prompt, never
from the command line, where every process of the machine could see it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from p2p.codec import encode_message
from p2p.opening_messages import (
    INVITE_TEXT_CHARACTERS_MAX,
    AccountInvite,
    InviteSecret,
    parse_invite,
)
from p2p.signing import KeyPair
from p2p.types import NetworkId
from resultity.errors import DataFolderError, SettingsError

_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,5})([mhdw])")


def parse_duration_s(text: str) -> int:
    """Read a time like 90m, 12h, 7d or 2w in seconds. Raises: SettingsError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise SettingsError(f"not a time like 90m, 12h, 7d or 2w: {text[:20]!r}")
    return int(match[1]) * _UNITS_S[match[2]]


def make_invite(
    issuer: KeyPair, network: NetworkId, uses: int, lifetime_s: int, now_ms: int
) -> InviteSecret:
    """Make an invite for so many accounts.

    Args: issuer: the authority's key, or one of `participation.invite_keys`.
    """
    keys = KeyPair.generate()
    document = AccountInvite(keys.public_key, uses, now_ms + lifetime_s * 1000, now_ms)
    invite = issuer.sign(network, document)
    assert len(encode_message(invite)) < INVITE_TEXT_CHARACTERS_MAX
    return InviteSecret(keys, invite)


def read_invite(source: str | None, network: NetworkId) -> InviteSecret | None:
    """Read the invite that an option names: `-` (prompt or pipe) or a file. None: no option.

    Raises: SettingsError, DataFolderError, MalformedError, UntrustedError.
    """
    if source is None:
        return None
    if source.startswith("ri_"):
        raise SettingsError("an invite is a secret: give --invite - or a file, not its text")
    if source != "-":
        return read_invite_file(Path(source), network)
    if sys.stdin.isatty():
        text = click.prompt("Invite", hide_input=True, err=True)
    else:
        text = sys.stdin.readline(INVITE_TEXT_CHARACTERS_MAX + 2)
    return parse_invite(str(text), network)


def read_invite_file(path: Path, network: NetworkId) -> InviteSecret:
    """Read an invite from a file. Raises: DataFolderError, MalformedError, UntrustedError."""
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(INVITE_TEXT_CHARACTERS_MAX + 2)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not an invite"
        raise DataFolderError(f"cannot read the invite in {path}: {reason}") from error
    return parse_invite(text, network)
