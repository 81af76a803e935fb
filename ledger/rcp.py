"""Owns contribution points (RCP): from what was worked and seen in an epoch to points. Pure.

Theory of operation. An epoch is a run of UTC days; epochs follow each other without a gap. Each
kind of contribution has its share of the epoch's pool of points (RcpParameters, from the network
configuration), and an account gets of a share what its contribution is of all contributions:

    points = sum over kinds of floor(floor(pool x share / 10000) x own / everybody's)

- Work: what nodes earned (microcredits, fees deducted), by the account that they were bound to. Of
  one payer's money at one node at most a cap counts, so that two friends cannot pay each other to
  the top; what an account pays to its own nodes does not count at all.
- Uptime: minutes for which bootstraps saw a node alive. Each bootstrap signs what it saw; of
  several, the median (the higher one of two) counts, so that a bootstrap that was down takes nobody
  anything, and one that lies is outvoted.
- Referrals: the fees (the gateway's and the network's, microcredits) that accounts which an account
  brought here pay in the epoch, of each of them at most a cap. A referral counts from the first
  epoch that begins after it.
- Validation: nothing measures it yet; its share is not given to anybody.

Nothing depends on the order of the input, there are no floats, and what rounding leaves over stays
unassigned. An account that contributes more, all else equal, never gets fewer points.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from p2p.certificates import verify_chain
from p2p.codec import encode_message
from p2p.errors import UntrustedError
from p2p.network_configuration import Rcp
from p2p.signing import open_signed
from p2p.types import AccountId, NetworkId, Role
from p2p.usage_messages import (
    MINUTES_MAX,
    RcpEpoch,
    RcpParameters,
    RcpReport,
    RcpScore,
    UptimeRecord,
)

BASIS_POINTS = 10_000


class PaidWork(NamedTuple):
    """What a node earned from one payer for one account in an epoch (microcredits)."""

    payer: AccountId
    node_id: str
    account_id: AccountId
    earned: int


class SeenNode(NamedTuple):
    """How many minutes of a day a bootstrap saw a node of an account."""

    day: int
    bootstrap_id: str
    node_id: str
    account_id: AccountId
    minutes: int


class ReferredFees(NamedTuple):
    """What an account paid in fees in an epoch (microcredits), and who had referred it before."""

    account_id: AccountId
    referrer: AccountId
    fees: int


class Days(NamedTuple):
    """The days of an epoch, both included."""

    first: int
    last: int


def parameters_of(rules: Rcp) -> RcpParameters:
    """Give the configuration's rules as they are signed with an epoch."""
    return RcpParameters(
        rules.points_per_epoch,
        rules.work_basis_points,
        rules.uptime_basis_points,
        rules.validation_basis_points,
        rules.referral_basis_points,
        rules.pair_cap_microcredits,
        rules.referral_cap_microcredits,
    )


def next_epoch(frozen_day: int | None, started_day: int | None, length_days: int) -> Days | None:
    """Give the epoch that comes next; None if nothing has happened yet.

    Args:
        frozen_day: the last day of the last frozen epoch, if there is one.
        started_day: the first day with work or uptime, if there is one.
    """
    first = started_day if frozen_day is None else frozen_day + 1
    return None if first is None else Days(first, first + length_days - 1)


def seen_nodes(bootstrap_id: str, record: UptimeRecord) -> list[SeenNode]:
    """Give what an uptime record says (its signature has been checked)."""
    return [
        SeenNode(
            record.day, bootstrap_id, node.peer_id, node.account_id, min(node.minutes, MINUTES_MAX)
        )
        for node in record.nodes
    ]


def work_by_account(work: Iterable[PaidWork], pair_cap: int) -> dict[AccountId, int]:
    """Add up what counts of the work, each pair of payer and node capped."""
    pairs: defaultdict[tuple[str, str], dict[AccountId, int]] = defaultdict(dict)
    for payer, node_id, account_id, earned in work:
        if payer != account_id:
            own = pairs[payer, node_id]
            own[account_id] = own.get(account_id, 0) + earned
    counted: defaultdict[AccountId, int] = defaultdict(int)
    for own in pairs.values():
        left = pair_cap
        # A node that was bound anew in this epoch worked for two accounts under one cap.
        for account_id, earned in sorted(own.items()):
            # Less than nothing where corrections took back more than was earned in this epoch.
            counts = max(0, min(earned, left))
            counted[account_id] += counts
            left -= counts
    return {account_id: amount for account_id, amount in counted.items() if amount}


def uptime_by_account(seen: Iterable[SeenNode]) -> dict[AccountId, int]:
    """Add up the minutes, of each node and day the median over the bootstraps that saw it."""
    reports: defaultdict[tuple[int, str], dict[str, tuple[int, AccountId]]] = defaultdict(dict)
    for day, bootstrap_id, node_id, account_id, minutes in seen:
        own = reports[day, node_id]
        own[bootstrap_id] = max(own.get(bootstrap_id, (0, account_id)), (minutes, account_id))
    counted: defaultdict[AccountId, int] = defaultdict(int)
    for own in reports.values():
        ordered = sorted(own.values())
        minutes, account_id = ordered[len(ordered) // 2]
        counted[account_id] += minutes
    return {account_id: minutes for account_id, minutes in counted.items() if minutes}


def referrals_by_account(referred: Iterable[ReferredFees], cap: int) -> dict[AccountId, int]:
    """Add up what counts of the fees that referred accounts paid, each account's capped."""
    paid: defaultdict[tuple[AccountId, AccountId], int] = defaultdict(int)
    for account_id, referrer, fees in referred:
        if account_id != referrer:
            paid[referrer, account_id] += fees
    counted: defaultdict[AccountId, int] = defaultdict(int)
    for (referrer, _), fees in paid.items():
        counted[referrer] += min(fees, cap)
    return {account_id: fees for account_id, fees in counted.items() if fees}


def scores_of(
    parameters: RcpParameters,
    work: Iterable[PaidWork],
    seen: Iterable[SeenNode],
    referred: Iterable[ReferredFees] = (),
) -> tuple[RcpScore, ...]:
    """Give the scores of an epoch, the highest first (equal ones by what counted and account).

    Referrals count for nothing without a share and a cap: epochs that were frozen before they were
    measured have no cap, and stay as they are.
    """
    worked = work_by_account(work, parameters.pair_cap_microcredits)
    uptime = uptime_by_account(seen)
    work_points = _share(parameters.points, parameters.work_basis_points, worked)
    uptime_points = _share(parameters.points, parameters.uptime_basis_points, uptime)
    share = parameters.referral_basis_points
    brought = referrals_by_account(referred, parameters.referral_cap_microcredits) if share else {}
    referral_points = _share(parameters.points, share, brought)
    scores = [
        RcpScore(
            account_id,
            work_points(account_id) + uptime_points(account_id) + referral_points(account_id),
            worked.get(account_id, 0),
            uptime.get(account_id, 0),
            brought.get(account_id, 0),
        )
        for account_id in {*worked, *uptime, *brought}
    ]
    scores.sort(
        key=lambda s: (-s.points, -s.work, -s.uptime_minutes, -s.referral_fees, s.account_id)
    )
    return tuple(scores)


def _share(
    points: int, basis_points: int, amounts: Mapping[AccountId, int]
) -> Callable[[AccountId], int]:
    pool, total = points * basis_points // BASIS_POINTS, sum(amounts.values())
    return lambda account_id: pool * amounts.get(account_id, 0) // total if total else 0


def scores_digest(scores: Iterable[RcpScore]) -> bytes:
    """SHA-256 over the encoded scores in their order: what a frozen epoch is signed over.

    Where no referral counts, a score has the form that it had before there were any.
    """
    digest = hashlib.sha256()
    for score in scores:
        digest.update(encode_message(score, left_out=int(not score.referral_fees)))
    return digest.digest()


def verify_report(report: RcpReport, network: NetworkId) -> RcpEpoch:
    """Check that a certified bootstrap signed a frozen epoch, and that its scores are those.

    A page of the scores cannot be checked against the signature, only all of them together.

    Raises: UntrustedError, MalformedError, StaleError (not certified when it signed).
    """
    epoch = open_signed(report.epoch, RcpEpoch, network)
    certificate = verify_chain(epoch.chain, network, report.epoch.peer_id, epoch.issued_ms)
    if certificate.role is not Role.BOOTSTRAP:
        raise UntrustedError("an epoch is frozen by a bootstrap")
    if report.scores and report.first + len(report.scores) > epoch.accounts:
        raise UntrustedError("more scores than the epoch has accounts")
    whole = report.first == 0 and len(report.scores) == epoch.accounts
    if whole and scores_digest(report.scores) != epoch.scores_digest:
        raise UntrustedError("these are not the scores that the epoch was signed over")
    return epoch
