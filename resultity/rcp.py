"""Owns how the command line gets a frozen epoch of contribution points, and what it believes."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.rcp import verify_report
from p2p.errors import P2PError
from p2p.signing import Signed
from p2p.types import NetworkId
from p2p.usage_messages import SCORES_MAX, RcpEpoch, RcpQuery, RcpReport, RcpScore
from resultity.errors import GatewayCallError
from resultity.usage import Carrier

PAGES_MAX = 20
"""40,000 accounts; beyond that the top of an epoch is shown without checking the whole."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A frozen epoch whose signature was checked, and some of its scores from `first` on.

    `complete`: all scores were fetched and are those that were signed.
    """

    document: RcpEpoch
    signed: Signed
    first: int
    scores: tuple[RcpScore, ...]
    complete: bool


def fetch_page(carrier: Carrier, network: NetworkId, query: RcpQuery) -> Epoch:
    """Get one page of an epoch. Raises: GatewayCallError (none of that day, or not acceptable)."""
    report = carrier.send("rcp", query, RcpReport)
    try:
        document = verify_report(report, network)
    except P2PError as error:
        raise GatewayCallError(f"the epoch is not acceptable: {error}") from error
    last_day = document.first_day + document.days - 1
    if query.day and not document.first_day <= query.day <= last_day:
        raise GatewayCallError("the ledger answered with an epoch of other days")
    complete = report.first == 0 and len(report.scores) == document.accounts
    return Epoch(document, report.epoch, report.first, report.scores, complete)


def fetch_epoch(carrier: Carrier, network: NetworkId, day: int) -> Epoch:
    """Get a whole epoch (0: the newest), its scores checked against the signature.

    Raises: GatewayCallError.
    """
    page = fetch_page(carrier, network, RcpQuery(day, 0, SCORES_MAX))
    scores = list(page.scores)
    day = page.document.first_day
    for _ in range(PAGES_MAX - 1):
        if len(scores) >= page.document.accounts:
            break
        following = fetch_page(carrier, network, RcpQuery(day, len(scores), SCORES_MAX))
        if following.signed != page.signed or following.first != len(scores):
            raise GatewayCallError("the ledger answered with another epoch")
        if not following.scores:
            raise GatewayCallError("the ledger has fewer scores than the epoch was signed over")
        scores += following.scores
    if len(scores) < page.document.accounts:
        return Epoch(page.document, page.signed, 0, tuple(scores), False)
    try:
        verify_report(RcpReport(page.signed, 0, tuple(scores)), network)
    except P2PError as error:
        raise GatewayCallError(f"the epoch is not acceptable: {error}") from error
    return Epoch(page.document, page.signed, 0, tuple(scores), True)
