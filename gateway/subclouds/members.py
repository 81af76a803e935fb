"""Owns what a gateway remembers of memberships: certificates that were verified, when nodes joined
and left, and who is beyond a subcloud's number of members. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.limits import LEAVES_REMEMBERED_MAX
from p2p.subclouds.facts import Standing
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.membership_standing import (
    REVOKED,
    TOO_MANY,
    SubcloudState,
    membership_standing,
    opened_certificate,
)
from p2p.subclouds.memberships import KnownMemberships, Membership, MembershipCertificate
from p2p.types import PeerId

DENIED = "says that it is no member"


@dataclass(slots=True)
class Member:
    """One membership of one node.

    Attributes:
        until_ms: when the statement that names it ends.
        joined_ms: since when, as the node says; not before what this gateway knows better.
        certificate: opened, if a delegate (one of `delegates`) admits the node by it.
        excess: the subcloud has all the members that it may have without this one.
        denied_until_ms: the node said lately that it is no member.
        placed: whether it was looked at whether the subcloud has room for it.
    """

    peer_id: PeerId
    membership: Membership
    until_ms: int
    joined_ms: int
    certificate: MembershipCertificate | None = None
    delegates: tuple[str, ...] | None = None
    excess: bool = False
    denied_until_ms: int = 0
    placed: bool = False
    standing: Standing = field(default_factory=Standing)


class Members:
    """All memberships that nodes have stated, by subcloud."""

    def __init__(self, is_known: Callable[[SubcloudId], bool] = lambda identity: True) -> None:
        """Begin without any. `is_known`: whether there is a policy; who leaves nothing is soon
        forgotten."""
        self._is_known = is_known
        self._by_subcloud: dict[SubcloudId, dict[PeerId, Member]] = {}
        self._left: OrderedDict[tuple[SubcloudId, PeerId], int] = OrderedDict()

    def of(self, identity: SubcloudId) -> dict[PeerId, Member]:
        """The members of a subcloud, good or not."""
        return self._by_subcloud.get(identity, {})

    def state(
        self, before: KnownMemberships | None, known: KnownMemberships, now_ms: int
    ) -> set[SubcloudId]:
        """Take a node's newer statement. Returns: the subclouds that it has left by it."""
        statement = known.statement
        peer_id = statement.peer_id
        named = {membership.subcloud_id: membership for membership in statement.memberships}
        old = before.statement.memberships if before is not None else ()
        left = {membership.subcloud_id for membership in old} - named.keys()
        for identity in left:
            # Not when it says: it may date its statement back by an hour, and so its cooldown.
            self.leave(identity, peer_id, now_ms)
        for identity, membership in named.items():
            members = self._by_subcloud.setdefault(identity, {})
            present = members.get(peer_id)
            if present is None:
                # Who is known from before it joined says so at once: it cannot have joined earlier.
                earliest_ms = now_ms if before is not None else 0
                joined_ms = max(membership.joined_ms, earliest_ms)
                members[peer_id] = Member(peer_id, membership, statement.expires_ms, joined_ms)
                continue
            if membership.certificate != present.membership.certificate:
                present.delegates = None
            present.membership, present.until_ms = membership, statement.expires_ms
            present.joined_ms = max(present.joined_ms, membership.joined_ms)
            present.denied_until_ms = 0
        return left

    def leave(self, identity: SubcloudId, peer_id: PeerId, at_ms: int) -> None:
        """A node is no member any more: a cooldown begins."""
        members = self._by_subcloud.get(identity, {})
        members.pop(peer_id, None)
        if not members:
            self._by_subcloud.pop(identity, None)
        self.note_left(identity, peer_id, at_ms)

    def forget(self, identity: SubcloudId, peer_id: PeerId) -> None:
        """A node's statement has expired: nobody knows whether it left."""
        members = self._by_subcloud.get(identity, {})
        members.pop(peer_id, None)
        if not members:
            self._by_subcloud.pop(identity, None)

    def note_left(self, identity: SubcloudId, peer_id: PeerId, at_ms: int) -> None:
        """Remember when a node left a subcloud, or was removed from it."""
        if not self._is_known(identity):
            return
        key = (identity, peer_id)
        self._left[key] = max(at_ms, self._left.get(key, 0))
        self._left.move_to_end(key)
        if len(self._left) > LEAVES_REMEMBERED_MAX:
            self._left.popitem(last=False)

    def left_ms(self, identity: SubcloudId, peer_id: PeerId) -> int:
        """When a node last left a subcloud, or was removed from it; 0: never."""
        return self._left.get((identity, peer_id), 0)

    def judge(self, member: Member, state: SubcloudState, now_ms: int) -> Standing:
        """Say what a membership is worth under its subcloud's policy now."""
        policy, peer_id = state.known.policy, member.peer_id
        if not member.placed:
            # Until places are given anew (`ranked`), who comes when all are taken has none.
            member.placed = True
            member.excess = len(self.of(policy.identity)) > policy.members_max
        if policy.join != "open" and member.delegates != policy.delegate_keys:
            # Signatures are looked at once for each policy's delegates, not for each change.
            member.certificate = opened_certificate(member.membership, policy, peer_id, now_ms)
            if member.certificate is not None:
                member.delegates = policy.delegate_keys
        standing = membership_standing(
            peer_id,
            member.membership,
            member.until_ms,
            state,
            certificate=member.certificate,
            left_ms=self.left_ms(policy.identity, peer_id),
            excess=member.excess,
            denied=DENIED if member.denied_until_ms > now_ms else "",
            now_ms=now_ms,
        )
        revocations = state.revocations
        removed = standing.problem == REVOKED and not self.left_ms(policy.identity, peer_id)
        if removed and revocations is not None:
            # Who was removed and is admitted again stays out for the cooldown, like who left.
            self.note_left(policy.identity, peer_id, revocations.issued_ms)
        member.standing = standing
        return standing


def ranked(members: Iterable[Member], members_max: int) -> list[Member]:
    """Give the members whose place among `members_max` has changed, with their new place.

    Those who joined first are in; memberships that count for nothing take no place.
    """
    good = [member for member in members if member.standing.problem in ("", TOO_MANY)]
    good.sort(key=lambda member: (member.joined_ms, member.peer_id))
    changed = []
    for place, member in enumerate(good):
        excess = place >= members_max
        if member.excess is not excess:
            member.excess = excess
            changed.append(member)
    return changed
