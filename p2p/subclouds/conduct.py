"""Owns how members are judged by what gateways saw of them: reputation, service level, suspension.
Pure.

Theory of operation. The ledger counts, by node and gateway, the jobs that have a receipt and the
failures that were recorded with them (`p2p.conduct_messages`). A gateway's account, not the gateway
alone, has a word: one operator with ten gateways is one. Nobody vouches for himself: where payer,
gateway and node are not three different accounts, a count is `related` and left out. The one
exception are the gateways of the subcloud's owner, whose word counts in full for his own subcloud.

Reputation, over the jobs of REPUTATION_WINDOW_MS in all subclouds: of each account the share of
jobs that did not fail, weighted by its jobs but by at most GATEWAY_WEIGHT_JOBS. An account that saw
so many good jobs counts as a gateway; two are needed, or the owner's own. With k such accounts one
can lift or sink the share by no more than 1/k. Of the jobs themselves each account brings no more
than all others together. A further failure never raises any of it.

Service, over the jobs of this subcloud in the running window. Windows are stretches of `window_s`
counted from 1970, so that every gateway looks at the same one. Of each account the mean is taken,
and of the means the median, weighted by jobs, no account with more than half: one that lies cannot
sink a node alone, and of two that disagree the better one counts. A node is judged at the end of
each step (a minute, or 1/144 of the window), once `jobs_judged_min` jobs count; if it is below the
level then, it is suspended for `suspension_s` from there. What was seen before its return is
forgotten with that: only jobs since then, again `jobs_judged_min` of them, can suspend it anew. So
the same counts give the same suspension at every gateway, whenever it asks.

Uptime is judged by whole days: those of the window (the last one at least) that are over, without
the first day that the bootstraps saw the node, and since its return. What is not known passes: the
service level is a promise, not an entrance test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from p2p.conduct_messages import ConductCounts, UptimeDay
from p2p.subclouds.facts import Reputation, Service, Standing
from p2p.subclouds.policy_rules import ServiceLevel
from p2p.types import AccountId

BASIS_POINTS = 10_000
DAY_MS = 86_400_000
MINUTE_MS = 60_000
STEPS_PER_WINDOW = 144
GATEWAY_WEIGHT_JOBS = 10
"""So many jobs give a gateway's account its full weight, and make it count as one."""
REPUTATION_WINDOW_MS = 30 * DAY_MS
SPEED_UNKNOWN = 10.0**6
"""Tokens a second where none was measured: more than a policy can ask for."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a node serves a subcloud (None: no job counts now), and until when it is suspended (0: it
    is not, nor was)."""

    service: Service | None = None
    suspended_until_ms: int = 0


@dataclass(frozen=True, slots=True)
class Conduct:
    """All that conduct adds to a node's standing in one subcloud."""

    reputation: Reputation | None = None
    service: Service | None = None
    suspended_until_ms: int = 0


NOTHING_KNOWN = Conduct()


def with_conduct(standing: Standing, conduct: Conduct) -> Standing:
    """Put what is known of a node's conduct into its standing."""
    return replace(
        standing,
        reputation=conduct.reputation,
        service=conduct.service,
        suspended_until_ms=conduct.suspended_until_ms,
    )


def counted_jobs(own: int, others: Sequence[int]) -> int:
    """Add up jobs by account: each of the `others` counts at most what all the rest have."""
    total, most = own + sum(others), max(others, default=0)
    return total - max(0, 2 * most - total)


# --- reputation ---------------------------------------------------------------------------------
def reputation_of(seen: Iterable[ConductCounts], owner: AccountId | None) -> Reputation | None:
    """Give a node's reputation from what gateways saw of it; None if nothing counts.

    Args:
        seen: of one node, in any order, from its last REPUTATION_WINDOW_MS.
        owner: of the subcloud that asks.
    """
    jobs: dict[str, int] = {}
    failed: dict[str, int] = {}
    for row in seen:
        account = row.gateway_account
        if row.jobs and (account == owner or not row.related):
            jobs[account] = jobs.get(account, 0) + row.jobs
            failed[account] = failed.get(account, 0) + min(row.failed, row.jobs)
    if not jobs:
        return None
    weights = {
        account: count if account == owner else min(count, GATEWAY_WEIGHT_JOBS)
        for account, count in jobs.items()
    }
    good = {account: count - failed[account] for account, count in jobs.items()}
    parts = [Fraction(weights[a] * good[a], jobs[a]) for a in jobs]
    share = sum(parts, Fraction(0)) * BASIS_POINTS / sum(weights.values())
    others = [count for account, count in good.items() if account != owner]
    own = good.get(owner, 0) if owner is not None else 0
    gateways = sum(count >= GATEWAY_WEIGHT_JOBS for count in others)
    if own >= GATEWAY_WEIGHT_JOBS:
        gateways = max(2, gateways + 1)  # the owner's own are enough
    return Reputation(int(share), counted_jobs(own, others), gateways)


# --- service ------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Sums:
    jobs: int = 0
    first_tokens: int = 0
    first_token_ms: int = 0
    output_tokens: int = 0
    output_ms: int = 0

    def add(self, row: ConductCounts) -> None:
        self.jobs += row.jobs
        self.first_tokens += row.first_tokens
        self.first_token_ms += row.first_token_ms
        self.output_tokens += row.output_tokens
        self.output_ms += row.output_ms


@dataclass(slots=True)
class _Run:
    """What counts since the window began, or since the node returned."""

    owner: AccountId | None
    sums: dict[str, _Sums] = field(default_factory=dict)

    def add(self, rows: Iterable[ConductCounts]) -> None:
        for row in rows:
            if row.gateway_account == self.owner or not row.related:
                self.sums.setdefault(row.gateway_account, _Sums()).add(row)

    @property
    def jobs(self) -> int:
        own = self.sums[self.owner].jobs if self.owner in self.sums else 0
        others = [sums.jobs for account, sums in self.sums.items() if account != self.owner]
        return counted_jobs(own, others)

    def service(self, uptime: int) -> Service:
        first = self._median(
            {
                a: (Fraction(s.first_token_ms, s.first_tokens), s.first_tokens)
                for a, s in self.sums.items()
                if s.first_tokens
            }
        )
        slowness = self._median(
            {
                a: (Fraction(s.output_ms, s.output_tokens), s.output_tokens)
                for a, s in self.sums.items()
                if s.output_tokens
            }
        )
        speed = SPEED_UNKNOWN if not slowness else min(SPEED_UNKNOWN, float(1000 / slowness))
        return Service(self.jobs, float(first or 0), speed, uptime)

    def _median(self, means: Mapping[str, tuple[Fraction, int]]) -> Fraction | None:
        """The smallest mean that half of the weight is not above; None without any."""
        total = sum(count for _, count in means.values())
        weights = {
            account: count if account == self.owner else min(count, total - count)
            for account, (_, count) in means.items()
        }
        half = Fraction(sum(weights.values()), 2)
        reached = 0
        for account in sorted(means, key=lambda a: (means[a][0], a)):
            reached += weights[account]
            if weights[account] and reached >= half:
                return means[account][0]
        return None


def judge(
    level: ServiceLevel,
    seen: Iterable[ConductCounts],
    uptime: Iterable[UptimeDay],
    owner: AccountId | None,
    now_ms: int,
) -> Judgement:
    """Say how a node keeps a subcloud's service level, and whether it is suspended.

    Args:
        seen: of one node in the jobs of this subcloud, in any order, from `judged_since_ms` on.
        uptime: of this node, in any order.
    """
    if not asks_service(level):
        return Judgement()
    window_ms, step_ms = _window_ms(level), step_of(level)
    steps: dict[int, list[ConductCounts]] = {}
    for row in seen:
        end_ms = -(-row.until_ms // step_ms) * step_ms
        if end_ms <= now_ms:
            steps.setdefault(end_ms, []).append(row)
    days = {day.day: day for day in uptime}
    run, period, suspended_until_ms, returned_ms = _Run(owner), -1, 0, 0
    for end_ms, rows in sorted(steps.items()):
        if end_ms <= suspended_until_ms:
            continue  # jobs that ran on
        if period != (end_ms - 1) // window_ms:
            period, run = (end_ms - 1) // window_ms, _Run(owner)
        run.add(rows)
        if not level.suspension_s or run.jobs < level.jobs_judged_min:
            continue
        service = run.service(_uptime_of(level, days, returned_ms, end_ms))
        if is_below(level, service):
            suspended_until_ms = returned_ms = end_ms + level.suspension_s * 1000
            run = _Run(owner)
    if period != (now_ms - 1) // window_ms:
        run = _Run(owner)
    service = run.service(_uptime_of(level, days, returned_ms, now_ms))
    return Judgement(service if service.jobs else None, suspended_until_ms)


def asks_service(level: ServiceLevel) -> bool:
    """Whether a policy judges members by how they serve."""
    return bool(level.first_token_ms_max or level.tokens_per_second_min or level.uptime_min)


def is_below(level: ServiceLevel, service: Service) -> bool:
    """Whether enough jobs show that a node is below the level."""
    if service.jobs < level.jobs_judged_min:
        return False
    slow = bool(level.first_token_ms_max) and service.first_token_ms > level.first_token_ms_max
    return (
        slow
        or service.tokens_per_second < level.tokens_per_second_min
        or service.uptime < level.uptime_min
    )


def judged_since_ms(level: ServiceLevel, now_ms: int) -> int:
    """Give the beginning of what `judge` must see: windows whose suspension may not be over."""
    window_ms = _window_ms(level)
    first = (now_ms - level.suspension_s * 1000) // window_ms - 1
    return max(0, first * window_ms, now_ms - REPUTATION_WINDOW_MS)


def step_of(level: ServiceLevel) -> int:
    """Give the milliseconds between two judgements: whole minutes."""
    return max(1, _window_ms(level) // STEPS_PER_WINDOW // MINUTE_MS) * MINUTE_MS


def _window_ms(level: ServiceLevel) -> int:
    return -(-level.window_s // 60) * MINUTE_MS


def _uptime_of(
    level: ServiceLevel, days: Mapping[int, UptimeDay], returned_ms: int, at_ms: int
) -> int:
    """Give the share of minutes (basis points) for which the node was seen on whole days."""
    today = at_ms // DAY_MS
    known = min(days, default=today)
    first = max(today - max(1, _window_ms(level) // DAY_MS), known + 1, returned_ms // DAY_MS + 1)
    if first >= today:
        return BASIS_POINTS
    minutes = of_minutes = 0
    for day in range(first, today):
        found = days.get(day)
        minutes += 0 if found is None else min(found.minutes, found.of_minutes)
        of_minutes += 1440 if found is None else found.of_minutes
    return minutes * BASIS_POINTS // of_minutes if of_minutes else BASIS_POINTS
