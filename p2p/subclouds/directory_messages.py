"""Owns the messages of the subclouds' directory at the bootstraps, and its calls' names. Pure.

Every member of the network may call: nodes and gateways for themselves, gateways for people. What
counts in an answer is signed by owners, delegates and nodes; only names (label to ID) and the times
at which a bootstrap saw something rest on the bootstrap's word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.certificates import verify_chain
from p2p.codec import Limit, Message, Range, message
from p2p.errors import MalformedError, StaleError, UntrustedError
from p2p.freshness import check_times
from p2p.limits import (
    CERTIFICATES_MAX,
    JOIN_REQUEST_LIFETIME_S_MAX,
    NAME_CHARACTERS_MAX,
    SUBCLOUDS_PER_PAGE_MAX,
)
from p2p.signing import Document, Signed, open_signed
from p2p.subclouds.identity import LABEL_CHARACTERS_MAX, SubcloudId
from p2p.types import NetworkId, PeerId, Role

PUBLISH = "subclouds.publish"
GET = "subclouds.get"
LIST = "subclouds.list"
HISTORY = "subclouds.history"
RESOLVE = "subclouds.resolve"
EVIDENCE = "subclouds.evidence"
PUT_REVOCATIONS = "subclouds.revocations.put"
GET_REVOCATIONS = "subclouds.revocations.get"
PUT_REQUEST = "subclouds.requests.put"
LIST_REQUESTS = "subclouds.requests.list"
PUT_CERTIFICATE = "subclouds.certificates.put"
GET_CERTIFICATES = "subclouds.certificates.get"
LIST_CERTIFICATES = "subclouds.certificates.list"
PUT_DENIAL = "subclouds.denials.put"
TELL_MEMBERSHIPS = "subclouds.memberships.tell"
LIST_MEMBERSHIPS = "subclouds.memberships.list"
LIST_MEMBERS = "subclouds.members"
LIST_JOINS = "subclouds.joins"

NOTE_CHARACTERS_MAX = 256
JOINED = "joined"
LEFT = "left"

Subcloud = Annotated[SubcloudId, Limit(NAME_CHARACTERS_MAX)]
Peer = Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
Label = Annotated[str, Limit(LABEL_CHARACTERS_MAX)]


@message(108)
@dataclass(frozen=True, slots=True)
class SubcloudQuestion(Message):
    """A question about a subcloud (its ID or registered label) or about all (empty).

    `version`: of which version, or below which in a history (0: the newest). `after`: where the
    page before ended.
    """

    TRIMMED: ClassVar[int] = 2
    name: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    version: Annotated[int, Range(0, 2**31)] = 0
    after: Annotated[str, Limit(NAME_CHARACTERS_MAX)] = ""


@message(109)
@dataclass(frozen=True, slots=True)
class SubcloudSummary(Message):
    """What a bootstrap has of one subcloud: enough to tell whether to ask for it.

    `label`: the registered name that leads here, or empty. `proof_length`: the number of the last
    key change in the record. `revocations_number`: of the newest revocation list (0: none).
    """

    subcloud_id: Subcloud
    version: Annotated[int, Range(1, 2**31)]
    digest: Annotated[str, Limit(64)]
    proof_length: Annotated[int, Range(0, 2**31)]
    revocations_number: Annotated[int, Range(0, 2**53)]
    label: Label = ""


@message(110)
@dataclass(frozen=True, slots=True)
class SubcloudJoinRequest(Document):
    """A node asks to be admitted to a semi-open or private subcloud. Signed by it.

    `chain`: its certificate. `note`: a word of its operator to the owner. `withdrawn`: it does not
    want any more.
    """

    PURPOSE: ClassVar[str] = "subcloud-join-request"
    subcloud_id: Subcloud
    peer_id: Peer
    issued_ms: int
    expires_ms: int
    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX, 1)]
    note: Annotated[str, Limit(NOTE_CHARACTERS_MAX)] = ""
    withdrawn: bool = False


@message(111)
@dataclass(frozen=True, slots=True)
class SubcloudPage(Message):
    """Subclouds in the order of their last change at this bootstrap.

    `cursor`: ask again with it for what changes later; `more`: there is more already.
    """

    summaries: Annotated[tuple[SubcloudSummary, ...], Limit(SUBCLOUDS_PER_PAGE_MAX)]
    cursor: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    more: bool


@message(112)
@dataclass(frozen=True, slots=True)
class MemberEntry(Message):
    """When a bootstrap saw a node join, and leave for the last time (0: never).

    It is a member while `joined_ms > left_ms`. `joined_ms` orders members where a policy has room
    for so many only; a cooldown counts from `left_ms`, also when it has joined again.
    """

    subcloud_id: Subcloud
    peer_id: Peer
    joined_ms: int
    left_ms: int = 0


@message(113)
@dataclass(frozen=True, slots=True)
class SubcloudNews(Message):
    """Tells by gossip that there is something newer, where it is too large for gossip itself."""

    subcloud_id: Subcloud
    version: Annotated[int, Range(0, 2**31)]
    revocations_number: Annotated[int, Range(0, 2**53)]


@message(114)
@dataclass(frozen=True, slots=True)
class JoinEvent(Message):
    """One line of a subcloud's log: a node `joined` or `left`. `number` orders the lines."""

    number: Annotated[int, Range(0, 2**62)]
    subcloud_id: Subcloud
    peer_id: Peer
    at_ms: int
    what: Annotated[str, Limit(16)]


@dataclass(frozen=True, slots=True)
class KnownJoinRequest:
    """A request that was verified: the node, its account, and the signed form."""

    request: SubcloudJoinRequest
    account_id: str
    signed: Signed


def verify_join_request(signed: Signed, network: NetworkId, now_ms: int) -> KnownJoinRequest:
    """Check a node's request: signature, certificate, role, times.

    Raises: UntrustedError, StaleError, WrongNetworkError, MalformedError.
    """
    request = open_signed(signed, SubcloudJoinRequest, network)
    if signed.peer_id != request.peer_id:
        raise UntrustedError("a request to join in another node's name")
    check_times(request.issued_ms, request.expires_ms, now_ms)
    if request.expires_ms - request.issued_ms > JOIN_REQUEST_LIFETIME_S_MAX * 1000:
        raise StaleError("a request to join that claims to hold for too long")
    certificate = verify_chain(request.chain, network, request.peer_id, now_ms)
    if certificate.role is not Role.NODE:
        raise UntrustedError("only nodes join subclouds")
    return KnownJoinRequest(request, certificate.account_id, signed)


def number_after(text: str) -> int:
    """Read a page's `after` that is a number. Raises: MalformedError."""
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise MalformedError("this is not where a page ended")
    return int(text)
