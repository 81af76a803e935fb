"""Owns what a decision about memberships changes: one line of the log for each step. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from node.subclouds.membership_rules import Finding, Kept
from p2p.subclouds.identity import SubcloudId


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the log: the node joined or left a subcloud, or something about it changed."""

    identity: SubcloudId
    what: str
    reason: str = ""


def changes_between(
    before: Mapping[SubcloudId, Kept], findings: Iterable[Finding]
) -> tuple[Change, ...]:
    """What the log says of a decision."""
    found: list[Change] = []
    for finding in findings:
        old, new = before.get(finding.identity), finding.kept
        if old is None and new is None:
            continue
        if old is None and new is not None:
            isolated = "isolated" if new.membership.isolates else ""
            found.append(Change(finding.identity, "joined", isolated))
        elif new is None:
            found.append(Change(finding.identity, "left", finding.reason))
        elif old is not None and new is not None:
            found += _small_changes(finding, old, new)
    return tuple(found)


def _small_changes(finding: Finding, old: Kept, new: Kept) -> list[Change]:
    identity, found = finding.identity, []
    if old.membership.policy_digest != new.membership.policy_digest:
        digest = new.membership.policy_digest.hex()
        found.append(Change(identity, "agreed", f"to the policy {digest[:16]}"))
    if old.membership.isolates != new.membership.isolates:
        found.append(Change(identity, "isolated" if new.membership.isolates else "not isolated"))
    if old.membership.certificate != new.membership.certificate:
        found.append(Change(identity, "certified"))
    if bool(old.unmet_ms) != bool(new.unmet_ms):
        what = "suspended" if new.unmet_ms else "meets the policy again"
        found.append(Change(identity, what, finding.reason))
    return found
