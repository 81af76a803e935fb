"""Owns how a node's memberships are shown in its status. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from node.observation.subcloud_status import FailedCriterion, SubcloudStatus
from node.subclouds.candidates import Names
from node.subclouds.limits import REASON_CHARACTERS_MAX, SHOWN_MAX
from node.subclouds.membership_rules import Finding, State, show
from p2p.subclouds.grades import HardwareGrade, RegionGrade
from p2p.subclouds.identity import SubcloudId, label_of
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.records import KnownPolicy


def show_findings(
    findings: tuple[Finding, ...],
    names: Names,
    policy_of: Callable[[SubcloudId], KnownPolicy | None],
    troubles: Mapping[str, str],
) -> tuple[SubcloudStatus, ...]:
    """Give the status of each subcloud that the node is in or that its operator named.

    Args: troubles: what went wrong with a name or an ID last (an invite, a request, a look-up).
    """
    shown = [
        _shown(finding, policy_of(finding.identity), troubles.get(finding.identity, ""))
        for finding in findings
    ]
    shown += [
        SubcloudStatus(
            name, "", State.WAITING, troubles.get(name, "the registry was not asked for it yet")
        )
        for name in sorted(names.missing)
    ]
    return tuple(shown[:SHOWN_MAX])


def _shown(finding: Finding, known: KnownPolicy | None, trouble: str) -> SubcloudStatus:
    kept, policy = finding.kept, known.policy if known is not None else None
    reason = "; ".join(part for part in (finding.reason, trouble) if part)
    return SubcloudStatus(
        name=label_of(finding.identity),
        subcloud_id=finding.identity,
        state=finding.state,
        reason=reason[:REASON_CHARACTERS_MAX],
        join=policy.join if policy is not None else "",
        version=policy.version if policy is not None else 0,
        digest=known.digest if known is not None else "",
        joined_ms=kept.membership.joined_ms if kept is not None else 0,
        isolates=kept is not None and kept.membership.isolates,
        certificate_until_ms=finding.certificate_until_ms,
        models=tuple(sorted(digest.hex() for digest in finding.models)),
        failed=tuple(
            FailedCriterion(
                str(verdict.criterion),
                show(verdict.wanted)[:REASON_CHARACTERS_MAX],
                show(verdict.found)[:REASON_CHARACTERS_MAX],
            )
            for verdict in finding.failed
        ),
        others_judge=_others_judge(policy) if policy is not None else (),
    )


def _others_judge(policy: SubcloudPolicy) -> tuple[str, ...]:
    """What a policy asks that this node cannot tell of itself: its gateways judge it."""
    level, trust = policy.service, policy.trust
    asked = (
        (policy.regions.asks and policy.regions.grade > RegionGrade.DECLARED)
        and f"a country that is {policy.regions.evidence}",
        policy.hardware.grade > HardwareGrade.DECLARED
        and f"hardware that is {policy.hardware.evidence}",
        bool(policy.hardware.tokens_per_second_min)
        and f"{policy.hardware.tokens_per_second_min:g} tokens/s",
        bool(trust.reputation_min or trust.jobs_min)
        and f"a reputation of {trust.reputation_min / 100:g} % over {trust.jobs_min} jobs",
        bool(level.first_token_ms_max or level.tokens_per_second_min or level.uptime_min)
        and "the service level",
    )
    return tuple(text for text in asked if text)
