"""Owns the rules of a node's memberships: what it joins, keeps, asks for and leaves. Pure.

Theory of operation. For each subcloud that the operator wants, or that the node is in, the same
evaluation runs that every gateway runs (`p2p.subclouds.evaluation`), over what the node knows of
itself. What only others can tell (reputation, service level, how well its country or hardware is
proved) is not judged here: the node joins, and the gateways decide whether they send it work.

A member that does not meet its policy for a reason that may pass (a model that is loading, a
certificate or revocation list that is late) is suspended by itself: it takes no jobs there, and
leaves after a grace. Every other reason makes it leave at once. Whoever left stays out for the
policy's cooldown. Isolation needs a consent that names the subcloud exactly: without it a policy
that isolates is neither joined nor kept.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

from node.agent.schedule import show_moment
from node.subclouds.limits import RENEW_LEFT_SHARE, UNMET_GRACE_S
from p2p.limits import MEMBERSHIP_LIFETIME_S, MEMBERSHIPS_PER_NODE_MAX
from p2p.signing import Signed
from p2p.subclouds.evaluation import NEVER_MS, Criterion, Verdict, evaluate, serves_model
from p2p.subclouds.evidence import with_attestations
from p2p.subclouds.evidence_documents import KnownAttestation
from p2p.subclouds.facts import NodeFacts, Standing
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.membership_standing import (
    SubcloudState,
    isolates_now,
    membership_standing,
    opened_certificate,
)
from p2p.subclouds.memberships import Membership, MembershipCertificate, is_revoked
from p2p.subclouds.records import KnownPolicy
from p2p.types import PeerId

OTHERS_JUDGE = frozenset(
    {
        Criterion.REPUTATION,
        Criterion.FIRST_OUTPUT,
        Criterion.SPEED,
        Criterion.UPTIME,
        Criterion.SUSPENSION,
    }
)
MAY_PASS = frozenset(
    {
        Criterion.POLICY,  # an expired one; one that has ended is asked before
        Criterion.MEMBERSHIP,
        Criterion.GPU,  # known once a model is loaded
        Criterion.CAPACITY,
        Criterion.MODELS,
    }
)
_LIST_LATE = frozenset({"no revocation list", "revocation list is too old"})
"""The owner's to mend: nobody has to leave for it."""
_GRACE_MS = int(UNMET_GRACE_S * 1000)


class State(enum.StrEnum):
    """Where this node stands as to a subcloud."""

    MEMBER = "member"
    SUSPENDED = "suspended"
    ASKING = "asking"
    WAITING = "waiting"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class Kept:
    """A membership as the node keeps it; `unmet_ms`: since when it does not meet the policy."""

    membership: Membership
    unmet_ms: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subcloud that the node is in, or that its operator has something to say about.

    Attributes:
        named: the operator names it exactly. matched: a pattern does.
        unwanted: the operator left it by a command. isolate: the operator consents to isolation.
        state: its policy and revocation list; None: not known (yet).
        closed: why nothing runs there by the network's configuration, or empty.
        kept: the membership, if the node is a member.
        certificates: what delegates (or invites) gave this node for it.
        left_ms: when the node left it last; 0: never. denied_ms: until when it need not ask again.
        attestations: what delegates, of this one or others, vouch for.
    """

    identity: SubcloudId
    named: bool = False
    matched: bool = False
    unwanted: bool = False
    isolate: bool = False
    state: SubcloudState | None = None
    closed: str = ""
    kept: Kept | None = None
    certificates: tuple[Signed, ...] = ()
    left_ms: int = 0
    denied_ms: int = 0
    attestations: tuple[KnownAttestation, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What follows for one subcloud.

    Attributes:
        kept: the membership from now on; None: none.
        ask: the node asks a delegate for a certificate (a first one, or the next).
        models: digests that it may serve there (none while it is not a plain member).
        failed: the verdicts against it. until_ms: when time alone may change this.
        certificate_until_ms: when its certificate ends; 0: it has none. slots_max: as that says.
    """

    identity: SubcloudId
    state: State
    reason: str
    kept: Kept | None = None
    ask: bool = False
    models: frozenset[bytes] = frozenset()
    failed: tuple[Verdict, ...] = ()
    until_ms: int = NEVER_MS
    certificate_until_ms: int = 0
    slots_max: int = 0


def decide(candidates: Iterable[Candidate], facts: NodeFacts, now_ms: int) -> tuple[Finding, ...]:
    """Say what becomes of each subcloud; those that are named first, then members, then by ID.

    At most MEMBERSHIPS_PER_NODE_MAX memberships, at most one of them isolating. Strangers may found
    as many subclouds as a pattern matches: these take no place from what the operator names.
    """
    order = sorted(candidates, key=lambda c: (not c.named, c.kept is None, c.identity))
    findings: list[Finding] = []
    count, isolating = 0, False
    for candidate in order:
        finding = judge(candidate, facts, now_ms)
        kept = finding.kept
        if kept is not None:
            isolates = kept.membership.isolates
            if count >= MEMBERSHIPS_PER_NODE_MAX or (isolates and isolating):
                reason = "the node is isolated for another subcloud"
                if not (isolates and isolating):
                    reason = f"a node has at most {MEMBERSHIPS_PER_NODE_MAX} memberships"
                finding = Finding(candidate.identity, State.OUT, reason)
            else:
                count += 1
                isolating = isolating or isolates
        findings.append(finding)
    return tuple(findings)


def judge(candidate: Candidate, facts: NodeFacts, now_ms: int) -> Finding:
    """Say what becomes of one subcloud, whatever becomes of the others."""
    unwanted = _unwanted(candidate, facts)
    if unwanted:
        return Finding(candidate.identity, State.OUT, unwanted)
    state, kept = candidate.state, candidate.kept
    if state is None:  # nothing runs there meanwhile
        waits = State.SUSPENDED if kept is not None else State.WAITING
        return Finding(candidate.identity, waits, "its policy is not known yet", kept)
    policy = state.known.policy
    if policy.ended:
        return Finding(candidate.identity, State.OUT, "the subcloud has ended")
    if policy.join != "open" and kept is None and not candidate.named:
        reason = f"it is {policy.join}: a pattern does not ask, name it exactly"
        return Finding(candidate.identity, State.OUT, reason)
    look = _look(candidate, state, facts, now_ms)
    if look.problem == "revoked":
        return Finding(candidate.identity, State.OUT, "its owner revoked the membership")
    lasting = [v for v in look.failed if v.criterion not in MAY_PASS]
    if lasting:
        return Finding(
            candidate.identity,
            State.OUT,
            _why(lasting[0], state.known),
            failed=look.failed,
            until_ms=look.until_ms,
        )
    if kept is None:
        return _outside(candidate, state, look, now_ms)
    return _inside(candidate, kept, state, look, now_ms)


def _unwanted(candidate: Candidate, facts: NodeFacts) -> str:
    if candidate.unwanted:
        return "the operator left it"
    if not candidate.named and not candidate.matched:
        return "the settings do not name it (any more)"
    if candidate.closed:
        return candidate.closed
    if facts.banned:
        return "the network has banned this node"
    return ""


# --- the look at one policy ----------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Look:
    membership: Membership
    certificate: MembershipCertificate | None
    problem: str
    failed: tuple[Verdict, ...]
    models: frozenset[bytes]
    until_ms: int


def _look(candidate: Candidate, state: SubcloudState, facts: NodeFacts, now_ms: int) -> _Look:
    """Evaluate the node as the member that it is, or would be."""
    known, kept = state.known, candidate.kept
    signed, certificate = _best_certificate(candidate, known, facts.peer_id, now_ms)
    membership = Membership(
        candidate.identity,
        bytes.fromhex(known.digest),
        kept.membership.joined_ms if kept is not None else now_ms,
        candidate.isolate and isolates_now(state, now_ms),
        signed,
    )
    standing = membership_standing(
        facts.peer_id,
        membership,
        now_ms + int(MEMBERSHIP_LIFETIME_S * 1000),
        state,
        certificate=certificate,
        left_ms=0 if kept is not None else candidate.left_ms,
        now_ms=now_ms,
    )
    # Its own statement is made again long before it ends: that changes nothing.
    standing = replace(standing, until_ms=_lasts(certificate, state))
    standing = with_attestations(
        standing, known.policy, candidate.attestations, now_ms, state.revocations
    )
    evaluation = evaluate(known.policy, known.digest, replace(facts, standing=standing), now_ms)
    failed = tuple(v for v in evaluation.failed if v.criterion not in OTHERS_JUDGE)
    return _Look(
        membership,
        certificate,
        standing.problem,
        failed,
        _models(known, facts, standing, now_ms) if not failed else frozenset(),
        evaluation.until_ms,
    )


def _models(
    known: KnownPolicy, facts: NodeFacts, standing: Standing, now_ms: int
) -> frozenset[bytes]:
    policy = known.policy
    return frozenset(m.digest for m in facts.models if serves_model(policy, m, standing, now_ms))


def _best_certificate(
    candidate: Candidate, known: KnownPolicy, peer_id: PeerId, now_ms: int
) -> tuple[Signed | None, MembershipCertificate | None]:
    """The certificate that holds longest and is not revoked; a revoked one if there is no other."""
    if known.policy.join == "open":
        return None, None
    kept = candidate.kept
    found: list[tuple[bool, int, Signed, MembershipCertificate]] = []
    own = (kept.membership.certificate,) if kept is not None else ()
    for signed in dict.fromkeys((*own, *candidate.certificates)):
        if signed is None:
            continue
        membership = Membership(candidate.identity, bytes(32), 0, certificate=signed)
        opened = opened_certificate(membership, known.policy, peer_id, now_ms)
        if opened is not None:
            good = not _is_revoked(opened, candidate.state)
            found.append((good, opened.expires_ms, signed, opened))
    if not found:
        return None, None
    _, _, signed, opened = max(found, key=lambda item: item[:2])
    return signed, opened


def _is_revoked(certificate: MembershipCertificate, state: SubcloudState | None) -> bool:
    revocations = state.revocations if state is not None else None
    return revocations is not None and is_revoked(certificate, revocations)


def _lasts(certificate: MembershipCertificate | None, state: SubcloudState) -> int:
    ends = [NEVER_MS]
    if certificate is not None:
        ends.append(certificate.expires_ms)
        if state.revocations is not None:
            age_ms = state.known.policy.revocation_list_age_s_max * 1000
            ends.append(state.revocations.issued_ms + age_ms)
    return min(ends)


# --- in and out ---------------------------------------------------------------------------------
def _outside(candidate: Candidate, state: SubcloudState, look: _Look, now_ms: int) -> Finding:
    policy, identity = state.known.policy, candidate.identity
    failed = tuple(v for v in look.failed if not _is_late_list(v, look))
    if policy.join != "open" and look.certificate is None:
        others = [v for v in failed if v.criterion is not Criterion.MEMBERSHIP]
        if others:
            reason = _why(others[0], state.known)
            return Finding(identity, State.WAITING, reason, failed=failed, until_ms=look.until_ms)
        if policy.join == "private":
            return Finding(identity, State.WAITING, "it needs an invitation", failed=failed)
        if candidate.denied_ms > now_ms:
            reason = "its owner denied the request"
            return Finding(identity, State.WAITING, reason, until_ms=candidate.denied_ms)
        return Finding(identity, State.ASKING, "its owner has to approve", ask=True, failed=failed)
    if failed:
        reason = _why(failed[0], state.known)
        return Finding(identity, State.WAITING, reason, failed=failed, until_ms=look.until_ms)
    return _inside(candidate, Kept(look.membership), state, look, now_ms)


def _inside(
    candidate: Candidate, kept: Kept, state: SubcloudState, look: _Look, now_ms: int
) -> Finding:
    certificate = look.certificate
    ends_ms = certificate.expires_ms if certificate is not None else 0
    ask, ask_ms = _renewal(certificate, state.known, candidate.denied_ms, now_ms)
    if not look.failed:
        return Finding(
            candidate.identity,
            State.MEMBER,
            "",
            Kept(look.membership),
            ask,
            look.models,
            until_ms=min(look.until_ms, ask_ms),
            certificate_until_ms=ends_ms,
            slots_max=certificate.slots_max if certificate is not None else 0,
        )
    reason = _why(look.failed[0], state.known)
    late_list = all(_is_late_list(verdict, look) for verdict in look.failed)
    since_ms = kept.unmet_ms or now_ms
    leave_ms = NEVER_MS if late_list else since_ms + _GRACE_MS
    if leave_ms <= now_ms:
        return Finding(candidate.identity, State.OUT, reason, failed=look.failed)
    # It goes on to name the version that it last agreed to, and consents to no more than before.
    membership = replace(
        kept.membership,
        isolates=kept.membership.isolates and look.membership.isolates,
        certificate=look.membership.certificate or kept.membership.certificate,
    )
    return Finding(
        candidate.identity,
        State.SUSPENDED,
        reason,
        Kept(membership, 0 if late_list else since_ms),
        ask,
        failed=look.failed,
        until_ms=min(look.until_ms, leave_ms, ask_ms),
        certificate_until_ms=ends_ms,
    )


def _renewal(
    certificate: MembershipCertificate | None, known: KnownPolicy, denied_ms: int, now_ms: int
) -> tuple[bool, int]:
    """Whether to ask for the next certificate, or when."""
    if known.policy.join == "open":
        return False, NEVER_MS
    if denied_ms > now_ms:
        return False, denied_ms
    if certificate is None:
        return True, NEVER_MS
    life_ms = certificate.expires_ms - certificate.issued_ms
    due_ms = certificate.expires_ms - life_ms // RENEW_LEFT_SHARE
    return due_ms <= now_ms, due_ms if due_ms > now_ms else NEVER_MS


def _is_late_list(verdict: Verdict, look: _Look) -> bool:
    return verdict.criterion is Criterion.MEMBERSHIP and look.problem in _LIST_LATE


def _why(verdict: Verdict, known: KnownPolicy) -> str:
    if verdict.criterion is Criterion.ISOLATION:
        return "it isolates its members, and the operator did not consent to that"
    if verdict.criterion is Criterion.COOLDOWN:
        until = show_moment(verdict.found) if isinstance(verdict.found, int) else ""
        return f"its cooldown of {known.policy.cooldown_s} s lasts until {until}"
    return f"{verdict.criterion}: wanted {show(verdict.wanted)}, found {show(verdict.found)}"


def show(value: object) -> str:
    """A value of a verdict for people."""
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, tuple | list):
        return "(" + ", ".join(show(item) for item in value) + ")"
    return str(value)
