"""Owns the strings with which nodes join (`rj_...`), and the documents that prove their use.

Theory of operation. A node invite is a key pair as an account invite is (`p2p.opening_messages`):
the authority, or a key that the configuration names, signs its public half with a number of uses
and an end. The string that is handed on has the secret half, the signed invite, the network's ID
and addresses of bootstraps, and a checksum, so that a string that was not copied whole is told
before anything is asked. The ID is believed because the string comes from whoever runs the network;
the addresses are only where to ask.

A node uses it by a NodeAdmission: its account's binding of it and the invite, signed by the key of
the invite. It names one node and one account, so that neither a bootstrap nor anybody else who sees
it can use the invite for another. The ledger counts the nodes that came in with an invite, in one
transaction with the binding. An invite for n nodes also opens the accounts of up to n of them,
where accounts take invites.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, decode_message, encode_message, message
from p2p.errors import MalformedError, UntrustedError
from p2p.ledger_messages import Account
from p2p.limits import NAME_CHARACTERS_MAX
from p2p.opening_messages import (
    InviteSecret,
    NodeInvite,
    invite_id_of,
    open_invite,
    parse_invite,
)
from p2p.signing import SEED_BYTES, Document, KeyPair, Signed, open_signed
from p2p.types import AccountId, NetworkId, PeerId, authority_matches, parse_network_id

JOIN_TEXT_PREFIX = "rj_"
JOIN_TEXT_CHARACTERS_MAX = 2048
"""A terminal takes lines of 4,095; a string with one bootstrap has about 430."""
BOOTSTRAPS_MAX = 8
ADDRESS_CHARACTERS_MAX = 160
_CHECKSUM_BYTES = 4
_DAMAGED = "this invite is damaged or not whole: copy all of it, from rj_ on"


@message(13)
@dataclass(frozen=True, slots=True)
class NodeBinding(Document):
    """An account says that a node works for it. Signed by the account's key."""

    PURPOSE: ClassVar[str] = "node-binding"
    account_id: Annotated[AccountId, Limit(NAME_CHARACTERS_MAX)]
    peer_id: Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
    issued_ms: int


@message(105)
@dataclass(frozen=True, slots=True)
class NodeAdmission(Document):
    """A node's binding and the NodeInvite that it comes in with. Signed by the invite's key."""

    PURPOSE: ClassVar[str] = "node-admission"
    binding: Signed
    invite: Signed


@message(106)
@dataclass(frozen=True, slots=True)
class JoinText(Message):
    """What a string of an invite carries before its checksum: where to join, and the invite."""

    network_id: Annotated[NetworkId, Limit(NAME_CHARACTERS_MAX)]
    bootstraps: Annotated[
        tuple[Annotated[str, Limit(ADDRESS_CHARACTERS_MAX)], ...], Limit(BOOTSTRAPS_MAX, 1)
    ]
    seed: Annotated[bytes, Limit(SEED_BYTES, SEED_BYTES)]
    invite: Signed


@dataclass(frozen=True, slots=True)
class NodeInvitation:
    """A verified NodeAdmission, but for two things: whether `issuer` may sign invites, and whether
    `account_key`, which signed the binding, is a key of the account now."""

    signed: Signed
    invite: NodeInvite
    invite_id: bytes
    issuer: bytes
    peer_id: PeerId
    account_id: Account
    account_key: bytes


def open_admission(signed: Signed, network: NetworkId) -> NodeInvitation:
    """Verify a NodeAdmission.

    Raises: UntrustedError (a signature), MalformedError (something else than a node's invite).
    """
    document = open_signed(signed, NodeAdmission, network)
    invite = open_invite(document.invite, network)
    if not isinstance(invite, NodeInvite):
        raise MalformedError("this invite opens accounts, it admits no nodes")
    if signed.signer != invite.public_key:
        raise UntrustedError("this admission is not signed by the invite's key")
    binding = open_signed(document.binding, NodeBinding, network)
    return NodeInvitation(
        signed,
        invite,
        invite_id_of(document.invite),
        document.invite.signer,
        binding.peer_id,
        binding.account_id,
        document.binding.signer,
    )


@dataclass(frozen=True, slots=True)
class JoinInvite(InviteSecret):
    """A node's invite as its string carries it."""

    network: NetworkId
    bootstraps: tuple[str, ...]

    @property
    def document(self) -> NodeInvite:
        """What the invite says (its signature was checked when the string was read)."""
        return decode_message(self.invite.body, NodeInvite)

    @property
    def by_authority(self) -> bool:
        """Whether the network's authority signed it; if not, only the configuration knows the
        key."""
        return authority_matches(self.network, self.invite.signer)

    def text(self) -> str:
        """Give the string that is handed on: whoever has it can use the invite.

        Raises: MalformedError: too many or too long addresses.
        """
        body = encode_message(JoinText(self.network, self.bootstraps, self.keys.seed, self.invite))
        decode_message(body, JoinText)  # refuses what nobody could read
        raw = body + _checksum(body)
        text = JOIN_TEXT_PREFIX + _encoded(raw)
        if len(text) > JOIN_TEXT_CHARACTERS_MAX:
            raise MalformedError(f"an invite has at most {JOIN_TEXT_CHARACTERS_MAX} characters")
        return text

    def admit(self, binding: Signed) -> Signed:
        """Use it for one node, as its account bound it."""
        return self.keys.sign(self.network, NodeAdmission(binding, self.invite))


def parse_join_text(text: str) -> JoinInvite:
    """Read an invite's string; line breaks and spaces that came in by copying do no harm.

    Raises: MalformedError (no invite, or damaged), UntrustedError (nobody signed it).
    """
    text = "".join(text.split())
    if not text.startswith(JOIN_TEXT_PREFIX):
        if text.startswith("ri_"):
            raise MalformedError("this invite (ri_...) opens accounts; nodes join with one of rj_")
        raise MalformedError("not an invite for nodes: those begin with rj_ and are one line")
    if len(text) > JOIN_TEXT_CHARACTERS_MAX:
        raise MalformedError(_DAMAGED)
    body = text.removeprefix(JOIN_TEXT_PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        body_bytes, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
        if checksum != _checksum(body_bytes) or _encoded(raw) != body:
            raise MalformedError(_DAMAGED)
        found = decode_message(body_bytes, JoinText)
        network = parse_network_id(found.network_id)
        keys = KeyPair(found.seed)
    except (ValueError, TypeError, binascii.Error, MalformedError) as error:
        raise MalformedError(_DAMAGED) from error
    invite = open_signed(found.invite, NodeInvite, network)
    if invite.public_key != keys.public_key:
        raise MalformedError(_DAMAGED)
    return JoinInvite(keys, found.invite, network, found.bootstraps)


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"resultity/join-text/1\0" + body).digest()[:_CHECKSUM_BYTES]


def parse_invite_for(text: str, network: NetworkId) -> InviteSecret:
    """Read an invite of either kind (`rj_`, `ri_`) that is to be used in this network.

    Raises: MalformedError (no invite, or damaged), UntrustedError (of another network).
    """
    if not text.strip().startswith(JOIN_TEXT_PREFIX):
        return parse_invite(text, network)
    found = parse_join_text(text)
    if found.network != network:
        raise UntrustedError(f"this invite is for the network {found.network}, not for {network}")
    return found
