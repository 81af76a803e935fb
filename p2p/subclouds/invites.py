"""Owns the strings with which nodes join a subcloud (`rs_...`), and the proof of their use. Pure.

Theory of operation. An invite is a key pair: a delegate of the policy signs its public half with a
number of uses, an end and the limits of the memberships that come of it (SubcloudInvite). The
string that is handed on has the secret half, so that no delegate need be online when it is used.
A node uses it by an InviteUse that names the node, signed by the invite's key. A bootstrap counts
the uses and countersigns (InvitedMembership): that is the node's certificate. Neither alone can
admit anybody: a bootstrap has no invite's key, a holder of the key has no count. What a bootstrap
and a holder can do together is to use an invite more often than it says; the owner sees each member
and can revoke the invite.

A membership that rests on an invite ends with its time, with the invite's place on the revocation
list, or with the node's; a delegate may replace it by a certificate of its own meanwhile.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.certificates import verify_chain
from p2p.codec import Limit, Message, Range, decode_message, encode_message, message
from p2p.errors import MalformedError, StaleError, UntrustedError, WrongNetworkError
from p2p.freshness import check_times
from p2p.job_messages import Digest
from p2p.limits import CERTIFICATES_MAX, NAME_CHARACTERS_MAX
from p2p.signing import SEED_BYTES, Document, KeyPair, Signed, open_signed
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.secret_texts import as_text, from_text
from p2p.types import PUBLIC_KEY_BYTES, NetworkId, PeerId, Role

USE_INVITE = "subclouds.invite"
"""The call: a signed InviteUse, answered with a signed InvitedMembership."""
INVITE_TEXT_PREFIX = "rs_"
INVITE_TEXT_CHARACTERS_MAX = 4000
"""A terminal takes lines of 4,095; a string without models has about 450."""
INVITE_USES_MAX = 10_000
MEMBERSHIP_S_MIN, MEMBERSHIP_S_MAX = 300, 90 * 86_400
MODELS_MAX = 32
USE_AGE_MS_MAX = 120_000
"""A node makes its use right before it sends it; the clocks differ by a minute at most."""

Subcloud = Annotated[SubcloudId, Limit(NAME_CHARACTERS_MAX)]
Peer = Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]


@message(193)
@dataclass(frozen=True, slots=True)
class SubcloudInvite(Document):
    """Lets the holder of `public_key`'s secret bring `uses` nodes into a subcloud until
    `expires_ms`. Signed by a delegate.

    Each membership holds for `membership_s` from its use on. `models` and `slots_max` as in a
    MembershipCertificate.
    """

    PURPOSE: ClassVar[str] = "subcloud-invite"
    subcloud_id: Subcloud
    public_key: Annotated[bytes, Limit(PUBLIC_KEY_BYTES, PUBLIC_KEY_BYTES)]
    uses: Annotated[int, Range(1, INVITE_USES_MAX)]
    issued_ms: int
    expires_ms: int
    membership_s: Annotated[int, Range(MEMBERSHIP_S_MIN, MEMBERSHIP_S_MAX)]
    models: Annotated[tuple[Digest, ...], Limit(MODELS_MAX)] = ()
    slots_max: Annotated[int, Range(0, 100_000)] = 0


@message(194)
@dataclass(frozen=True, slots=True)
class InviteUse(Document):
    """A node uses an invite. Signed by the invite's key, so that it is good for this node only."""

    PURPOSE: ClassVar[str] = "subcloud-invite-use"
    invite: Signed
    peer_id: Peer
    issued_ms: int


@message(196)
@dataclass(frozen=True, slots=True)
class InvitedMembership(Document):
    """The use with the number that it has among those of its invite. Signed by a bootstrap
    (`chain`: its certificate)."""

    PURPOSE: ClassVar[str] = "invited-membership"
    use: Signed
    number: Annotated[int, Range(1, INVITE_USES_MAX)]
    issued_ms: int
    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX, 1)]


@message(199)
@dataclass(frozen=True, slots=True)
class SubcloudInviteText(Message):
    """What the string of an invite carries before its checksum."""

    network_id: Annotated[NetworkId, Limit(NAME_CHARACTERS_MAX)]
    seed: Annotated[bytes, Limit(SEED_BYTES, SEED_BYTES)]
    invite: Signed


def subcloud_invite_id(invite: Signed) -> bytes:
    """Name an invite: the start of SHA-256 over its signer and document (16 bytes)."""
    return hashlib.sha256(invite.signer + invite.body).digest()[:16]


@dataclass(frozen=True, slots=True)
class VerifiedUse:
    """An InviteUse that was verified, but for whether `issuer` is a delegate's key."""

    invite: SubcloudInvite
    invite_id: bytes
    issuer: bytes
    peer_id: PeerId
    issued_ms: int


def open_invite_use(signed: Signed, network: NetworkId) -> VerifiedUse:
    """Verify the signatures of a use and its invite. Raises: UntrustedError, MalformedError."""
    use = open_signed(signed, InviteUse, network)
    invite = open_signed(use.invite, SubcloudInvite, network)
    if signed.signer != invite.public_key:
        raise UntrustedError("this use of an invite is not signed by the invite's key")
    found = subcloud_invite_id(use.invite)
    return VerifiedUse(invite, found, use.invite.signer, use.peer_id, use.issued_ms)


def check_invite_use(use: VerifiedUse, policy: SubcloudPolicy, now_ms: int) -> None:
    """Check that a use may be counted now: delegate, subcloud, times.

    Raises: UntrustedError, StaleError.
    """
    _check_issuer(use, policy)
    check_times(use.invite.issued_ms, use.invite.expires_ms, now_ms)
    check_times(use.issued_ms, use.issued_ms + USE_AGE_MS_MAX, now_ms)


def _check_issuer(use: VerifiedUse, policy: SubcloudPolicy) -> None:
    if use.issuer not in policy.delegate_public_keys:
        raise UntrustedError("this invite is not signed by a delegate of the policy")
    if use.invite.subcloud_id != policy.subcloud_id:
        raise UntrustedError("an invite of another subcloud")


@dataclass(frozen=True, slots=True)
class OpenedInvitation:
    """A node's membership by invite, verified. Times in milliseconds since 1970."""

    use: VerifiedUse
    issued_ms: int
    expires_ms: int

    @property
    def certificate_id(self) -> bytes:
        """Names this membership on a revocation list (16 bytes)."""
        content = self.use.invite_id + self.use.peer_id.encode()
        return hashlib.sha256(content).digest()[:16]


def open_invited_membership(signed: Signed, policy: SubcloudPolicy) -> OpenedInvitation:
    """Verify a membership by invite, but for the present time and whose it is.

    The bootstrap's certificate is judged at the time of its signature: the membership outlives it.
    Raises: UntrustedError, StaleError, MalformedError.
    """
    network = NetworkId(policy.network_id)
    admission = open_signed(signed, InvitedMembership, network)
    use = open_invite_use(admission.use, network)
    _check_issuer(use, policy)
    invite, counted_ms = use.invite, admission.issued_ms
    certificate = verify_chain(admission.chain, network, signed.peer_id, counted_ms)
    if certificate.role is not Role.BOOTSTRAP:
        raise UntrustedError("a membership by invite is countersigned by a bootstrap")
    if admission.number > invite.uses:
        raise UntrustedError("this invite was used more often than it says")
    if not invite.issued_ms <= counted_ms < invite.expires_ms:
        raise StaleError("this invite was used outside of its time")
    return OpenedInvitation(use, counted_ms, counted_ms + invite.membership_s * 1000)


@dataclass(frozen=True, slots=True)
class InviteSecret:
    """An invite as its string carries it."""

    network: NetworkId
    keys: KeyPair
    invite: Signed

    @property
    def document(self) -> SubcloudInvite:
        """What the invite says (its signature was checked when the string was read)."""
        return decode_message(self.invite.body, SubcloudInvite)

    @property
    def invite_id(self) -> bytes:
        """Names the invite on a revocation list."""
        return subcloud_invite_id(self.invite)

    def text(self) -> str:
        """Give the string that is handed on: whoever has it can use the invite."""
        content = SubcloudInviteText(self.network, self.keys.seed, self.invite)
        return as_text(INVITE_TEXT_PREFIX, encode_message(content))

    def use(self, peer_id: PeerId, now_ms: int) -> Signed:
        """Make the document by which a node uses it."""
        return self.keys.sign(self.network, InviteUse(self.invite, peer_id, now_ms))


def make_subcloud_invite(
    delegate: KeyPair,
    policy: SubcloudPolicy,
    *,
    uses: int,
    lifetime_s: int,
    membership_s: int,
    now_ms: int,
    models: tuple[bytes, ...] = (),
    slots_max: int = 0,
) -> InviteSecret:
    """Make an invite with a new key. Raises: UntrustedError (no delegate), MalformedError (bounds).

    Args: lifetime_s: how long it can be used. membership_s: how long a membership by it holds.
    """
    if delegate.public_key not in policy.delegate_public_keys:
        raise UntrustedError("this key is not one of the policy's delegate_keys")
    network, keys = NetworkId(policy.network_id), KeyPair.generate()
    document = SubcloudInvite(
        policy.identity,
        keys.public_key,
        uses,
        now_ms,
        now_ms + lifetime_s * 1000,
        membership_s,
        models,
        slots_max,
    )
    decode_message(encode_message(document), SubcloudInvite)  # refuses what nobody could read
    return InviteSecret(network, keys, delegate.sign(network, document))


def parse_subcloud_invite(text: str, network: NetworkId | None = None) -> InviteSecret:
    """Read an invite's string.

    Args: network: the one that it must be for, if the caller knows it.
    Raises: MalformedError (no invite, or damaged), WrongNetworkError, UntrustedError.
    """
    body = from_text(INVITE_TEXT_PREFIX, text, INVITE_TEXT_CHARACTERS_MAX, "invite to a subcloud")
    content = decode_message(body, SubcloudInviteText)
    if network is not None and content.network_id != network:
        raise WrongNetworkError(f"this invite is for the network {content.network_id}")
    keys = KeyPair(content.seed)
    invite = open_signed(content.invite, SubcloudInvite, content.network_id)
    if invite.public_key != keys.public_key:
        raise MalformedError("this invite is damaged: its key is another's")
    return InviteSecret(content.network_id, keys, content.invite)
