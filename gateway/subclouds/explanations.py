"""Owns why members of a subcloud do not qualify: counted by criterion, never who. Pure.

Counting looks at every member, so what was counted serves for a second: a client that is refused
again and again costs no more than one that is served.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Mapping

from gateway.limits import EXPLANATION_CACHE_S, EXPLANATIONS_CACHED_MAX
from p2p.subclouds.evaluation import Criterion, Evaluation
from p2p.subclouds.identity import SubcloudId
from p2p.types import PeerId

WORDS = {
    Criterion.POLICY: "are under a policy that is not in force",
    Criterion.BAN: "are shut out by the network's configuration",
    Criterion.MEMBERSHIP: "have no valid membership at the moment",
    Criterion.ISOLATION: "have not left the global pool, as the policy asks",
    Criterion.COOLDOWN: "left lately and stay out for the policy's cooldown",
    Criterion.SUSPENSION: "are suspended for missing the service level",
    Criterion.REGION: "have no sufficient evidence of an allowed region",
    Criterion.MEMORY: "have too little memory, or too little evidence of it",
    Criterion.GPU: "have no sufficient GPU, or too little evidence of it",
    Criterion.REPUTATION: "have too little reputation",
    Criterion.FIRST_OUTPUT: "begin their answers too late",
    Criterion.SPEED: "are too slow",
    Criterion.UPTIME: "were away too often",
    Criterion.CAPACITY: "have too few slots",
    Criterion.DATA: "do not promise to store no content",
    Criterion.MODELS: "serve other models than the policy admits",
}
"""How a refusal words that a criterion removed members."""
OTHER_MODEL = "other_model"


def count_removed(
    evaluations: Mapping[PeerId, Evaluation], good: Container[PeerId]
) -> Counter[str]:
    """Count members by the first criterion that they fail; those that qualify, but for other
    models, by `other_model`."""
    counts: Counter[str] = Counter()
    for peer_id, evaluation in evaluations.items():
        if peer_id not in good:
            failed = next((v.criterion for v in evaluation.verdicts if not v.passed), None)
            counts[failed.value if failed is not None else OTHER_MODEL] += 1
    return counts


class Explanations:
    """Counts, and remembers for a moment."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        """Begin with nothing counted."""
        self._clock_ms = clock_ms
        self._counted: OrderedDict[tuple[SubcloudId, bytes], tuple[int, Counter[str]]] = (
            OrderedDict()
        )

    def of(
        self,
        identity: SubcloudId,
        model: bytes,
        evaluations: Callable[[], Mapping[PeerId, Evaluation]],
        good: Container[PeerId],
    ) -> Counter[str]:
        """Give the counts for one model of one subcloud."""
        now_ms, key = self._clock_ms(), (identity, model)
        at_ms, counts = self._counted.get(key, (0, Counter()))
        if not 0 <= now_ms - at_ms < EXPLANATION_CACHE_S * 1000:
            counts = count_removed(evaluations(), good)
            self._counted[key] = (now_ms, counts)
            if len(self._counted) > EXPLANATIONS_CACHED_MAX:
                self._counted.popitem(last=False)
        return counts

    def clear(self) -> None:
        """A policy is new: count again."""
        self._counted.clear()
