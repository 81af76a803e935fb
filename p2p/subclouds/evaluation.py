"""Owns the evaluation of a policy for a node: each criterion's verdict, and what it rests on. Pure.

Theory of operation. The same function runs wherever a decision is made: at the node before it
joins, at every gateway before it routes, in the owner's view. Each criterion gives one verdict with
the values behind it; a node qualifies for a model if all verdicts about the node pass and the model
itself is admitted. Whatever is not known fails, with one stated exception: the service level is a
promise, not an entrance test, so a member is judged by it only after enough of its jobs were seen.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from p2p.network_configuration import ApprovedModel
from p2p.subclouds.facts import Hardware, NodeFacts, OfferedModel, Region, Standing
from p2p.subclouds.grades import HardwareGrade, RegionGrade, quantisation_bits
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.policy_rules import GpuFloor

MODALITY_DEFAULT = "text"
NEVER_MS = 2**62
REPUTATION_GATEWAYS_MIN = 2
"""Fewer could be one operator's word about itself."""


class Criterion(enum.StrEnum):
    """What a node is judged by; the order is that of the verdicts."""

    POLICY = "policy"
    BAN = "ban"
    MEMBERSHIP = "membership"
    ISOLATION = "isolation"
    COOLDOWN = "cooldown"
    SUSPENSION = "suspension"
    REGION = "region"
    MEMORY = "memory"
    GPU = "gpu"
    REPUTATION = "reputation"
    FIRST_OUTPUT = "first_output"
    SPEED = "speed"
    UPTIME = "uptime"
    CAPACITY = "capacity"
    DATA = "data"
    MODELS = "models"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One criterion: whether it passed, what was asked, what was found."""

    criterion: Criterion
    passed: bool
    wanted: object
    found: object


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All verdicts about a node under a policy, and the models it may serve here."""

    verdicts: tuple[Verdict, ...]
    models: tuple[bytes, ...]
    """Digests; empty unless the node qualifies."""
    until_ms: int
    """The next moment at which time alone may change this."""

    @property
    def qualifies(self) -> bool:
        """Whether the node may serve anything here."""
        return bool(self.models)

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The verdicts that keep it out."""
        return tuple(verdict for verdict in self.verdicts if not verdict.passed)


def evaluate(policy: SubcloudPolicy, digest: str, node: NodeFacts, now_ms: int) -> Evaluation:
    """Judge a node by a policy (`digest`: the policy's, in hex).

    Only criteria that the policy asks for appear, beside those that always do.
    """
    verdicts = [
        _policy(policy, now_ms),
        Verdict(Criterion.BAN, not node.banned, "not banned", "banned" if node.banned else "-"),
        *_standing(policy, digest, node, now_ms),
        *_region(policy, node, now_ms),
        *_hardware(policy, node, now_ms),
        *_conduct(policy, node),
    ]
    standing = node.standing
    models = tuple(m.digest for m in node.models if serves_model(policy, m, standing, now_ms))
    verdicts += _capacity(policy, node, models)
    found = f"{len(models)} of {len(node.models)}"
    verdicts.append(Verdict(Criterion.MODELS, bool(models), "at least one that is admitted", found))
    good = all(verdict.passed for verdict in verdicts)
    return Evaluation(tuple(verdicts), models if good else (), _next_change(policy, node, now_ms))


def _next_change(policy: SubcloudPolicy, node: NodeFacts, now_ms: int) -> int:
    standing = node.standing
    times = [
        policy.expires_ms,
        standing.until_ms,
        standing.isolated_until_ms,
        standing.suspended_until_ms,
        standing.cooldown_until_ms,
        *[region.until_ms for region in (*node.regions, *standing.regions)],
        *[hardware.until_ms for hardware in (*node.hardware, *standing.hardware)],
        *[speed.until_ms for speed in standing.speeds],
    ]
    return min((time_ms for time_ms in times if time_ms > now_ms), default=NEVER_MS)


# --- the policy and the membership ------------------------------------------------------------
def _policy(policy: SubcloudPolicy, now_ms: int) -> Verdict:
    if policy.ended:
        return Verdict(Criterion.POLICY, False, "in force", "ended")
    over = policy.expires_ms <= now_ms
    return Verdict(Criterion.POLICY, not over, "in force", "expired" if over else "in force")


def _standing(policy: SubcloudPolicy, digest: str, node: NodeFacts, now_ms: int) -> list[Verdict]:
    standing = node.standing
    verdicts = [_membership(policy, digest, node, now_ms)]
    if policy.isolate:
        verdicts.append(
            Verdict(Criterion.ISOLATION, standing.isolated, "consent", standing.isolated)
        )
    if standing.cooldown_until_ms:
        rested = standing.cooldown_until_ms <= now_ms
        verdicts.append(Verdict(Criterion.COOLDOWN, rested, "over", standing.cooldown_until_ms))
    if standing.suspended_until_ms:
        back = standing.suspended_until_ms <= now_ms
        verdicts.append(Verdict(Criterion.SUSPENSION, back, "over", standing.suspended_until_ms))
    return verdicts


def _membership(policy: SubcloudPolicy, digest: str, node: NodeFacts, now_ms: int) -> Verdict:
    standing = node.standing
    alive = standing.until_ms > now_ms
    if policy.join == "open":
        good = alive and standing.policy_digest == digest
        agreed = standing.policy_digest or standing.problem or "none"
        return Verdict(Criterion.MEMBERSHIP, good, digest, agreed)
    found = "certificate" if standing.certified else standing.problem or "none"
    return Verdict(Criterion.MEMBERSHIP, alive and standing.certified, "certificate", found)


# --- region and hardware ------------------------------------------------------------------------
def _region(policy: SubcloudPolicy, node: NodeFacts, now_ms: int) -> list[Verdict]:
    rules = policy.regions
    if not rules.asks:
        return []
    grade, regions = rules.grade, (*node.regions, *node.standing.regions)
    good = [r for r in regions if r.grade >= grade and r.until_ms > now_ms]
    countries = {region.country for region in good}
    # Every country that is supported well enough must do: two that contradict each other do not.
    passed = bool(countries) and not countries & set(rules.deny)
    if rules.allow:
        passed = passed and countries <= set(rules.allow)
    wanted = (rules.allow, rules.deny, grade)
    return [Verdict(Criterion.REGION, passed, wanted, _shown(regions))]


def _shown(regions: tuple[Region, ...]) -> tuple[tuple[str, RegionGrade], ...]:
    return tuple((region.country, region.grade) for region in regions)


def _hardware(policy: SubcloudPolicy, node: NodeFacts, now_ms: int) -> list[Verdict]:
    floor = policy.hardware
    if not floor.memory_bytes_min and floor.gpu is None:
        return []
    grade, known = floor.grade, (*node.hardware, *node.standing.hardware)
    good = [h for h in known if h.grade >= grade and h.until_ms > now_ms]
    verdicts = []
    if floor.memory_bytes_min:
        most = max((hardware.memory_bytes for hardware in good), default=0)
        passed = most >= floor.memory_bytes_min
        verdicts.append(Verdict(Criterion.MEMORY, passed, floor.memory_bytes_min, most))
    if floor.gpu is not None:
        passed = any(_has_gpu(hardware, floor.gpu) for hardware in good)
        found = tuple(gpu for hardware in good for gpu in hardware.gpus)
        verdicts.append(Verdict(Criterion.GPU, passed, floor.gpu, found))
    return verdicts


def _has_gpu(hardware: Hardware, floor: GpuFloor) -> bool:
    kind = floor.kind.casefold()
    return any(
        kind in gpu.name.casefold() and gpu.memory_bytes >= floor.memory_bytes_min
        for gpu in hardware.gpus
    )


# --- conduct --------------------------------------------------------------------------------------
def _conduct(policy: SubcloudPolicy, node: NodeFacts) -> list[Verdict]:
    verdicts = []
    trust, level = policy.trust, policy.service
    if trust.reputation_min or trust.jobs_min:
        known = node.standing.reputation
        passed = (
            known is not None
            and known.share >= trust.reputation_min
            and known.jobs >= trust.jobs_min
            and known.gateways >= REPUTATION_GATEWAYS_MIN
        )
        verdicts.append(Verdict(Criterion.REPUTATION, passed, trust, known))
    service = node.standing.service
    if service is not None and service.jobs >= level.jobs_judged_min:
        if level.first_token_ms_max:
            passed = service.first_token_ms <= level.first_token_ms_max
            wanted, found = level.first_token_ms_max, service.first_token_ms
            verdicts.append(Verdict(Criterion.FIRST_OUTPUT, passed, wanted, found))
        if level.tokens_per_second_min:
            passed = service.tokens_per_second >= level.tokens_per_second_min
            fast, was = level.tokens_per_second_min, service.tokens_per_second
            verdicts.append(Verdict(Criterion.SPEED, passed, fast, was))
        if level.uptime_min:
            passed = service.uptime >= level.uptime_min
            verdicts.append(Verdict(Criterion.UPTIME, passed, level.uptime_min, service.uptime))
    if policy.data.no_content_storage:
        verdicts.append(
            Verdict(Criterion.DATA, node.stores_no_content, "no storage", node.stores_no_content)
        )
    return verdicts


def _capacity(policy: SubcloudPolicy, node: NodeFacts, models: tuple[bytes, ...]) -> list[Verdict]:
    wanted = policy.service.capacity_slots_min
    if not wanted:
        return []
    slots = sum(model.slots for model in node.models if model.digest in models)
    slots = min(slots, node.standing.slots_max or slots)
    return [Verdict(Criterion.CAPACITY, slots >= wanted, wanted, slots)]


# --- models -------------------------------------------------------------------------------------
def own_model(policy: SubcloudPolicy, digest: bytes) -> ApprovedModel | None:
    """Find a model that the policy itself approves."""
    wanted = digest.hex()
    return next((model for model in policy.models.own if model.digest == wanted), None)


def serves_model(
    policy: SubcloudPolicy, model: OfferedModel, standing: Standing, now_ms: int
) -> bool:
    """Tell whether a member may serve a model: the policy, its certificate, its speed."""
    if standing.models and model.digest not in standing.models:
        return False
    least = policy.hardware.tokens_per_second_min
    if least:
        known = _speed(policy.hardware.grade, model, standing, now_ms)
        if known is None or known < least:
            return False
    return admits_model(policy, model)


def _speed(
    grade: HardwareGrade, model: OfferedModel, standing: Standing, now_ms: int
) -> float | None:
    """The least of what the best evidence says, if that is as good as the policy wants it."""
    best: HardwareGrade = model.tokens_per_second_grade
    value = model.tokens_per_second
    for speed in standing.speeds:
        if speed.digest != model.digest or speed.until_ms <= now_ms:
            continue
        if value is None or speed.grade > best:
            best, value = speed.grade, speed.tokens_per_second
        elif speed.grade == best:
            value = min(value, speed.tokens_per_second)
    return value if best >= grade else None


def admits_model(policy: SubcloudPolicy, model: OfferedModel) -> bool:
    """Tell whether members may serve a model for this subcloud: rules and price."""
    rules = policy.models
    own = own_model(policy, model.digest)
    if own is None and not (model.name and _is_named(policy, model)):
        return False
    if rules.verified_only and not model.verified:
        return False
    if not set(rules.modalities or (MODALITY_DEFAULT,)) <= set(model.modalities):
        return False
    if rules.minimum_quantisation is not None:
        bits = quantisation_bits(model.quantisation)
        least = quantisation_bits(rules.minimum_quantisation)
        if bits is None or least is None or bits < least:
            return False
    prices = (
        (own.input_microcredits_per_million_tokens, own.output_microcredits_per_million_tokens)
        if own is not None
        else (model.input_price, model.output_price)
    )
    return _below(prices[0], policy.price.input_microcredits_per_million_tokens_max) and _below(
        prices[1], policy.price.output_microcredits_per_million_tokens_max
    )


def _below(price: int | None, ceiling: int | None) -> bool:
    return ceiling is None or (price is not None and price <= ceiling)


def _is_named(policy: SubcloudPolicy, model: OfferedModel) -> bool:
    rules = policy.models
    if not rules.names_any:
        return not rules.own  # a policy with models of its own and no others named has only those
    if model.digest.hex() in rules.digests:
        return True
    if model.family and model.family in rules.families:
        return True
    return any(
        entry.name == model.name and (not entry.versions or model.version in entry.versions)
        for entry in rules.names
    )
