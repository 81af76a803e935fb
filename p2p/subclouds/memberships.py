"""Owns what is said about memberships, by the node itself and by a subcloud's delegates. Pure.

Theory of operation. A node signs one statement that names all its memberships; a newer sequence
replaces an older one, so that joining, leaving and consenting to isolation are one step each and
"at most one isolating subcloud" is a matter of form. For an open subcloud the statement is the
membership: it names the digest of the policy that the node agreed to. For the others it also
carries a certificate that one of the policy's delegates signed; the delegate may take it back
by a revocation list, numbered and with an end: who has no list that is young enough refuses such
memberships altogether. The statement travels over the node's sessions (at once), by gossip and in
the bootstraps' list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from p2p.certificates import Certificate, verify_chain
from p2p.codec import Limit, Message, Range, decode_any_message, message
from p2p.errors import MalformedError, UntrustedError
from p2p.freshness import check_times
from p2p.job_messages import Digest, Id
from p2p.limits import (
    CERTIFICATES_MAX,
    MEMBERSHIP_LIFETIME_S_MAX,
    MEMBERSHIPS_KNOWN_MAX,
    MEMBERSHIPS_PER_NODE_MAX,
    MODELS_PER_NODE_MAX,
    NAME_CHARACTERS_MAX,
    REVOKED_PER_LIST_MAX,
)
from p2p.newest_book import NewestBook
from p2p.signing import Document, Signed, open_signed
from p2p.subclouds.evidence_messages import DeclaredSpeed
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.invites import InvitedMembership, open_invited_membership
from p2p.subclouds.policy import SubcloudPolicy
from p2p.types import NetworkId, PeerId, Role

MEMBERSHIPS_TOPIC = "memberships"
EVIDENCE_PER_NODE_MAX = 16

Subcloud = Annotated[SubcloudId, Limit(NAME_CHARACTERS_MAX)]
Peer = Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
Country = Annotated[str, Limit(2)]


@message(187)
@dataclass(frozen=True, slots=True)
class Membership(Message):
    """One membership in a node's statement; the statement's signature covers it.

    `policy_digest`: the version that the node agreed to. `isolates`: its consent to leave the
    global pool for this subcloud. `certificate`: a `MembershipCertificate`, where the join rule
    wants one. `joined_ms`: since when, as the node says.
    """

    subcloud_id: Subcloud
    policy_digest: Digest
    joined_ms: int
    isolates: bool = False
    certificate: Signed | None = None


@message(186)
@dataclass(frozen=True, slots=True)
class MembershipStatement(Document):
    """All memberships of a node, and what it says about itself for policies. Signed by it.

    `country`: ISO 3166-1 alpha-2 as its operator declares it, or empty. `stores_no_content`: its
    promise to keep nothing of prompts and answers. `evidence`: documents of others about it
    (landmarks, attestations, benchmarks; `p2p.subclouds.evidence`). `chain`: its certificate.
    `speeds`: what it says of its models.
    """

    PURPOSE: ClassVar[str] = "membership-statement"
    TRIMMED: ClassVar[int] = 1
    peer_id: Peer
    sequence: Annotated[int, Range(0, 2**63 - 1)]
    issued_ms: int
    expires_ms: int
    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX, 1)]
    memberships: Annotated[tuple[Membership, ...], Limit(MEMBERSHIPS_PER_NODE_MAX)]
    country: Country = ""
    stores_no_content: bool = False
    evidence: Annotated[tuple[Signed, ...], Limit(EVIDENCE_PER_NODE_MAX)] = ()
    speeds: Annotated[tuple[DeclaredSpeed, ...], Limit(MODELS_PER_NODE_MAX)] = ()


@message(188)
@dataclass(frozen=True, slots=True)
class MembershipCertificate(Document):
    """A delegate admits one node to a subcloud. Signed by a key of the policy's `delegate_keys`.

    `models`: the only ones that it may serve there (digests); none: all that the policy admits.
    `slots_max`: how many of its slots count there; 0: all. `invite_id`: the invite that it rests on
    (`p2p.subclouds.invites`), or empty.
    """

    PURPOSE: ClassVar[str] = "membership-certificate"
    TRIMMED: ClassVar[int] = 1
    certificate_id: Id
    subcloud_id: Subcloud
    peer_id: Peer
    issued_ms: int
    expires_ms: int
    models: Annotated[tuple[Digest, ...], Limit(64)] = ()
    slots_max: Annotated[int, Range(0, 100_000)] = 0
    invite_id: Annotated[bytes, Limit(16)] = b""


@message(189)
@dataclass(frozen=True, slots=True)
class RevocationList(Document):
    """Who is no member of a subcloud any more, whatever certificate it shows. By a delegate.

    A higher number replaces a lower one. `revoked`: peers that stay out for good (banned) and IDs
    of single certificates. `revoked_tokens`: callers' tokens. `revoked_invites`: with each go the
    memberships that still rest on it. `issued_ms` tells its age: a policy says how old it may be.
    """

    PURPOSE: ClassVar[str] = "revocation-list"
    TRIMMED: ClassVar[int] = 2
    subcloud_id: Subcloud
    number: Annotated[int, Range(1, 2**53)]
    issued_ms: int
    banned_peers: Annotated[tuple[Peer, ...], Limit(REVOKED_PER_LIST_MAX)] = ()
    revoked_certificates: Annotated[tuple[Id, ...], Limit(REVOKED_PER_LIST_MAX)] = ()
    revoked_tokens: Annotated[tuple[Id, ...], Limit(REVOKED_PER_LIST_MAX)] = ()
    revoked_invites: Annotated[tuple[Id, ...], Limit(REVOKED_PER_LIST_MAX)] = ()


@message(195)
@dataclass(frozen=True, slots=True)
class MembershipFrame(Message):
    """A node gives its statement over a session: at its begin, and when it changes."""

    statement: Signed


@dataclass(frozen=True, slots=True)
class KnownMemberships:
    """A statement that was verified, with its signed form and the node's own certificate."""

    statement: MembershipStatement
    signed: Signed
    certificate: Certificate


def verify_memberships(signed: Signed, network: NetworkId, now_ms: int) -> KnownMemberships:
    """Check a statement: signature, certificate, role, time, form.

    Its certificates and evidence are checked where the policies are known.
    Raises: UntrustedError, StaleError, WrongNetworkError, MalformedError.
    """
    statement = open_signed(signed, MembershipStatement, network)
    if signed.peer_id != statement.peer_id:
        raise UntrustedError("a statement about another node's memberships")
    check_times(statement.issued_ms, statement.expires_ms, now_ms)
    if statement.expires_ms - statement.issued_ms > MEMBERSHIP_LIFETIME_S_MAX * 1000:
        raise UntrustedError("a membership statement that claims to hold for too long")
    identities = [membership.subcloud_id for membership in statement.memberships]
    if len(set(identities)) != len(identities):
        raise MalformedError("a subcloud is named twice in a membership statement")
    if sum(membership.isolates for membership in statement.memberships) > 1:
        raise MalformedError("a node can be isolated for one subcloud only")
    certificate = verify_chain(statement.chain, network, statement.peer_id, now_ms)
    if certificate.role is not Role.NODE:
        raise UntrustedError("only nodes are members of subclouds")
    return KnownMemberships(statement, signed, certificate)


def open_membership_certificate(
    signed: Signed, policy: SubcloudPolicy, peer_id: PeerId, now_ms: int
) -> MembershipCertificate:
    """Check that a delegate of a policy admits a node now, by certificate or by invite.

    Whether it was taken back is for `is_revoked` to say.
    Raises: UntrustedError, StaleError, MalformedError.
    """
    if signed.signer in policy.delegate_public_keys:
        certificate = open_signed(signed, MembershipCertificate, NetworkId(policy.network_id))
    else:
        certificate = _by_invite(signed, policy)
    if certificate.subcloud_id != policy.subcloud_id or certificate.peer_id != peer_id:
        raise UntrustedError("a membership certificate of another subcloud or node")
    check_times(certificate.issued_ms, certificate.expires_ms, now_ms)
    return certificate


def _by_invite(signed: Signed, policy: SubcloudPolicy) -> MembershipCertificate:
    if not isinstance(decode_any_message(signed.body), InvitedMembership):
        raise UntrustedError("this membership certificate is not signed by a delegate")
    found = open_invited_membership(signed, policy)
    invite = found.use.invite
    return MembershipCertificate(
        found.certificate_id,
        invite.subcloud_id,
        found.use.peer_id,
        found.issued_ms,
        found.expires_ms,
        invite.models,
        invite.slots_max,
        found.use.invite_id,
    )


def is_revoked(certificate: MembershipCertificate, revocations: RevocationList) -> bool:
    """Tell whether a revocation list takes a certificate back: the node, this one, its invite."""
    return (
        certificate.peer_id in revocations.banned_peers
        or certificate.certificate_id in revocations.revoked_certificates
        or (bool(certificate.invite_id) and certificate.invite_id in revocations.revoked_invites)
    )


def open_revocation_list(signed: Signed, policy: SubcloudPolicy) -> RevocationList:
    """Check that a delegate of a policy signed a revocation list for its subcloud.

    Raises: UntrustedError, MalformedError.
    """
    if signed.signer not in policy.delegate_public_keys:
        raise UntrustedError("this revocation list is not signed by a delegate")
    revocations = open_signed(signed, RevocationList, NetworkId(policy.network_id))
    if revocations.subcloud_id != policy.subcloud_id:
        raise UntrustedError("a revocation list of another subcloud")
    return revocations


def keep_revocation_list(
    signed: Signed, policy: SubcloudPolicy
) -> tuple[RevocationList | None, int]:
    """Open a list that was good under an earlier policy, and say when it was signed if it counts
    as a former delegate's now (0: it is as good as before).

    What a former delegate took back stays taken back until a delegate of now publishes a list that
    is younger; until then it is number 0 and infinitely old, so that no certificate rests on it.
    Raises: UntrustedError, MalformedError.
    """
    if signed.signer in policy.delegate_public_keys:
        return open_revocation_list(signed, policy), 0
    if not policy.delegate_public_keys:
        return None, 0  # nobody could ever replace it
    old = open_signed(signed, RevocationList, NetworkId(policy.network_id))
    if old.subcloud_id != policy.subcloud_id:
        raise UntrustedError("a revocation list of another subcloud")
    return replace(old, number=0, issued_ms=0), old.issued_ms


class MembershipBook(NewestBook[KnownMemberships]):
    """The newest valid statement of each node, forgotten when it expires."""

    def __init__(self, entries_max: int = MEMBERSHIPS_KNOWN_MAX) -> None:
        """Keep at most `entries_max` nodes; more are refused until some expire."""
        super().__init__(entries_max)
