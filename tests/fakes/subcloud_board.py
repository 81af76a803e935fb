"""A gateway's HTTP for subclouds without a gateway: the real endpoints over a directory in memory.

`Board` answers the bootstraps' calls (`p2p.subclouds.directory_messages`) with a real policy book,
and is the gateway's view; `serve(board, monkeypatch)` brings the command line's client to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gateway.backend import CourierAnswer
from gateway.errors import GatewayError
from gateway.http.errors import on_gateway_error
from gateway.http.subclouds import SubcloudEndpoints
from p2p.account_file import AccountKeys, create_account
from p2p.codec import Message, decode_any_message, decode_message, encode_message, encode_messages
from p2p.errors import MalformedError, RefusedError, UntrustedError
from p2p.freshness import NonceGuard
from p2p.signing import KeyPair, Signed, open_signed
from p2p.subclouds import directory_messages as calls
from p2p.subclouds.directory_messages import (
    JoinEvent,
    MemberEntry,
    SubcloudJoinRequest,
    SubcloudPage,
    SubcloudQuestion,
    SubcloudSummary,
)
from p2p.subclouds.identity import SubcloudId, label_of, subcloud_id
from p2p.subclouds.policy import SubcloudPolicy, sign_policy
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.records import AccountProof, KnownPolicy, PolicyRecord
from p2p.subclouds.requests import check_request, open_denial
from p2p.types import PeerId, Role
from resultity.errors import GatewayCallError
from resultity.subclouds import client as client_module
from tests.fakes import trust
from tests.fakes.clocks import START_MS, FakeClock

DELEGATE = trust.key_pair(61)
OWNER: AccountKeys = create_account(trust.NETWORK, lambda: START_MS, bytes(16))[0]
DAY_MS = 86_400_000
URL = "http://gateway.test/v1"


def a_policy(label: str = "team", **fields: Any) -> SubcloudPolicy:
    """A policy of OWNER's with DELEGATE as its delegate: semi-open but for the given fields."""
    content: dict[str, Any] = {
        "network_id": trust.NETWORK,
        "subcloud_id": subcloud_id(trust.NETWORK, OWNER.account_id, label),
        "version": 1,
        "issued_ms": START_MS,
        "expires_ms": START_MS + 90 * DAY_MS,
        "owner": OWNER.account_id,
        "join": "semi-open",
        "callers": {"tokens": True},
        "delegate_keys": (DELEGATE.public_key.hex(),),
    }
    return SubcloudPolicy.model_validate(content | fields)


def a_record(policy: SubcloudPolicy) -> PolicyRecord:
    """The record of a policy of OWNER's."""
    return PolicyRecord(sign_policy(OWNER.signing, policy), (), (AccountProof(OWNER.founding),))


def a_request(
    node: KeyPair, identity: SubcloudId, now_ms: int = START_MS, note: str = ""
) -> Signed:
    """A node's request to join."""
    chain = (
        trust.certificate(node.peer_id, Role.NODE, trust.BOOTSTRAP, issued_ms=now_ms),
        trust.certificate(trust.BOOTSTRAP.peer_id, Role.BOOTSTRAP, issued_ms=now_ms),
    )
    end_ms = now_ms + DAY_MS
    request = SubcloudJoinRequest(identity, node.peer_id, now_ms, end_ms, chain, note)
    return node.sign(trust.NETWORK, request)


class Board:
    """The directory, the gateway's backend and its view in one."""

    def __init__(self, clock: FakeClock, *policies: SubcloudPolicy) -> None:
        """Know these policies."""
        self.clock = clock
        self.book = PolicyBook(trust.NETWORK, clock_ms=clock)
        self.versions: dict[SubcloudId, list[tuple[int, PolicyRecord]]] = {}
        for policy in policies:
            self.offer(policy)
        self.requests: dict[PeerId, Signed] = {}
        self.answers: dict[PeerId, list[Message]] = {}
        self.certificates: dict[PeerId, Signed] = {}
        self.times: dict[PeerId, MemberEntry] = {}
        self.shown: dict[str, Any] = {"members": [], "refusals": {}}
        self.would: dict[str, Any] = {}
        self.events: list[JoinEvent] = []
        self.unreachable = False
        self.asked: list[str] = []
        self._nonces = NonceGuard()

    def offer(self, policy: SubcloudPolicy) -> None:
        """OWNER publishes a version."""
        self._take(a_record(policy))

    def _take(self, record: PolicyRecord) -> SubcloudId:
        policy = SubcloudPolicy.model_validate_json(record.policy.body)
        if self.book.offer(record):
            self.versions.setdefault(policy.identity, []).append((policy.version, record))
        return policy.identity

    def join(self, peer_id: PeerId, what: str = "joined") -> None:
        """A node became a member, or left."""
        (known,) = self.book.all()
        event = JoinEvent(len(self.events) + 1, known.identity, peer_id, self.now_ms(), what)
        self.events.append(event)
        joined_ms, left_ms = (self.now_ms(), 0) if what == "joined" else (1, self.now_ms())
        self.times[peer_id] = MemberEntry(known.identity, peer_id, joined_ms, left_ms)

    # --- the backend --------------------------------------------------------------------------
    network = trust.NETWORK

    @property
    def subclouds(self) -> Board:
        """The view."""
        return self

    def now_ms(self) -> int:
        """The time."""
        return self.clock()

    async def carry(self, method: str, body: bytes, client: str = "") -> CourierAnswer:
        """Answer a call as a bootstrap does."""
        self.asked.append(method)
        try:
            return CourierAnswer(self._answer(method, body))
        except RefusedError as error:
            return CourierAnswer(code=error.code, message=str(error))
        except UntrustedError as error:
            return CourierAnswer(code="untrusted", message=str(error))
        except MalformedError as error:
            return CourierAnswer(code="malformed", message=str(error))

    # --- the view -----------------------------------------------------------------------------
    async def known(self, name: str) -> KnownPolicy | None:
        """The policy, by ID or label."""
        for found in self.book.all():
            if name in (found.identity, label_of(found.identity)):
                return found
        return None

    async def members(self, identity: SubcloudId) -> dict[str, Any]:
        """What a test says."""
        return dict(self.shown)

    async def candidates(self, identity: SubcloudId, peer_ids: Sequence[PeerId]) -> dict[str, Any]:
        """What a test says."""
        return {peer: self.would[peer] for peer in peer_ids if peer in self.would}

    # --- the directory ------------------------------------------------------------------------
    def _answer(self, method: str, body: bytes) -> bytes:
        if method == calls.PUBLISH:
            record = decode_message(body, PolicyRecord)
            return encode_message(self._summary(self._take(record)))
        if method in (calls.PUT_REVOCATIONS, calls.PUT_CERTIFICATE, calls.PUT_DENIAL):
            self._put(method, decode_message(body, Signed))
            return b""
        if method in (calls.LIST_REQUESTS, calls.LIST_CERTIFICATES, calls.LIST_JOINS):
            return self._list(method, decode_message(body, Signed))
        return self._public(method, decode_message(body, SubcloudQuestion))

    def _public(self, method: str, question: SubcloudQuestion) -> bytes:
        if method == calls.LIST:
            found = tuple(self._summary(known.identity) for known in self.book.all())
            return encode_message(SubcloudPage(found, "end", False))
        known = self._find(question.name)
        if method == calls.GET:
            signed = self.book.signed_revocations(known.identity)
            return encode_messages([known.record, *([signed] if signed else [])])
        if method == calls.HISTORY:  # one in each answer
            kept = self.versions.get(known.identity, [])
            older = [r for v, r in kept if not question.version or v < question.version]
            return encode_messages([older[-1]]) if older else b""
        if method == calls.GET_REVOCATIONS:
            signed = self.book.signed_revocations(known.identity)
            return encode_message(signed) if signed else b""
        if method == calls.LIST_MEMBERS:
            after: list[MemberEntry] = [
                e for e in self.times.values() if e.peer_id > question.after
            ]
            return encode_messages(sorted(after, key=lambda entry: entry.peer_id)) if after else b""
        if method == calls.EVIDENCE:
            return encode_messages(list(self.book.evidence)) if self.book.evidence else b""
        raise AssertionError(method)

    def _put(self, method: str, signed: Signed) -> None:
        document: Any = decode_any_message(signed.body)
        known = self._find(document.subcloud_id)
        if method == calls.PUT_REVOCATIONS:
            self.book.offer_revocations(signed)
            return
        if signed.signer not in known.policy.delegate_public_keys:
            raise UntrustedError("not a delegate's")
        if method == calls.PUT_DENIAL:
            open_denial(signed, known.policy)
        else:
            open_signed(signed, type(document), trust.NETWORK)
            self.certificates[document.peer_id] = signed
        self.answers.setdefault(document.peer_id, []).append(document)
        self.requests.pop(document.peer_id, None)

    def _list(self, method: str, signed: Signed) -> bytes:
        document: Any = decode_any_message(signed.body)
        known = self._find(document.subcloud_id)
        what = {calls.LIST_REQUESTS: "requests", calls.LIST_JOINS: "joins"}.get(
            method, "certificates"
        )
        check_request(signed, known, trust.NETWORK, what, self.now_ms(), self._nonces)
        found: list[Message] = []
        if method == calls.LIST_REQUESTS:
            found = list(self.requests.values())
        elif method == calls.LIST_CERTIFICATES:
            found = list(self.certificates.values())
        else:
            found = [event for event in self.events if event.number > int(document.after or 0)]
        return encode_messages(found) if found else b""

    def _find(self, name: str) -> KnownPolicy:
        for found in self.book.all():
            if name in (found.identity, label_of(found.identity)):
                return found
        raise RefusedError("unknown_subcloud", f"there is no subcloud {name}")

    def _summary(self, identity: SubcloudId) -> SubcloudSummary:
        known = self._find(identity)
        return SubcloudSummary(
            identity, known.policy.version, known.digest, 0, 0, label_of(identity)
        )


def web(board: Board) -> TestClient:
    """The endpoints of a gateway, over the board."""
    app = Starlette(
        routes=SubcloudEndpoints(board).routes(),  # type: ignore[arg-type]
        exception_handlers={GatewayError: on_gateway_error},
    )
    return TestClient(app, base_url="http://gateway.test")


def serve(board: Board, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Bring the command line's client to the board, as if it were at URL."""
    monkeypatch.setattr("gateway.http.subclouds.SUBCLOUD_BURST", 100_000.0)
    http = web(board)

    def call(method: str, url: str, content: Any = None) -> Any:
        if board.unreachable:
            raise GatewayCallError("cannot reach the gateway")
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        answer = http.request(method, path, json=content) if content else http.get(path)
        if answer.status_code != 200:
            error = answer.json()["error"]
            raise GatewayCallError(error["message"], status=answer.status_code, code=error["code"])
        return answer.json()

    monkeypatch.setattr(client_module, "get_json", lambda url: call("GET", url))
    monkeypatch.setattr(client_module, "post_json", lambda url, content: call("POST", url, content))
    return http
