"""Owns the messages by which accounts are opened by invite or through a courier, and referred.

Theory of operation. An **invite** is a key pair: the authority, or a key that the configuration
names, signs its public half with a number of uses and an end (AccountInvite); whoever has the
secret half can open accounts with it. An opening names one founding document and is signed by the
invite's key (InvitedFounding), so that neither the gateway that carries it nor the bootstrap that
takes it can use the invite for somebody else.

A gateway that carries an opening wraps it and states from which network the client came
(CarriedFounding): only a prefix of the address, for the bound on new accounts of one network.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Range, decode_any_message, decode_message, encode_message, message
from p2p.errors import MalformedError
from p2p.key_limits import SourceNetwork
from p2p.ledger_messages import Account, AccountFounding, PublicKey
from p2p.signing import SEED_BYTES, Document, KeyPair, Signed, open_signed
from p2p.types import NetworkId

INVITE_USES_MAX = 10**6
INVITE_ID_BYTES = 16
INVITE_TEXT_CHARACTERS_MAX = 1024
_TEXT_PREFIX = "ri_"
_PREFIX_BITS = {4: 24, 6: 48}


@message(100)
@dataclass(frozen=True, slots=True)
class Referral(Document):
    """An account says who brought it here: once, soon after its opening. Signed by its key."""

    PURPOSE: ClassVar[str] = "referral"
    account_id: Account
    referrer: Account
    issued_ms: int


@message(101)
@dataclass(frozen=True, slots=True)
class AccountInvite(Document):
    """Lets the holder of `public_key`'s secret open `uses` accounts until `expires_ms`.

    Signed by the network's authority, or by one of the configuration's invite keys.
    """

    PURPOSE: ClassVar[str] = "account-invite"
    public_key: PublicKey
    uses: Annotated[int, Range(1, INVITE_USES_MAX)]
    expires_ms: int
    issued_ms: int


@message(104)
@dataclass(frozen=True, slots=True)
class NodeInvite(Document):
    """Lets the holder of `public_key`'s secret bring `uses` nodes into the network until
    `expires_ms`, and open the accounts of as many (`p2p.node_invites`). Signed as an AccountInvite.
    """

    PURPOSE: ClassVar[str] = "node-invite"
    public_key: PublicKey
    uses: Annotated[int, Range(1, INVITE_USES_MAX)]
    expires_ms: int
    issued_ms: int


@message(102)
@dataclass(frozen=True, slots=True)
class InvitedFounding(Document):
    """A founding document and the invite that it is opened with (an AccountInvite, or a NodeInvite
    for the account that its node works for). Signed by the invite's key."""

    PURPOSE: ClassVar[str] = "invited-founding"
    founding: Signed
    invite: Signed


@message(103)
@dataclass(frozen=True, slots=True)
class CarriedFounding(Document):
    """An AccountFounding or InvitedFounding as a gateway carries it. Signed by the gateway.

    `source_network`: the client's network in CIDR form (/24 or /48), empty if it is not known.
    """

    PURPOSE: ClassVar[str] = "carried-founding"
    opening: Signed
    source_network: SourceNetwork
    issued_ms: int


@dataclass(frozen=True, slots=True)
class Invitation:
    """A verified InvitedFounding, but for who may sign invites: `issuer` signed this one."""

    signed: Signed
    invite: AccountInvite | NodeInvite
    invite_id: bytes
    issuer: bytes


def invite_id_of(invite: Signed) -> bytes:
    """Name an invite: the start of SHA-256 over its signer and document (16 bytes)."""
    return hashlib.sha256(invite.signer + invite.body).digest()[:INVITE_ID_BYTES]


def open_invite(signed: Signed, network: NetworkId) -> AccountInvite | NodeInvite:
    """Verify an invite of either kind; who may sign invites is for the caller to judge.

    Raises: UntrustedError (its signature), MalformedError (no invite).
    """
    match decode_any_message(signed.body):
        case NodeInvite():
            return open_signed(signed, NodeInvite, network)
        case _:
            return open_signed(signed, AccountInvite, network)


def open_opening(
    signed: Signed, network: NetworkId
) -> tuple[Signed, AccountFounding, Invitation | None]:
    """Verify a founding document, or one with an invite; gives the founding and the invitation.

    Raises: UntrustedError (a signature), MalformedError (anything else than those two).
    """
    match decode_any_message(signed.body):
        case AccountFounding():
            return signed, open_signed(signed, AccountFounding, network), None
        case InvitedFounding(founding=founding, invite=signed_invite):
            invite = open_invite(signed_invite, network)
            open_signed(signed, InvitedFounding, network, invite.public_key)
            document = open_signed(founding, AccountFounding, network)
            found = Invitation(signed, invite, invite_id_of(signed_invite), signed_invite.signer)
            return founding, document, found
        case other:
            raise MalformedError(f"a {type(other).__name__} opens no account")


def network_prefix(address: str) -> str:
    """Give the network of a client's address: /24 (IPv4) or /48 (IPv6); empty if it is neither.

    One household or firm has one of these; single addresses are too cheap to count.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return str(ipaddress.ip_network((found, _PREFIX_BITS[found.version]), strict=False))


def is_public_prefix(text: str) -> bool:
    """Tell whether a text is such a network, and one of the public internet."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        return False
    return found.prefixlen == _PREFIX_BITS[found.version] and found.is_global


@dataclass(frozen=True, slots=True)
class InviteSecret:
    """What an invite's string carries: the invite's key pair and the signed invite."""

    keys: KeyPair
    invite: Signed

    def text(self) -> str:
        """Give the string that is handed on: whoever has it can use the invite."""
        raw = self.keys.seed + encode_message(self.invite)
        return _TEXT_PREFIX + base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")

    def use(self, network: NetworkId, founding: Signed) -> Signed:
        """Open an account with it: the same founding gives the same document again."""
        return self.keys.sign(network, InvitedFounding(founding, self.invite))


def parse_invite(text: str, network: NetworkId) -> InviteSecret:
    """Read an invite's string.

    Raises: MalformedError (no invite, or not whole), UntrustedError (of another network).
    """
    text = text.strip()
    if not text.startswith(_TEXT_PREFIX) or len(text) > INVITE_TEXT_CHARACTERS_MAX:
        raise MalformedError("not an invite: it begins with ri_ and is one line")
    body = text.removeprefix(_TEXT_PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        keys, invite = KeyPair(raw[:SEED_BYTES]), decode_message(raw[SEED_BYTES:], Signed)
    except (ValueError, TypeError, binascii.Error, MalformedError) as error:
        raise MalformedError("this invite is not whole: copy all of it") from error
    document = open_signed(invite, AccountInvite, network)
    if document.public_key != keys.public_key:
        raise MalformedError("this invite is not whole: copy all of it")
    return InviteSecret(keys, invite)
