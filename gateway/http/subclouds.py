"""Owns subclouds over HTTP: for owners, their delegates, and automation.

Theory of operation. What people publish is signed before it comes here, and the bootstraps check
it: the gateway carries it, within bounds of size and rate. What is public is shown as JSON beside
the signed form, which is what a program should verify. What is not public (requests, the owner's
view) is asked for by a signed request that passes once (`p2p.subclouds.requests`).
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.backend import Backend, CourierAnswer
from gateway.errors import (
    InvalidRequestError,
    NotAllowedError,
    RateLimitError,
    StoppingError,
)
from gateway.http.client_rates import ClientRates
from gateway.http.requests import read_body
from gateway.http.subcloud_answers import carried, documents, encoded, refusal
from gateway.limits import (
    RETRY_AFTER_S,
    SUBCLOUD_BODY_BYTES_MAX,
    SUBCLOUD_BURST,
    SUBCLOUD_CANDIDATES_MAX,
    SUBCLOUD_RATE_PER_S,
    UNKNOWN_SIGNERS_BURST,
    UNKNOWN_SIGNERS_PER_S,
)
from p2p.codec import Message, decode_message, encode_message
from p2p.errors import P2PError
from p2p.freshness import NonceGuard
from p2p.limits import NAME_CHARACTERS_MAX
from p2p.signing import Signed
from p2p.subclouds import directory_messages as calls
from p2p.subclouds.directory_messages import (
    JoinEvent,
    MemberEntry,
    SubcloudPage,
    SubcloudQuestion,
    SubcloudSummary,
)
from p2p.subclouds.identity import label_of
from p2p.subclouds.policy_evidence import PolicyEvidence
from p2p.subclouds.records import KnownPolicy, PolicyRecord, verify_record
from p2p.subclouds.requests import SubcloudRequest, check_request
from p2p.token_bucket import TokenBucket
from p2p.types import PeerId

PREFIX = "/resultity/v1/subclouds"
VERSION_DIGITS_MAX = 10
M = TypeVar("M", bound=Message)
Handler = Callable[[Request], Awaitable[Response]]
PUTS = {
    "revocations": calls.PUT_REVOCATIONS,
    "certificates": calls.PUT_CERTIFICATE,
    "denials": calls.PUT_DENIAL,
}
QUESTIONS = {"requests": calls.LIST_REQUESTS, "issued": calls.LIST_CERTIFICATES}
"""Answered with signed documents. `issued`: the certificates that the bootstraps keep."""


class SubcloudEndpoints:
    """Everything under `/resultity/v1/subclouds`."""

    def __init__(self, backend: Backend) -> None:
        """Carry through this backend, and show its view of subclouds."""
        self._backend = backend
        self._rates = ClientRates("requests about subclouds", SUBCLOUD_RATE_PER_S, SUBCLOUD_BURST)
        self._nonces = NonceGuard()
        self._unknown_signers = TokenBucket(
            UNKNOWN_SIGNERS_PER_S, UNKNOWN_SIGNERS_BURST, time.monotonic()
        )

    def routes(self) -> list[Route]:
        """The routes, for the application."""
        gets: dict[str, Handler] = {
            "": self.list,
            "/{name}": self.get,
            "/{name}/history": self.history,
            "/{name}/evidence": self.evidence,
            "/{name}/revocations": self.revocations,
        }
        posts: dict[str, Handler] = {
            "": self.publish,
            "/{name}/joins": self.joins,
            "/{name}/members": self.members,
            "/{name}/view": self.view,
            **{f"/{{name}}/{what}": self._putter(method) for what, method in PUTS.items()},
            **{f"/{{name}}/{what}": self._asker(method) for what, method in QUESTIONS.items()},
        }
        return [
            Route(PREFIX + path, self._guarded(handler), methods=[method])
            for method, handlers in (("GET", gets), ("POST", posts))
            for path, handler in handlers.items()
        ]

    # --- public -------------------------------------------------------------------------------
    async def list(self, request: Request) -> Response:
        """`GET .../subclouds?after=`."""
        after = request.query_params.get("after", "")[:NAME_CHARACTERS_MAX]
        answer = await self._ask(calls.LIST, SubcloudQuestion("", 0, after))
        if answer.code:
            return refusal(answer)
        page = carried(answer, SubcloudPage)
        entries = []
        for summary in page.summaries:
            known = await self._backend.subclouds.known(summary.subcloud_id)
            policy = known.policy if known is not None else None
            entries.append(
                {
                    "id": summary.subcloud_id,
                    "label": summary.label,
                    "version": summary.version,
                    "digest": summary.digest,
                    "owner": policy.owner if policy is not None else "",
                    "join": policy.join if policy is not None else "",
                    "expires_ms": policy.expires_ms if policy is not None else 0,
                    "ended": policy.ended if policy is not None else False,
                }
            )
        return JSONResponse({"subclouds": entries, "after": page.cursor, "more": page.more})

    async def get(self, request: Request) -> Response:
        """`GET .../subclouds/NAME`: the policy in force."""
        name = _name(request)
        try:
            answer = await self._ask(calls.GET, SubcloudQuestion(name))
        except StoppingError:
            # No bootstrap answers: what this gateway goes by is still worth showing.
            known = await self._backend.subclouds.known(name)
            if known is None:
                raise
            return JSONResponse(_policy_json(known) | {"source": "gateway"})
        if answer.code:
            return refusal(answer)
        record = next(d for d in documents(answer) if isinstance(d, PolicyRecord))
        return JSONResponse(_policy_json(self._verified(record)) | {"source": "bootstrap"})

    async def history(self, request: Request) -> Response:
        """`GET .../subclouds/NAME/history?below=`: the versions that are kept, newest first."""
        below = request.query_params.get("below", "0")
        if not (below.isascii() and below.isdigit() and len(below) < VERSION_DIGITS_MAX):
            raise InvalidRequestError("`below` is the number of a version.", param="below")
        question = SubcloudQuestion(_name(request), int(below))
        answer = await self._ask(calls.HISTORY, question)
        if answer.code:
            return refusal(answer)
        records = [d for d in documents(answer) if isinstance(d, PolicyRecord)]
        return JSONResponse({"versions": [encoded(record) for record in records]})

    async def evidence(self, request: Request) -> Response:
        """`GET .../subclouds/NAME/evidence`: forks and foreign signatures."""
        answer = await self._ask(calls.EVIDENCE, SubcloudQuestion(_name(request)))
        if answer.code:
            return refusal(answer)
        found = [d for d in documents(answer) if isinstance(d, PolicyEvidence)]
        shown = [
            {
                "kind": item.kind,
                "subcloud_id": item.subcloud_id,
                "seen_ms": item.seen_ms,
                "offered": encoded(item.offered),
                "known": encoded(item.known) if item.known is not None else None,
            }
            for item in found
        ]
        return JSONResponse({"evidence": shown})

    async def revocations(self, request: Request) -> Response:
        """`GET .../subclouds/NAME/revocations`: the newest revocation list."""
        answer = await self._ask(calls.GET_REVOCATIONS, SubcloudQuestion(_name(request)))
        if answer.code:
            return refusal(answer)
        return JSONResponse({"signed": _base64(answer.result) if answer.result else None})

    # --- signed -------------------------------------------------------------------------------
    async def publish(self, request: Request) -> Response:
        """`POST .../subclouds {"record"}`: a version of a policy."""
        content = await _json_body(request)
        body = _bytes(content, "record")
        record = _decoded(body, PolicyRecord, "record")
        known = self._verified(record)
        answer = await self._backend.carry(calls.PUBLISH, body)
        if answer.code:
            return refusal(answer)
        return JSONResponse({"id": known.identity, "label": carried(answer, SubcloudSummary).label})

    async def view(self, request: Request) -> Response:
        """`POST .../subclouds/NAME/view {"signed", "candidates"}`: the owner's view."""
        content, known, _ = await self._asked(request, "view")
        wanted = content.get("candidates", [])
        if not isinstance(wanted, list) or len(wanted) > SUBCLOUD_CANDIDATES_MAX:
            raise InvalidRequestError(
                f"`candidates` is a list of at most {SUBCLOUD_CANDIDATES_MAX} peer IDs.",
                param="candidates",
            )
        shown = await self._backend.subclouds.members(known.identity)
        if wanted:
            peers = [PeerId(str(peer_id)[:NAME_CHARACTERS_MAX]) for peer_id in wanted]
            shown = shown | {
                "candidates": await self._backend.subclouds.candidates(known.identity, peers)
            }
        return JSONResponse(shown)

    async def members(self, request: Request) -> Response:
        """`POST .../subclouds/NAME/members {"signed"}`: who is a member since when, or left."""
        _, known, asked = await self._asked(request, "members")
        question = SubcloudQuestion(known.identity, 0, asked.after)
        answer = await self._ask(calls.LIST_MEMBERS, question)
        if answer.code:
            return refusal(answer)
        entries = [d for d in documents(answer) if isinstance(d, MemberEntry)]
        shown = [
            {"peer_id": e.peer_id, "joined_ms": e.joined_ms, "left_ms": e.left_ms} for e in entries
        ]
        return JSONResponse({"members": shown})

    async def joins(self, request: Request) -> Response:
        """`POST .../subclouds/NAME/joins {"signed"}`: the log of joins and leaves."""
        body = _bytes(await _json_body(request), "signed")
        answer = await self._backend.carry(calls.LIST_JOINS, body)
        if answer.code:
            return refusal(answer)
        events = [d for d in documents(answer) if isinstance(d, JoinEvent)]
        shown = [
            {"number": e.number, "at_ms": e.at_ms, "peer_id": e.peer_id, "what": e.what}
            for e in events
        ]
        return JSONResponse({"events": shown})

    def _putter(self, method: str) -> Handler:
        async def put(request: Request) -> Response:
            body = _bytes(await _json_body(request), "signed")
            await self._check_signer(_name(request), _decoded(body, Signed, "signed"))
            answer = await self._backend.carry(method, body)
            return refusal(answer) if answer.code else JSONResponse({})

        return put

    def _asker(self, method: str) -> Handler:
        async def ask(request: Request) -> Response:
            body = _bytes(await _json_body(request), "signed")
            answer = await self._backend.carry(method, body)
            if answer.code:
                return refusal(answer)
            return JSONResponse({"documents": [encoded(d) for d in documents(answer)]})

        return ask

    # --- inside -------------------------------------------------------------------------------
    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            self._rates.take(request)
            try:
                return await handler(request)
            except ClientDisconnect:
                return Response(status_code=400)

        return guarded

    async def _asked(
        self, request: Request, what: str
    ) -> tuple[dict[str, Any], KnownPolicy, SubcloudRequest]:
        """Read a body that only the owner and the delegates may send."""
        content = await _json_body(request)
        signed = _decoded(_bytes(content, "signed"), Signed, "signed")
        known = await self._known(_name(request))
        own = self._backend
        try:
            asked = check_request(signed, known, own.network, what, own.now_ms(), self._nonces)
        except P2PError as error:
            raise NotAllowedError(f"This is for the subcloud's owner: {error}.") from error
        return content, known, asked

    async def _check_signer(self, name: str, signed: Signed) -> None:
        """Let delegates pass. Anybody may send anything, and this gateway's share of changes at the
        bootstraps is for those who have something to say: others, who may be delegates of a policy
        that is not known here yet, have a small part of it. Raises: RateLimitError.
        """
        known = await self._backend.subclouds.known(name)
        if known is not None and signed.signer in known.policy.delegate_public_keys:
            return
        now_s = time.monotonic()
        if not self._unknown_signers.take(now_s):
            raise RateLimitError(
                "Too many documents that no delegate known here has signed.",
                retry_after_s=self._unknown_signers.wait_s(),
            )

    async def _ask(self, method: str, question: SubcloudQuestion) -> CourierAnswer:
        return await self._backend.carry(method, encode_message(question))

    def _verified(self, record: PolicyRecord) -> KnownPolicy:
        try:
            return verify_record(record, self._backend.network)
        except P2PError as error:
            raise InvalidRequestError(
                f"This record of a policy does not verify: {error}.", param="record"
            ) from error

    async def _known(self, name: str) -> KnownPolicy:
        known = await self._backend.subclouds.known(name)
        if known is not None:
            return known
        raise StoppingError(
            "This gateway does not know this subcloud (yet).", retry_after_s=RETRY_AFTER_S
        )


def _policy_json(known: KnownPolicy) -> dict[str, Any]:
    return {
        "id": known.identity,
        "label": label_of(known.identity),
        "digest": known.digest,
        "version": known.policy.version,
        "policy": json.loads(known.record.policy.body),
        "record": encoded(known.record),
    }


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    if len(name) > NAME_CHARACTERS_MAX:
        raise InvalidRequestError("This is no name of a subcloud.", param="name")
    return name


async def _json_body(request: Request) -> dict[str, Any]:
    body = await read_body(request, SUBCLOUD_BODY_BYTES_MAX)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    return content


def _bytes(content: dict[str, Any], field: str) -> bytes:
    try:
        return base64.b64decode(content[field], validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise InvalidRequestError(
            f"The body must have a base64 text under `{field}`.", param=field
        ) from error


def _decoded(body: bytes, cls: type[M], field: str) -> M:
    try:
        return decode_message(body, cls)
    except P2PError as error:
        raise InvalidRequestError(f"`{field}` cannot be read: {error}.", param=field) from error


def _base64(body: bytes) -> str:
    return base64.b64encode(body).decode("ascii")
