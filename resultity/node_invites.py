"""Owns making and reading node invites: strings with which others bring nodes into a network.

An invite is a secret until it is used up: it is read from a file, a pipe or a hidden prompt, never
from the command line, where every process of the machine could see it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from p2p.errors import MalformedError
from p2p.node_invites import (
    BOOTSTRAPS_MAX,
    JOIN_TEXT_CHARACTERS_MAX,
    JOIN_TEXT_PREFIX,
    JoinInvite,
    parse_join_text,
)
from p2p.opening_messages import NodeInvite
from p2p.signing import KeyPair
from p2p.types import NetworkId, PeerId, public_key_of
from resultity.errors import DataFolderError, SettingsError

_BOOTSTRAP = re.compile(
    r"/(?:ip4|ip6|dns|dns4|dns6)/[A-Za-z0-9.:_%-]{1,100}/tcp/(\d{1,5})/p2p/([A-Za-z0-9]{1,100})"
)
_READ_CHARACTERS_MAX = 2 * JOIN_TEXT_CHARACTERS_MAX
"""A string that a mail program has broken into lines is still read."""


def make_node_invite(
    issuer: KeyPair,
    network: NetworkId,
    bootstraps: tuple[str, ...],
    uses: int,
    lifetime_s: int,
    now_ms: int,
) -> JoinInvite:
    """Make an invite for so many nodes.

    Args: issuer: the authority's key, or one of `participation.invite_keys`.
    Raises: SettingsError (an address that nobody can join at), MalformedError (too long).
    """
    if len(bootstraps) > BOOTSTRAPS_MAX:
        raise SettingsError(f"an invite names at most {BOOTSTRAPS_MAX} bootstraps")
    for address in bootstraps:
        check_bootstrap_address(address)
    keys = KeyPair.generate()
    document = NodeInvite(keys.public_key, uses, now_ms + lifetime_s * 1000, now_ms)
    made = JoinInvite(keys, issuer.sign(network, document), network, bootstraps)
    made.text()
    return made


def check_bootstrap_address(address: str) -> None:
    """See that an address can be dialled and says whom to find there. Raises: SettingsError."""
    match = _BOOTSTRAP.fullmatch(address)
    try:
        if match is None or not 0 < int(match[1]) <= 65_535:
            raise MalformedError("its form is another")
        public_key_of(PeerId(match[2]))
    except MalformedError as error:
        raise SettingsError(
            f"not a bootstrap's address (/ip4/.../tcp/.../p2p/<peer ID>): {address[:120]!r}"
        ) from error


def read_join_text(source: str | None) -> JoinInvite:
    """Read an invite from a file, from standard input (`-`, or a pipe) or at a hidden prompt.

    Raises: SettingsError, DataFolderError, MalformedError, UntrustedError.
    """
    if source is not None and source.startswith(JOIN_TEXT_PREFIX):
        raise SettingsError("an invite is a secret: give its file, or leave the option out")
    if source is not None and source != "-":
        return parse_join_text(_read_file(Path(source)))
    if sys.stdin.isatty():
        return parse_join_text(str(click.prompt("Invite (rj_...)", hide_input=True, err=True)))
    return _read_pipe()


def _read_pipe() -> JoinInvite:
    """Read lines until they are an invite: who pipes it in need not close the pipe."""
    text = ""
    while len(text) < _READ_CHARACTERS_MAX:
        line = sys.stdin.readline(_READ_CHARACTERS_MAX)
        text += line
        if not text.strip():
            raise SettingsError("no invite: pipe it in, or give --invite-file")
        try:
            return parse_join_text(text)
        except MalformedError:
            if not line.strip() or not text.strip().startswith(JOIN_TEXT_PREFIX):
                raise
    return parse_join_text(text)


def _read_file(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            return file.read(_READ_CHARACTERS_MAX)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not an invite"
        raise DataFolderError(f"cannot read the invite in {path}: {reason}") from error
