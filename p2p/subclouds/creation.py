"""Owns what the network's authority says about a subcloud: banned, and what a name means. Pure."""

from __future__ import annotations

from p2p.errors import MalformedError
from p2p.subcloud_rules import SubcloudRules
from p2p.subclouds.identity import SubcloudId, label_of, parse_subcloud_id


def subcloud_refusal(rules: SubcloudRules, identity: SubcloudId) -> str:
    """Say why nothing may run in a subcloud; empty if the authority has nothing against it."""
    return f"the network's authority has banned {identity}" if identity in rules.banned else ""


def creation_refusal(rules: SubcloudRules, identity: SubcloudId, *, staked: bool = False) -> str:
    """Say why a subcloud may not be created; empty if it may. `staked`: its stake is set aside."""
    if identity in rules.banned:
        return subcloud_refusal(rules, identity)
    if rules.creation == "approval" and identity not in rules.approved:
        return f"subclouds are created with the authority's approval, and {identity} has none"
    if rules.creation == "stake" and not staked:
        return f"creating a subcloud takes a stake of {rules.stake_microcredits} microcredits"
    return ""


def may_take_name(rules: SubcloudRules, identity: SubcloudId) -> bool:
    """Tell whether the registry may give a subcloud its own label."""
    label = label_of(identity)
    assigned = rules.assigned(label)
    return not rules.is_reserved(label) if assigned is None else assigned == identity


def named(rules: SubcloudRules, name: str) -> SubcloudId | None:
    """Say which subcloud a name means without a registry: an ID, or what the authority assigned."""
    try:
        return parse_subcloud_id(name)
    except MalformedError:
        assigned = rules.assigned(name)
        return parse_subcloud_id(assigned) if assigned is not None else None
