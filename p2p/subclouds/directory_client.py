"""Owns the asking side of the subclouds' directory at a bootstrap."""

from __future__ import annotations

from typing import TypeVar

from p2p.codec import Message, decode_message, decode_messages, encode_message
from p2p.configuration_sync import Asked
from p2p.errors import MalformedError, RefusedError
from p2p.signing import Signed
from p2p.subclouds import directory_messages as calls
from p2p.subclouds.directory_messages import (
    JoinEvent,
    MemberEntry,
    SubcloudPage,
    SubcloudQuestion,
    SubcloudSummary,
)
from p2p.subclouds.policy_evidence import PolicyEvidence
from p2p.subclouds.records import PolicyRecord

M = TypeVar("M", bound=Message)


class SubcloudDirectory:
    """A bootstrap's directory of subclouds. All raise as `Uplink.call`, and MalformedError.

    `name` is a subcloud's ID or its registered label; an unknown one is refused with the code
    `unknown_subcloud`.
    """

    def __init__(self, link: Asked) -> None:
        """Ask over an uplink or a call link."""
        self._link = link

    # --- policies ---------------------------------------------------------------------------------
    async def publish(self, record: PolicyRecord) -> SubcloudSummary:
        """Hand a policy in. Returns: what the bootstrap has now, with the label if it got it."""
        answer = await self._link.call(calls.PUBLISH, encode_message(record))
        return decode_message(answer, SubcloudSummary)

    async def get(self, name: str, version: int = 0) -> tuple[PolicyRecord, Signed | None]:
        """Fetch a policy (the newest, or one version) and the newest revocation list."""
        items = decode_messages(await self._ask(calls.GET, name, version))
        record, *rest = items
        if not isinstance(record, PolicyRecord) or len(rest) > 1:
            raise MalformedError("this is not the answer to a question for a policy")
        revocations = rest[0] if rest else None
        if revocations is not None and not isinstance(revocations, Signed):
            raise MalformedError("this is not a revocation list")
        return record, revocations

    async def page(self, cursor: str = "") -> SubcloudPage:
        """List subclouds in the order of their last change, after a page's cursor."""
        return decode_message(await self._ask(calls.LIST, "", after=cursor), SubcloudPage)

    async def resolve(self, name: str) -> SubcloudSummary:
        """Say which subcloud a label or an ID means."""
        return decode_message(await self._ask(calls.RESOLVE, name), SubcloudSummary)

    async def history(self, name: str, below_version: int = 0) -> list[PolicyRecord]:
        """Fetch the versions, newest first, as many as fit one answer."""
        return _all(await self._ask(calls.HISTORY, name, below_version), PolicyRecord)

    async def evidence(self, name: str = "") -> list[PolicyEvidence]:
        """Fetch what was refused and kept, newest first, as much as fits one answer."""
        return _all(await self._ask(calls.EVIDENCE, name), PolicyEvidence)

    # --- who is in --------------------------------------------------------------------------------
    async def put_revocations(self, signed: Signed) -> None:
        """Hand a delegate's revocation list in."""
        await self._link.call(calls.PUT_REVOCATIONS, encode_message(signed))

    async def revocations(self, name: str) -> Signed | None:
        """Fetch the newest revocation list; None if there is none."""
        answer = await self._ask(calls.GET_REVOCATIONS, name)
        return decode_message(answer, Signed) if answer else None

    async def put_request(self, signed: Signed) -> None:
        """Ask to join (`SubcloudJoinRequest`), or withdraw, as the node that signed it."""
        await self._link.call(calls.PUT_REQUEST, encode_message(signed))

    async def requests(self, signed: Signed) -> list[Signed]:
        """Fetch open requests (`SubcloudRequest`, what="requests"; `after`: a peer ID)."""
        return _all(await self._link.call(calls.LIST_REQUESTS, encode_message(signed)), Signed)

    async def put_certificate(self, signed: Signed) -> None:
        """Hand a delegate's `MembershipCertificate` in, for its node to fetch."""
        await self._link.call(calls.PUT_CERTIFICATE, encode_message(signed))

    async def certificates(self, name: str = "") -> list[Signed]:
        """Fetch the certificates and denials (`JoinDenial`) for us, as a node."""
        return _all(await self._ask(calls.GET_CERTIFICATES, name), Signed)

    async def issued(self, signed: Signed) -> list[Signed]:
        """Fetch the certificates of a subcloud (`SubcloudRequest`, what="certificates")."""
        return _all(await self._link.call(calls.LIST_CERTIFICATES, encode_message(signed)), Signed)

    async def put_denial(self, signed: Signed) -> None:
        """Hand a delegate's `JoinDenial` in, for its node to fetch."""
        await self._link.call(calls.PUT_DENIAL, encode_message(signed))

    # --- memberships ------------------------------------------------------------------------------
    async def tell(self, signed: Signed) -> None:
        """Hand a `MembershipStatement` in (by its node, or by a peer that heard it)."""
        await self._link.call(calls.TELL_MEMBERSHIPS, encode_message(signed))

    async def memberships(self, name: str = "", after: str = "") -> list[Signed]:
        """Fetch live statements, of a subcloud's members or all, in order of peer IDs."""
        return _all(await self._ask(calls.LIST_MEMBERSHIPS, name, after=after), Signed)

    async def members(self, name: str, after: str = "") -> list[MemberEntry]:
        """Fetch since when nodes are members, or when they left, in order of peer IDs."""
        return _all(await self._ask(calls.LIST_MEMBERS, name, after=after), MemberEntry)

    async def joins(self, signed: Signed) -> list[JoinEvent]:
        """Fetch the log of joins (`SubcloudRequest`, what="joins"; `after`: a number)."""
        return _all(await self._link.call(calls.LIST_JOINS, encode_message(signed)), JoinEvent)

    async def _ask(self, method: str, name: str, version: int = 0, *, after: str = "") -> bytes:
        question = SubcloudQuestion(name, version, after)
        return await self._link.call(method, encode_message(question))


def is_unknown(error: RefusedError) -> bool:
    """Tell whether a bootstrap refused because it knows no such subcloud."""
    return error.code == "unknown_subcloud"


def _all(answer: bytes, cls: type[M]) -> list[M]:
    """Read an answer of many messages; an empty one has none. Raises: MalformedError."""
    if not answer:
        return []
    items = decode_messages(answer)
    found = [item for item in items if isinstance(item, cls)]
    if len(found) != len(items):
        raise MalformedError(f"expected {cls.__name__} messages only")
    return found
