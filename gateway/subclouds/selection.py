"""Owns which nodes a job may be offered to: those that qualify where it belongs, and why no others.
Pure but for the registry and the directory that it asks."""

from __future__ import annotations

from collections import Counter

from gateway.errors import GatewayError, NoMemberError, NoNodeError
from gateway.peer.registry import Registry
from gateway.peer.routing import REASONS, Candidate, Choice, Wanted, choose
from gateway.peer.verdicts import Verdicts
from gateway.subclouds.directory import SubcloudDirectory
from gateway.subclouds.explanations import OTHER_MODEL, WORDS
from gateway.subclouds.placing import Place
from p2p.approved_models import ApprovedModel
from p2p.subclouds.evaluation import Criterion
from p2p.subclouds.identity import SubcloudId, label_of
from p2p.subclouds.index import GLOBAL_POOL


def candidates_of(
    registry: Registry, directory: SubcloudDirectory, identity: SubcloudId, model: bytes
) -> list[Candidate]:
    """The nodes that may serve a model in a subcloud (empty: the global pool), and say they do."""
    known = registry.by_model(model)
    return [known[p] for p in directory.qualified(identity, model) if p in known]


def with_fallback(
    place: Place,
    wanted: Wanted,
    registry: Registry,
    directory: SubcloudDirectory,
    *,
    now_s: float,
    now_ms: int,
) -> Place:
    """Send a job to the global pool if its subcloud's policy says so and no member can take it."""
    if place.known is None or place.known.policy.fallback != "global":
        return place
    members = candidates_of(registry, directory, place.identity, wanted.model_digest)
    choice = choose(wanted, members, tried=(), now_s=now_s, now_ms=now_ms)
    return place if choice.candidate is not None else place.fallen_back()


def explain_members(
    place: Place, model: str, removed: Counter[str], choice: Choice, refusals: dict[str, int]
) -> str:
    """Say in one line why no member takes a job; names criteria and numbers, never members.

    Args:
        removed: members by the criterion that keeps them from it (`SubcloudDirectory.removed`).
        choice: what removed those that qualify. refusals: answers of those that were asked.
    """
    label = label_of(place.identity)
    parts = [f"{count} {_criterion(name)}" for name, count in removed.items()]
    parts += [
        f"{count} {REASONS[reason]}"
        for reason, count in choice.removed.items()
        if reason != "tried"
    ]
    parts += [f"{count} answered {code}" for code, count in refusals.items()]
    if not parts:
        return f"The subcloud {label} has no member that serves the model {model} at the moment."
    return (
        f"No member of the subcloud {label} can take this job for {model} now: of those known, "
        f"{', '.join(parts)}."
    )


def _criterion(name: str) -> str:
    return REASONS[name] if name == OTHER_MODEL else WORDS[Criterion(name)]


def nobody_left(
    verdicts: Verdicts,
    place: Place,
    model: ApprovedModel,
    choice: Choice,
    output_began: bool,
    registry: Registry,
    directory: SubcloudDirectory,
) -> GatewayError:
    """The error for a job that no further node takes: why not, without naming any."""
    digest = bytes.fromhex(model.digest)
    if place.known is None:
        known, pool = registry.by_model(digest), directory.qualified(GLOBAL_POOL, digest)
        apart = sum(peer_id not in pool and not c.banned for peer_id, c in known.items())
        removed = {**choice.removed, "isolated": apart} if apart else choice.removed
        return verdicts.nobody_left(model.name, Choice(None, removed), output_began)
    counted = directory.removed(place.identity, digest)
    text = explain_members(place, model.name, counted, choice, dict(verdicts.counts))
    error = verdicts.nobody_left(model.name, choice, output_began, text)
    if not isinstance(error, NoNodeError):
        return error
    return NoMemberError(text, retry_after_s=error.retry_after_s)
