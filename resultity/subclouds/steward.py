"""Owns the steward: it keeps a subcloud's memberships going while its people are away.

Theory of operation. A steward holds a delegate's key and asks a gateway over and over. In each
round, for each subcloud: it reads the policy, publishes the revocation list again well before it is
too old for gateways to go by, renews the certificates of members that qualify, answers requests to
join where it was told to, and logs who joined and left. Whatever it decided is in documents that
it signed and the bootstraps keep; what it must remember itself is little, in one file
(`stewarding`), so that it can be stopped and started anywhere. It takes nobody's membership away: a
certificate of a node that does not qualify is not renewed, and ends.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from p2p.clock import Clock
from p2p.errors import P2PError
from p2p.signing import KeyPair, Signed
from p2p.subclouds.directory_messages import JOINED, KnownJoinRequest
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.memberships import (
    MembershipCertificate,
    is_revoked,
    open_membership_certificate,
)
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.records import KnownPolicy
from p2p.types import PeerId
from resultity.errors import SettingsError
from resultity.subclouds.client import PAGE_DOCUMENTS_MIN, MemberTimes, subject_of
from resultity.subclouds.delegate_desk import DelegateDesk, Limits, SubcloudCalls
from resultity.subclouds.delegate_files import RevocationMemory
from resultity.subclouds.member_view import MemberView, read_candidates
from resultity.subclouds.stewarding import StewardMemory

log = logging.getLogger("resultity.steward")
REISSUE_SHARE = 3
"""A list is published again when a third of its allowed age is over: two more rounds may fail."""
RENEW_SHARE = 3
"""A certificate is renewed when a third of its time is left."""
RENEWALS_INTERVAL_MS = 60_000
RENEWALS_PER_ROUND_MAX = 20
"""A gateway takes 40 documents at once from one address, and five more each second."""
JOIN_PAGES_MAX = 5
TOLD_MAX = 10_000
CANDIDATES_MAX = 200
SERVICE_CRITERIA = frozenset({"first_output", "speed", "uptime", "suspension"})
"""A member that fails these alone is suspended by rule and can return: it is renewed."""


class StewardCalls(SubcloudCalls, Protocol):
    """What a steward asks of a gateway (`resultity.subclouds.client.SubcloudClient`)."""

    def get(self, name: str) -> KnownPolicy:
        """The policy in force."""
        ...

    def certificates(self, subcloud: SubcloudId, signer: KeyPair) -> Sequence[Signed]:
        """The certificates that are kept."""
        ...

    def joins(
        self, subcloud: SubcloudId, signer: KeyPair, after: str = ""
    ) -> Sequence[Mapping[str, Any]]:
        """The log of joins and leaves, after a line's number."""
        ...

    def members(self, subcloud: SubcloudId, signer: KeyPair) -> Sequence[MemberTimes]:
        """Since when nodes are members, or when they left."""
        ...

    def view(
        self, subcloud: SubcloudId, signer: KeyPair, candidates: Sequence[PeerId] = ()
    ) -> Mapping[str, Any]:
        """The owner's view."""
        ...


@dataclass(frozen=True, slots=True)
class StewardRules:
    """What a steward may decide by itself."""

    auto_approve: bool = False
    renew: bool = True
    certificate_lifetime_s: int = 7 * 86_400


@dataclass(slots=True)
class Round:
    """What one round did, for the log and for tests."""

    list_number: int = 0
    renewed: list[PeerId] = field(default_factory=list)
    approved: list[PeerId] = field(default_factory=list)
    joined: list[PeerId] = field(default_factory=list)
    left: list[PeerId] = field(default_factory=list)
    waiting: int = 0


class Steward:
    """Looks after one subcloud. `round` is called again and again; it may raise and go on."""

    def __init__(
        self,
        calls: StewardCalls,
        key: KeyPair,
        name: str,
        rules: StewardRules,
        revocations: RevocationMemory,
        memory: StewardMemory,
        clock_ms: Clock,
    ) -> None:
        """`name`: the subcloud's ID or label."""
        self._calls = calls
        self._key = key
        self._name = name
        self._rules = rules
        self._revocations = revocations
        self._memory = memory
        self._clock_ms = clock_ms
        self._renewals_ms = 0
        self._told: set[tuple[str, str]] = set()

    def round(self) -> Round:
        """Do everything that is due. Raises: ResultityError, P2PError (nothing is lost: again)."""
        known = self._calls.get(self._name)
        policy, now_ms = known.policy, self._clock_ms()
        if self._key.public_key not in policy.delegate_public_keys:
            raise SettingsError(
                f"the policy of {policy.subcloud_id} does not name this delegate's key (any more)"
            )
        done = Round()
        if policy.ended or policy.expires_ms <= now_ms:
            self._tell("policy", "over", "%s: the policy is over: nothing to do", self._name)
            return done
        desk = DelegateDesk(self._calls, self._key, known, self._revocations, self._clock_ms)
        if policy.join != "open" or policy.callers.tokens:  # else nothing rests on a list
            done.list_number = desk.keep_young(REISSUE_SHARE)
        self._log_joins(known, done)
        if policy.join == "open":
            return done
        if self._rules.renew and now_ms >= self._renewals_ms:
            self._renew(desk, done)
        self._answer(desk, desk.requests(), done)
        return done

    # --- members ------------------------------------------------------------------------------
    def _log_joins(self, known: KnownPolicy, done: Round) -> None:
        """Log who joined and left since the last round; what was before the first run is not."""
        last = self._memory.last_join(known.identity)
        number = last or 0
        for _ in range(JOIN_PAGES_MAX):
            events = self._calls.joins(known.identity, self._key, str(number) if number else "")
            for event in events:
                number = max(number, int(event["number"]))
                peer_id, what = PeerId(str(event["peer_id"])), str(event["what"])
                if last is not None:
                    (done.joined if what == JOINED else done.left).append(peer_id)
                    log.info("%s: %s %s", self._name, peer_id, what)
            if len(events) < PAGE_DOCUMENTS_MIN:
                break
        if number != last:
            self._memory.set_last_join(known.identity, number)

    def _renew(self, desk: DelegateDesk, done: Round) -> None:
        """Renew what ends soon, while its node is a member and qualifies; the limits stay."""
        known, now_ms = desk.known, self._clock_ms()
        due = [found for found in self._certificates(known) if self._ends_soon(found, now_ms)]
        if due:
            revocations = desk.newest_list()
            times = self._times(known)
            due = [
                found
                for found in due
                if (entry := times.get(found.peer_id)) is not None
                and not entry.left_ms
                and not (revocations is not None and is_revoked(found, revocations))
            ]
        seen = self._candidates(known, [found.peer_id for found in due[:RENEWALS_PER_ROUND_MAX]])
        for found in due[:RENEWALS_PER_ROUND_MAX]:
            self._renew_one(desk, found, seen.get(found.peer_id), done)
        if len(due) <= RENEWALS_PER_ROUND_MAX:
            self._renewals_ms = now_ms + RENEWALS_INTERVAL_MS

    def _renew_one(
        self, desk: DelegateDesk, found: MembershipCertificate, seen: MemberView | None, done: Round
    ) -> None:
        peer_id = found.peer_id
        if seen is None or not (seen.qualifies or _only_service(seen)):
            lacks = ", ".join(sorted(seen.failed)) if seen is not None else "it is not seen here"
            self._tell(
                peer_id, lacks, "%s: %s is not renewed: %s", self._name, peer_id, lacks or "models"
            )
            return
        length_s = (found.expires_ms - found.issued_ms) // 1000
        lifetime_s = max(self._rules.certificate_lifetime_s, length_s)
        desk.certify(peer_id, Limits(lifetime_s, found.models, found.slots_max))
        done.renewed.append(peer_id)
        log.info("%s: renewed %s", self._name, peer_id)

    def _certificates(self, known: KnownPolicy) -> list[MembershipCertificate]:
        """The newest certificate of each node, by invite or by a delegate."""
        found = []
        for signed in self._calls.certificates(known.identity, self._key):
            peer_id = subject_of(signed)
            try:
                found.append(
                    open_membership_certificate(signed, known.policy, peer_id, self._clock_ms())
                )
            except P2PError:
                continue  # over, or by a delegate of before
        return found

    def _ends_soon(self, found: MembershipCertificate, now_ms: int) -> bool:
        length_ms = min(
            self._rules.certificate_lifetime_s * 1000, found.expires_ms - found.issued_ms
        )
        return (found.expires_ms - now_ms) * RENEW_SHARE <= length_ms

    def _times(self, known: KnownPolicy) -> Mapping[PeerId, MemberTimes]:
        return {entry.peer_id: entry for entry in self._calls.members(known.identity, self._key)}

    def _candidates(
        self, known: KnownPolicy, peers: Sequence[PeerId]
    ) -> Mapping[PeerId, MemberView]:
        """How nodes do as members, whatever certificate they have."""
        found: dict[PeerId, MemberView] = {}
        for first in range(0, len(peers), CANDIDATES_MAX):
            some = peers[first : first + CANDIDATES_MAX]
            found |= read_candidates(self._calls.view(known.identity, self._key, some))
        return found

    # --- requests -----------------------------------------------------------------------------
    def _answer(
        self, desk: DelegateDesk, requests: Sequence[KnownJoinRequest], done: Round
    ) -> None:
        if not requests:
            return
        times: Mapping[PeerId, MemberTimes] = {}
        seen: Mapping[PeerId, MemberView] = {}
        if self._rules.auto_approve:
            times = self._times(desk.known)
            seen = self._candidates(desk.known, [asked.request.peer_id for asked in requests])
        present = {entry.peer_id for entry in times.values() if not entry.left_ms}
        for asked in requests:
            peer_id = asked.request.peer_id
            reason = self._why_not(desk.known.policy, times.get(peer_id), seen.get(peer_id))
            if not reason and len(present | {peer_id}) > desk.known.policy.members_max:
                reason = f"there are {desk.known.policy.members_max} members already"
            if reason:
                done.waiting += 1
                self._tell(peer_id, reason, "%s: %s waits: %s", self._name, peer_id, reason)
                continue
            try:
                desk.certify(peer_id, Limits(self._rules.certificate_lifetime_s))
            except SettingsError as error:  # banned
                self._tell(peer_id, "refused", "%s: %s", self._name, error)
                continue
            present.add(peer_id)
            done.approved.append(peer_id)
            log.info("%s: approved %s (account %s)", self._name, peer_id, asked.account_id)

    def _why_not(
        self, policy: SubcloudPolicy, times: MemberTimes | None, seen: MemberView | None
    ) -> str:
        """Say why a request is left to people, or give an empty text."""
        if not self._rules.auto_approve:
            return "a person decides (members approve)"
        left_ms = times.left_ms if times is not None else 0
        if left_ms and self._clock_ms() < left_ms + policy.cooldown_s * 1000:
            return "it left a short time ago (cooldown)"
        if seen is None:
            return "this gateway does not know the node yet"
        if not seen.qualifies:
            return f"it does not qualify: {', '.join(sorted(seen.failed)) or 'no model'}"
        return ""

    def _tell(self, subject: str, what: str, text: str, *values: object) -> None:
        """Log something once, not in every round."""
        if (subject, what) not in self._told:
            if len(self._told) >= TOLD_MAX:
                self._told.clear()
            self._told.add((subject, what))
            log.info(text, *values)


def _only_service(seen: MemberView) -> bool:
    return bool(seen.failed) and seen.failed <= SERVICE_CRITERIA
