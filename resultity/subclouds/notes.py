"""Owns what is said about a policy that is allowed but hardly meant. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from p2p.subclouds.policy import SubcloudPolicy


def notes_about(policy: SubcloudPolicy) -> Iterator[str]:
    """Give a line for each."""
    callers = policy.callers
    named = callers.accounts or callers.namespaces or callers.keys or callers.tokens
    if not policy.ended and not callers.anyone and not named:
        yield "nobody may send requests here: give `callers`"
    if policy.regions.evidence != "declared" and not policy.regions.asks:
        yield "regions.evidence asks nothing without `allow` or `deny`"
    floor = policy.hardware
    asks = floor.gpu or floor.memory_bytes_min or floor.tokens_per_second_min
    if floor.evidence != "declared" and not asks:
        yield "hardware.evidence asks nothing without a floor"
    if floor.evidence == "benchmarked" and asks and not floor.tokens_per_second_min:
        yield (
            "hardware.evidence: a benchmark shows a speed; give tokens_per_second_min, without it "
            "no GPU and no memory counts as benchmarked, and nobody qualifies"
        )
    attested = policy.regions.asks and policy.regions.evidence == "attested"
    if (attested or (asks and floor.evidence == "attested")) and not policy.delegate_keys:
        yield "evidence: nobody can attest without delegate_keys"
    ceilings = policy.price
    for model in policy.models.own:
        pairs = (
            ("input", model.input_microcredits_per_million_tokens,
             ceilings.input_microcredits_per_million_tokens_max),
            ("output", model.output_microcredits_per_million_tokens,
             ceilings.output_microcredits_per_million_tokens_max),
        )  # fmt: skip
        for name, price, ceiling in pairs:
            if ceiling is not None and price > ceiling:
                yield f"models.own: {model.name} costs more than price.{name}_max: never served"
    if policy.isolate and policy.fallback == "global":
        yield "isolate keeps members out of the global pool; fallback still sends requests there"
