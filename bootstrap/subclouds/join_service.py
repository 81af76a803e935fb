"""Owns the calls about who wants into a subcloud and is let in: requests, certificates, denials.

A bootstrap decides nothing here: it carries what nodes and delegates sign to each other, bounded,
so that neither has to be reached when the other speaks. What only the owner and the delegates may
read is asked for by a signed request.
"""

from __future__ import annotations

from bootstrap.limits import (
    JOIN_REQUESTS_PER_NODE_MAX,
    JOIN_REQUESTS_PER_SUBCLOUD_MAX,
    SUBCLOUD_MEMBERS_MAX,
)
from bootstrap.subclouds.answers import WriteLimits, as_many_as_fit, stored, told
from bootstrap.subclouds.registry import SubcloudRegistry
from ledger.ledger import Ledger
from ledger.store.directory_members import (
    ATTESTATION,
    CERTIFICATE,
    DENIAL,
    Paper,
    answer_to,
    answers_for,
    is_member,
    issued_certificates,
    joins,
    put_answer,
    put_request,
    requests,
    withdraw_request,
)
from p2p.calls import Caller, CallHandler
from p2p.clock import Clock
from p2p.codec import decode_any_message, decode_message, encode_message
from p2p.errors import RefusedError, StaleError
from p2p.freshness import NonceGuard
from p2p.limits import MESSAGES_PER_FRAME_MAX
from p2p.signing import Signed
from p2p.subclouds import directory_messages as calls
from p2p.subclouds.directory_messages import (
    JoinEvent,
    KnownJoinRequest,
    SubcloudQuestion,
    number_after,
    verify_join_request,
)
from p2p.subclouds.evidence_documents import open_attestation
from p2p.subclouds.evidence_messages import Attestation
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.memberships import MembershipCertificate, open_membership_certificate
from p2p.subclouds.records import KnownPolicy
from p2p.subclouds.requests import JoinDenial, SubcloudRequest, check_request, open_denial
from p2p.types import NetworkId, PeerId

ROWS_PER_ANSWER_MAX = MESSAGES_PER_FRAME_MAX
ANSWERS_PER_NODE_MAX = 64


class JoinService:
    """Carries requests and answers between nodes and delegates."""

    def __init__(
        self,
        registry: SubcloudRegistry,
        ledger: Ledger,
        network_id: NetworkId,
        clock_ms: Clock,
        limits: WriteLimits,
    ) -> None:
        """Keep everything in the ledger's database."""
        self._registry = registry
        self._ledger = ledger
        self._network_id = network_id
        self._clock_ms = clock_ms
        self._limits = limits
        self._nonces = NonceGuard()

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that members may make."""
        return told(
            {
                calls.PUT_REQUEST: self.put_request,
                calls.LIST_REQUESTS: self.list_requests,
                calls.PUT_CERTIFICATE: self.put_certificate,
                calls.GET_CERTIFICATES: self.get_certificates,
                calls.LIST_CERTIFICATES: self.list_certificates,
                calls.PUT_DENIAL: self.put_denial,
                calls.LIST_JOINS: self.list_joins,
            }
        )

    # --- nodes ------------------------------------------------------------------------------------
    async def put_request(self, caller: Caller, body: bytes) -> bytes:
        """Keep a node's request, or forget it. Raises: RefusedError (see the reference)."""
        now_ms = self._clock_ms()
        known = verify_join_request(decode_message(body, Signed), self._network_id, now_ms)
        request = known.request
        if caller.peer_id != request.peer_id:
            raise RefusedError("not_entitled", "a node asks to join for itself")
        self._limits.take(caller.peer_id)
        subcloud_id, peer_id = request.subcloud_id, request.peer_id
        if request.withdrawn:
            await self._ledger.change_beside(lambda c: withdraw_request(c, subcloud_id, peer_id))
            return b""
        await self._check_request(known, now_ms)
        paper = Paper(
            subcloud_id,
            peer_id,
            encode_message(known.signed),
            request.issued_ms,
            request.expires_ms,
        )
        why = await self._ledger.change_beside(
            lambda c: put_request(
                c,
                paper,
                now_ms,
                per_node_max=JOIN_REQUESTS_PER_NODE_MAX,
                per_subcloud_max=JOIN_REQUESTS_PER_SUBCLOUD_MAX,
            )
        )
        if why == "stale":
            raise StaleError("a newer request of this node is known")
        if why:
            whose = "this node has" if why == "node" else "the subcloud has"
            raise RefusedError("too_many_requests", f"{whose} too many open requests", 3600)
        return b""

    async def _check_request(self, known: KnownJoinRequest, now_ms: int) -> None:
        subcloud_id, peer_id = known.request.subcloud_id, known.request.peer_id
        policy = self._registry.known(subcloud_id).policy
        if policy.ended or policy.expires_ms <= now_ms:
            raise RefusedError("subcloud_closed", "this subcloud has ended")
        if policy.join == "open":
            raise RefusedError(
                "join_open", "everybody who qualifies is a member: no request needed"
            )
        revocations = self._registry.book.revocations(subcloud_id)
        if revocations is not None and peer_id in revocations.banned_peers:
            raise RefusedError("join_denied", "this node is banned from the subcloud")
        denial = await self._ledger.read(
            lambda c: answer_to(c, DENIAL, subcloud_id, peer_id, now_ms)
        )
        if denial is not None:
            opened = open_denial_of(denial)
            raise RefusedError(
                "join_denied",
                f"the subcloud denied this node: {opened.reason or 'no reason given'}",
                (opened.until_ms - now_ms) / 1000,
            )
        if policy.join == "private":
            await self._require_invited(subcloud_id, peer_id, now_ms)

    async def _require_invited(self, subcloud_id: str, peer_id: str, now_ms: int) -> None:
        """See that a node is, or was lately, a member of a private subcloud: it asks for more time.

        Raises: RefusedError `invitation_needed`.
        """
        known = await self._ledger.read(
            lambda c: answer_to(c, CERTIFICATE, subcloud_id, peer_id, now_ms)
        )
        if known is None and not await self._ledger.read(
            lambda c: is_member(c, subcloud_id, peer_id)
        ):
            raise RefusedError("invitation_needed", "a private subcloud takes invited nodes only")

    async def get_certificates(self, caller: Caller, body: bytes) -> bytes:
        """Give the calling node what delegates answered it, newest first."""
        question = decode_message(body, SubcloudQuestion)
        identity = self._registry.resolve(question.name) if question.name else ""
        now_ms = self._clock_ms()
        found = await self._ledger.read(
            lambda c: answers_for(c, caller.peer_id, identity, now_ms, ANSWERS_PER_NODE_MAX)
        )
        return as_many_as_fit(stored(found))

    # --- delegates --------------------------------------------------------------------------------
    async def put_certificate(self, caller: Caller, body: bytes) -> bytes:
        """Keep a delegate's certificate or attestation for its node, which need not have asked."""
        signed = decode_message(body, Signed)
        self._limits.take(caller.peer_id)
        claimed = decode_any_message(signed.body)
        if isinstance(claimed, Attestation):
            return await self._put_attestation(signed, claimed.subcloud_id)
        claimed = decode_message(signed.body, MembershipCertificate)
        policy = self._registry.known(claimed.subcloud_id).policy
        now_ms = self._clock_ms()
        open_membership_certificate(signed, policy, claimed.peer_id, now_ms)
        paper = Paper(
            claimed.subcloud_id,
            claimed.peer_id,
            encode_message(signed),
            claimed.issued_ms,
            claimed.expires_ms,
        )
        await self._put_answer(CERTIFICATE, paper, now_ms)
        return b""

    async def _put_attestation(self, signed: Signed, subcloud_id: SubcloudId) -> bytes:
        now_ms = self._clock_ms()
        policy = self._registry.known(subcloud_id).policy
        found = open_attestation(signed, policy, now_ms)
        about = (bool(found.country), bool(found.memory_bytes or found.gpus), bool(found.speeds))
        letters = (letter for letter, said in zip("rhs", about, strict=True) if said)
        kind = f"{ATTESTATION}-{''.join(letters)}"
        paper = Paper(
            found.subcloud_id,
            found.node,
            encode_message(signed),
            found.issued_ms,
            found.expires_ms,
        )
        await self._put_answer(kind, paper, now_ms)
        return b""

    async def put_denial(self, caller: Caller, body: bytes) -> bytes:
        """Keep a delegate's denial for its node."""
        signed = decode_message(body, Signed)
        self._limits.take(caller.peer_id)
        claimed = decode_message(signed.body, JoinDenial)
        denial = open_denial(signed, self._registry.known(claimed.subcloud_id).policy)
        now_ms = self._clock_ms()
        if denial.until_ms <= now_ms:
            raise StaleError("a denial that is over")
        paper = Paper(
            denial.subcloud_id,
            denial.peer_id,
            encode_message(signed),
            denial.issued_ms,
            denial.until_ms,
        )
        await self._put_answer(DENIAL, paper, now_ms)
        return b""

    async def _put_answer(self, kind: str, paper: Paper, now_ms: int) -> None:
        why = await self._ledger.change_beside(
            lambda c: put_answer(c, kind, paper, now_ms, per_subcloud_max=2 * SUBCLOUD_MEMBERS_MAX)
        )
        if why == "stale":
            raise StaleError(f"a newer {kind} of this node is known")
        if why:
            raise RefusedError("too_many_requests", "the subcloud has too many of these", 3600)

    async def list_requests(self, caller: Caller, body: bytes) -> bytes:
        """Give the owner or a delegate the open requests (what="requests")."""
        known, request = self._asked(body, "requests")
        now_ms = self._clock_ms()
        found = await self._ledger.read(
            lambda c: requests(c, known.identity, request.after, now_ms, ROWS_PER_ANSWER_MAX)
        )
        return as_many_as_fit(stored(found))

    async def list_certificates(self, caller: Caller, body: bytes) -> bytes:
        """Give the owner or a delegate what was certified (what="certificates")."""
        known, request = self._asked(body, "certificates")
        now_ms = self._clock_ms()
        found = await self._ledger.read(
            lambda c: issued_certificates(
                c, known.identity, request.after, now_ms, ROWS_PER_ANSWER_MAX
            )
        )
        return as_many_as_fit(stored(found))

    async def list_joins(self, caller: Caller, body: bytes) -> bytes:
        """Give the owner or a delegate the log of joins (what="joins")."""
        known, request = self._asked(body, "joins")
        after = number_after(request.after)
        found = await self._ledger.read(
            lambda c: joins(c, known.identity, after, ROWS_PER_ANSWER_MAX)
        )
        return as_many_as_fit(
            JoinEvent(line.number, known.identity, PeerId(line.peer_id), line.at_ms, line.what)
            for line in found
        )

    def _asked(self, body: bytes, what: str) -> tuple[KnownPolicy, SubcloudRequest]:
        signed = decode_message(body, Signed)
        claimed = decode_message(signed.body, SubcloudRequest)
        known = self._registry.known(claimed.subcloud_id)
        request = check_request(
            signed, known, self._network_id, what, self._clock_ms(), self._nonces
        )
        return known, request


def open_denial_of(paper: Paper) -> JoinDenial:
    """Read a denial that was verified when it was kept."""
    return decode_message(decode_message(paper.signed, Signed).body, JoinDenial)
