"""Owns which subclouds a node has to judge: from settings, commands, memberships and names. Pure.

A label leads to the subcloud that the registry said when it was first asked: if the registry gives
it to another one later, the node stays with what its operator meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from node.subclouds.kept import KeptState
from node.subclouds.membership_rules import Candidate
from node.subclouds.settings import SubcloudSettings, id_in, is_pattern, matches
from node.subclouds.wishes import Wishes
from p2p.signing import Signed
from p2p.subclouds.evidence_documents import KnownAttestation
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.membership_standing import SubcloudState


@dataclass(slots=True)
class Names:
    """What the operator named: exactly, by pattern, to stay out of, to be isolated for.

    `unresolved`: labels that lead nowhere as far as is known here; `missing`: those of them that
    the operator wants to be a member of.
    """

    named: set[SubcloudId] = field(default_factory=set)
    matched: set[SubcloudId] = field(default_factory=set)
    left: set[SubcloudId] = field(default_factory=set)
    isolate: SubcloudId | None = None
    unresolved: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)


def names_of(
    settings: SubcloudSettings,
    wishes: Wishes,
    labels: Mapping[str, SubcloudId],
    registered: Mapping[SubcloudId, str],
) -> Names:
    """Put together what settings and commands name.

    Args:
        labels: what labels were found to lead to. registered: the registry's labels, for patterns.
    """
    found = Names()

    def of(name: str) -> SubcloudId | None:
        identity = id_in(name) or labels.get(name)
        if identity is None:
            found.unresolved.add(name)
        return identity

    isolate = settings.isolate if wishes.isolate is None else wishes.isolate
    exact = [name for name in settings.auto_join if not is_pattern(name)]
    for name in (*exact, *(name for name, _ in wishes.join), *([isolate] if isolate else [])):
        identity = of(name)
        if identity is not None:
            found.named.add(identity)
    if isolate:
        found.isolate = of(isolate)
    found.missing = set(found.unresolved)
    for name in wishes.left:
        identity = of(name)
        if identity is not None:
            found.left.add(identity)
    for pattern in settings.auto_join:
        found.matched |= {
            identity for identity, label in registered.items() if matches(pattern, label)
        }
    return found


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known around the node's memberships.

    Attributes:
        state_of: policy and revocation list of a subcloud. closed: why nothing may run in one.
        certificates, denied_ms: what its delegates answered this node.
        attestations: what they vouch for.
    """

    state_of: Callable[[SubcloudId], SubcloudState | None]
    closed: Callable[[SubcloudId], str]
    certificates: Mapping[SubcloudId, tuple[Signed, ...]]
    denied_ms: Mapping[SubcloudId, int]
    attestations: tuple[KnownAttestation, ...] = ()


def candidates_of(names: Names, kept: KeptState, around: Surroundings) -> list[Candidate]:
    """Make a candidate of everything that has to be judged."""
    identities = names.named | names.matched | kept.memberships.keys()
    return [
        Candidate(
            identity,
            named=identity in names.named,
            matched=identity in names.matched,
            unwanted=identity in names.left,
            isolate=identity == names.isolate,
            state=around.state_of(identity),
            closed=around.closed(identity),
            kept=kept.memberships.get(identity),
            certificates=around.certificates.get(identity, ()),
            left_ms=kept.left_ms.get(identity, 0),
            denied_ms=around.denied_ms.get(identity, 0),
            attestations=around.attestations,
        )
        for identity in sorted(identities)
    ]
