"""Owns the command line's way to subclouds: HTTP calls to any gateway, answers verified here.

What a gateway or bootstrap answers is believed only as far as it verifies by itself: records of
policies do (`p2p.subclouds.records`); lists of names are hints. These functions block.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from p2p.clock import Clock, system_clock_ms
from p2p.codec import Message, decode_any_message, decode_message, encode_message
from p2p.errors import MalformedError, P2PError
from p2p.signing import KeyPair, Signed
from p2p.subclouds.identity import SubcloudId, parse_subcloud_id
from p2p.subclouds.invites import InvitedMembership
from p2p.subclouds.memberships import RevocationList, open_revocation_list
from p2p.subclouds.records import KnownPolicy, PolicyRecord, verify_record
from p2p.subclouds.requests import sign_request
from p2p.types import NetworkId, PeerId
from resultity.errors import GatewayCallError
from resultity.http_json import gateway_root, get_json, post_json

M = TypeVar("M", bound=Message)
NOTHING: Mapping[str, Any] = {}
PAGE_DOCUMENTS_MIN = 100
"""A page with fewer is the last one: what fills an answer of the bootstraps is more."""
HTTP_TOO_MANY = 429
FULL_CODES = ("too_many_requests", "too_many_subclouds")
"""Of bootstraps: waiting a few seconds changes nothing."""
RATE_PAUSE_S = 1.0
RATE_PAUSES_MAX = 15
"""A signed request is good for a minute."""
PAGES_MAX = 1000
"""Of a list: a gateway that always says that there is more is not asked for ever."""


@dataclass(frozen=True, slots=True)
class Published:
    """A policy that the bootstraps took. `label`: the registered name, or empty."""

    subcloud_id: SubcloudId
    label: str


@dataclass(frozen=True, slots=True)
class SubcloudSummary:
    """What a list tells of one subcloud (a hint: the record is what counts)."""

    subcloud_id: str
    label: str
    owner: str
    version: int
    digest: str
    join: str
    expires_ms: int
    ended: bool


@dataclass(frozen=True, slots=True)
class MemberTimes:
    """Since when a node is a member, and when it left (0: it did not). Milliseconds since 1970."""

    peer_id: PeerId
    joined_ms: int
    left_ms: int


class SubcloudClient:
    """Asks one gateway about subclouds, and has it carry signed documents to the bootstraps."""

    def __init__(
        self,
        gateway_url: str,
        network: NetworkId,
        clock_ms: Clock = system_clock_ms,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Use the gateway with this base URL (with or without /v1). Raises: SettingsError.

        `pause` waits so many seconds when the gateway finds that we ask too often.
        """
        self._pause = pause
        self._root = gateway_root(gateway_url)
        self._network = network
        self._clock_ms = clock_ms

    # --- public -------------------------------------------------------------------------------
    def publish(self, record: PolicyRecord) -> Published:
        """Publish a version of a policy. Raises: GatewayCallError (the reason, with its code)."""
        answer = self._post("", {"record": _text(record)})
        return Published(SubcloudId(str(answer["id"])), str(answer.get("label", "")))

    def get(self, name: str) -> KnownPolicy:
        """Give the policy in force of a subcloud (ID or registered label), verified.

        Raises: GatewayCallError (code `unknown_subcloud`), UntrustedError, MalformedError.
        """
        answer = self._get(f"/{_quoted(name)}")
        known = verify_record(self._decode(answer.get("record"), PolicyRecord), self._network)
        if name != known.identity and is_subcloud_id(name):
            raise GatewayCallError(f"{self._root} answered with the policy of {known.identity}")
        return known

    def list(self) -> Sequence[SubcloudSummary]:
        """Give all subclouds that the bootstraps know. Raises: GatewayCallError."""
        found: tuple[SubcloudSummary, ...] = ()
        after = ""
        for _ in range(PAGES_MAX):
            answer = self._get(f"?after={_quoted(after)}" if after else "")
            after = str(answer.get("after", ""))
            found += tuple(self._summary(entry) for entry in answer.get("subclouds", ()))
            if not answer.get("more") or not after:
                break
        return found

    def history(self, name: str) -> Sequence[KnownPolicy]:
        """Give the versions of a policy that are kept, newest first, verified.

        Raises: as `get`.
        """
        found: tuple[KnownPolicy, ...] = ()
        for _ in range(PAGES_MAX):
            below = f"?below={found[-1].policy.version}" if found else ""
            page = self._get(f"/{_quoted(name)}/history{below}").get("versions", ())
            records = [self._decode(text, PolicyRecord) for text in page]
            older = tuple(verify_record(record, self._network) for record in records)
            if found:
                older = tuple(k for k in older if k.policy.version < found[-1].policy.version)
            found += older
            if not older or older[-1].policy.version == 1:
                break
        return found

    def evidence(self, name: str) -> Sequence[dict[str, Any]]:
        """Give what is kept about forks and foreign signatures (JSON). Raises: GatewayCallError."""
        return tuple(self._get(f"/{_quoted(name)}/evidence").get("evidence", ()))

    def revocations(self, known: KnownPolicy) -> RevocationList | None:
        """Give the newest revocation list of a subcloud, verified.

        Raises: GatewayCallError, UntrustedError, MalformedError.
        """
        answer = self._get(f"/{_quoted(known.identity)}/revocations")
        text = answer.get("signed")
        if text is None:
            return None
        return open_revocation_list(self._decode(text, Signed), known.policy)

    # --- delegates ----------------------------------------------------------------------------
    def publish_revocations(self, subcloud: SubcloudId, signed: Signed) -> None:
        """Publish a revocation list. Raises: GatewayCallError."""
        self._post(f"/{subcloud}/revocations", {"signed": _text(signed)})

    def certify(self, subcloud: SubcloudId, signed: Signed) -> None:
        """Hand a membership certificate or attestation to its node. Raises: GatewayCallError."""
        self._post(f"/{subcloud}/certificates", {"signed": _text(signed)})

    def deny(self, subcloud: SubcloudId, signed: Signed) -> None:
        """Answer a node's request with no. Raises: GatewayCallError."""
        self._post(f"/{subcloud}/denials", {"signed": _text(signed)})

    def requests(self, subcloud: SubcloudId, signer: KeyPair) -> Sequence[Signed]:
        """Give the join requests that wait (not verified). Raises: GatewayCallError."""
        return self._documents(subcloud, "requests", "requests", signer)

    def certificates(self, subcloud: SubcloudId, signer: KeyPair) -> Sequence[Signed]:
        """Give the certificates that the bootstraps keep (not verified). Raises:
        GatewayCallError."""
        return self._documents(subcloud, "issued", "certificates", signer)

    def joins(
        self, subcloud: SubcloudId, signer: KeyPair, after: str = ""
    ) -> Sequence[dict[str, Any]]:
        """Give the log of joins and leaves (JSON) after a line's number. Raises:
        GatewayCallError."""
        return tuple(self._ask(subcloud, "joins", "joins", signer, after).get("events", ()))

    def all_joins(self, subcloud: SubcloudId, signer: KeyPair) -> Iterator[dict[str, Any]]:
        """Go through the whole log of joins and leaves. Raises: GatewayCallError."""
        after, number = "", 0
        for _ in range(PAGES_MAX):
            page = [_event(event) for event in self.joins(subcloud, signer, after)]
            yield from page
            number = max([number, *[event["number"] for event in page]])
            if len(page) < PAGE_DOCUMENTS_MIN or after == str(number):
                break
            after = str(number)

    def members(self, subcloud: SubcloudId, signer: KeyPair) -> Sequence[MemberTimes]:
        """Give since when nodes are members, or when they left, as the bootstraps saw it.

        Raises: GatewayCallError.
        """
        found: tuple[MemberTimes, ...] = ()
        for _ in range(PAGES_MAX):
            after = found[-1].peer_id if found else ""
            page = self._ask(subcloud, "members", "members", signer, after).get("members", ())
            found += tuple(self._times(entry) for entry in page)
            if len(page) < PAGE_DOCUMENTS_MIN:
                break
        return found

    def view(
        self, subcloud: SubcloudId, signer: KeyPair, candidates: Sequence[PeerId] = ()
    ) -> dict[str, Any]:
        """Give the owner's view of this gateway, and how nodes that are no members would do.

        Raises: GatewayCallError.
        """
        more = {"candidates": [*candidates]} if candidates else {}
        return self._ask(subcloud, "view", "view", signer, more=more)

    # --- inside -------------------------------------------------------------------------------
    def _documents(
        self, subcloud: SubcloudId, path: str, what: str, signer: KeyPair
    ) -> Sequence[Signed]:
        found: tuple[Signed, ...] = ()
        after = ""
        for _ in range(PAGES_MAX):
            answer = self._ask(subcloud, path, what, signer, after)
            page = tuple(self._decode(text, Signed) for text in answer.get("documents", ()))
            found += page
            if len(page) < PAGE_DOCUMENTS_MIN:
                break
            after = subject_of(page[-1])
        return found

    def _ask(
        self,
        subcloud: SubcloudId,
        path: str,
        what: str,
        signer: KeyPair,
        after: str = "",
        more: Mapping[str, Any] = NOTHING,
    ) -> dict[str, Any]:
        signed = sign_request(signer, self._network, subcloud, what, self._clock_ms(), after)
        return self._post(f"/{subcloud}/{path}", {"signed": _text(signed), **more})

    def _get(self, path: str) -> dict[str, Any]:
        url = f"{self._root}/resultity/v1/subclouds{path}"
        return self._checked(self._patiently(lambda: get_json(url)))

    def _post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        url = f"{self._root}/resultity/v1/subclouds{path}"
        return self._checked(self._patiently(lambda: post_json(url, content)))

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """Call again, a little later, while the gateway refuses because of our rate."""
        for _ in range(RATE_PAUSES_MAX):
            try:
                return call()
            except GatewayCallError as error:
                if error.status != HTTP_TOO_MANY or error.code in FULL_CODES:
                    raise
            self._pause(RATE_PAUSE_S)
        return call()

    def _checked(self, answer: Any) -> dict[str, Any]:
        if not isinstance(answer, dict):
            raise self._unreadable()
        return answer

    def _decode(self, text: Any, cls: type[M]) -> M:
        try:
            return decode_message(base64.b64decode(text, validate=True), cls)
        except (TypeError, ValueError, binascii.Error, P2PError) as error:
            raise self._unreadable() from error

    def _summary(self, entry: Any) -> SubcloudSummary:
        try:
            return SubcloudSummary(
                str(entry["id"]),
                str(entry["label"]),
                str(entry["owner"]),
                int(entry["version"]),
                str(entry["digest"]),
                str(entry["join"]),
                int(entry["expires_ms"]),
                bool(entry["ended"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._unreadable() from error

    def _times(self, entry: Any) -> MemberTimes:
        try:
            peer_id = PeerId(str(entry["peer_id"]))
            return MemberTimes(peer_id, int(entry["joined_ms"]), int(entry["left_ms"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._unreadable() from error

    def _unreadable(self) -> GatewayCallError:
        return GatewayCallError(f"{self._root} gave an answer that cannot be read")


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _text(document: Message) -> str:
    return base64.b64encode(encode_message(document)).decode("ascii")


def subject_of(signed: Signed) -> PeerId:
    """Give the node that a request, certificate or membership by invite says it is about."""
    document = decode_any_message(signed.body)
    if isinstance(document, InvitedMembership):
        document = decode_any_message(document.use.body)
    return PeerId(str(getattr(document, "peer_id", "")))


def is_subcloud_id(text: str) -> bool:
    """Tell whether a text has the form of a subcloud's ID."""
    try:
        parse_subcloud_id(text)
    except MalformedError:
        return False
    return True


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {
            "number": int(event["number"]),
            "at_ms": int(event["at_ms"]),
            "peer_id": str(event["peer_id"]),
            "what": str(event["what"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise GatewayCallError("the gateway's log of joins cannot be read") from error
