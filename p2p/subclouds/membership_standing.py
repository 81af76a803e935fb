"""Owns what a membership of a subcloud is worth under its policy now. Pure.

Theory of operation. A membership is the node's word (open) or the node's word with a certificate
(semi-open, private). It counts for as long as everything that it rests on is known and good: the
policy, the statement, the certificate, and a revocation list that is young enough. Whatever is
missing, old or foreign makes it worth nothing, with the reason in `problem`: fail-closed. Time
alone ends it too: `until_ms` is the earliest end of all that it rests on, so that who keeps a
standing need only look at it again then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from p2p.errors import P2PError
from p2p.limits import CLOCK_SKEW_MS_MAX, POLICY_GRACE_S
from p2p.subclouds.facts import Standing
from p2p.subclouds.memberships import (
    Membership,
    MembershipCertificate,
    RevocationList,
    is_revoked,
    open_membership_certificate,
)
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.records import KnownPolicy
from p2p.types import PeerId

GRACE_MS = int(POLICY_GRACE_S * 1000)
REVOKED = "revoked"
TOO_MANY = "members_max"


@dataclass(frozen=True, slots=True)
class SubcloudState:
    """What all memberships of one subcloud are judged by, as one peer knows it.

    Attributes:
        known: the policy in force. previous: the version before, while its grace lasts
            (`PolicyBook.previous`), until previous_until_ms.
        revocations: the newest list. banned: the network's configuration bans the subcloud.
    """

    known: KnownPolicy
    previous: KnownPolicy | None = None
    previous_until_ms: int = 2**62
    revocations: RevocationList | None = None
    banned: bool = False


def isolates_now(state: SubcloudState, now_ms: int) -> bool:
    """Tell whether the consent to leave the global pool for this subcloud has an effect."""
    policy = state.known.policy
    alive = policy.isolate and not policy.ended and policy.expires_ms > now_ms
    return alive and not state.banned


def opened_certificate(
    membership: Membership, policy: SubcloudPolicy, peer_id: PeerId, now_ms: int
) -> MembershipCertificate | None:
    """The certificate of a membership, if a delegate of the policy admits this node by it now."""
    if membership.certificate is None:
        return None
    try:
        return open_membership_certificate(membership.certificate, policy, peer_id, now_ms)
    except P2PError:
        return None


def membership_standing(
    peer_id: PeerId,
    membership: Membership,
    until_ms: int,
    state: SubcloudState,
    *,
    certificate: MembershipCertificate | None = None,
    left_ms: int = 0,
    excess: bool = False,
    denied: str = "",
    now_ms: int,
) -> Standing:
    """Say what a membership is worth.

    Args:
        until_ms: when the node's statement ends.
        certificate: the opened certificate of this membership, if the caller has it.
        left_ms: when the node last left this subcloud or was removed from it; 0: never.
        excess: the subcloud has all the members that it may have without this one.
        denied: why the membership does not count, if the caller knows a reason.
    """
    policy = state.known.policy
    found = Standing(
        until_ms=until_ms,
        isolated=membership.isolates and not state.banned,
        isolated_until_ms=until_ms if membership.isolates else 0,
        cooldown_until_ms=left_ms + policy.cooldown_s * 1000 if left_ms else 0,
    )
    problem = ""
    if policy.join == "open":
        found = _agreed(found, membership, state)
        problem = "" if found.policy_digest else "another policy"
        if state.revocations is not None and peer_id in state.revocations.banned_peers:
            problem = REVOKED
    else:
        if certificate is None:
            certificate = opened_certificate(membership, policy, peer_id, now_ms)
        found, problem = _certified(found, certificate, state, now_ms)
    if state.banned:
        problem = "subcloud is banned"
    problem = problem or denied or (TOO_MANY if excess else "")
    if problem:
        return replace(found, policy_digest="", certified=False, problem=problem)
    return found


def _agreed(found: Standing, membership: Membership, state: SubcloudState) -> Standing:
    """A member of an open subcloud has agreed to the policy, or just now to the one before."""
    digest = membership.policy_digest.hex()
    if digest == state.known.digest:
        return replace(found, policy_digest=digest)
    if state.previous is not None and digest == state.previous.digest:
        until_ms = min(found.until_ms, state.previous_until_ms)
        return replace(found, policy_digest=state.known.digest, until_ms=until_ms)
    return found


def _certified(
    found: Standing,
    certificate: MembershipCertificate | None,
    state: SubcloudState,
    now_ms: int,
) -> tuple[Standing, str]:
    revocations, policy = state.revocations, state.known.policy
    if certificate is None or not certificate.issued_ms <= now_ms + CLOCK_SKEW_MS_MAX:
        return found, "no valid certificate"
    if certificate.expires_ms <= now_ms:
        return found, "certificate expired"
    if revocations is None:
        return found, "no revocation list"
    fresh_until_ms = revocations.issued_ms + policy.revocation_list_age_s_max * 1000
    if fresh_until_ms <= now_ms:
        return found, "revocation list is too old"
    if is_revoked(certificate, revocations):
        return found, REVOKED
    good = replace(
        found,
        certified=True,
        until_ms=min(found.until_ms, certificate.expires_ms, fresh_until_ms),
        models=certificate.models,
        slots_max=certificate.slots_max,
    )
    return good, ""
