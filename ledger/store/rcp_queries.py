"""Owns reading what points are computed from, and frozen epochs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select

from ledger.rcp import Days, PaidWork, ReferredFees
from ledger.store.opening_tables import REFERRALS
from ledger.store.rcp_writing import SCORE_COLUMNS, load_frozen_day
from ledger.store.tables import ENTRIES, TRANSFERS
from ledger.store.usage_tables import RCP_EPOCHS, RCP_SCORES, UPTIME, USAGE, WORK
from ledger.usage import DAY_MS
from p2p.codec import decode_message
from p2p.signing import Signed
from p2p.types import AccountId
from p2p.usage_messages import RcpQuery, RcpReport, RcpScore


@dataclass(frozen=True, slots=True)
class RcpState:
    """Where the epochs stand: the last frozen day, and the first day with work or uptime."""

    frozen_day: int | None
    started_day: int | None


@dataclass(frozen=True, slots=True)
class RcpInputs:
    """What an epoch's points are computed from; the records are not checked yet."""

    work: tuple[PaidWork, ...]
    uptime: tuple[Signed, ...]
    referred: tuple[ReferredFees, ...]


def rcp_state(connection: Connection) -> RcpState:
    """Read where the epochs stand."""
    first = [
        connection.execute(select(func.min(table.c.day))).scalar_one() for table in (WORK, UPTIME)
    ]
    days = [int(day) for day in first if day is not None]
    return RcpState(load_frozen_day(connection, lock=False), min(days) if days else None)


def rcp_inputs(connection: Connection, days: Days) -> RcpInputs:
    """Read all work and uptime of some days."""
    statement = (
        select(
            WORK.c.namespace, WORK.c.node_id, WORK.c.account_id, func.sum(WORK.c.earned).label("n")
        )
        .where(WORK.c.day.between(days.first, days.last))
        .group_by(WORK.c.namespace, WORK.c.node_id, WORK.c.account_id)
    )
    work = tuple(
        PaidWork(
            AccountId(row.namespace.partition("/")[0]),
            row.node_id,
            AccountId(row.account_id),
            int(row.n),
        )
        for row in connection.execute(statement)
    )
    return RcpInputs(work, uptime_records(connection, days), referred_fees(connection, days))


def referred_fees(connection: Connection, days: Days) -> tuple[ReferredFees, ...]:
    """Read what accounts that were referred before an epoch paid in fees in it.

    That is what they were charged less what nodes earned of it, both as the captures counted them,
    less what decisions of disputes took back; without the shares of subclouds' owners, who could
    raise them for themselves.
    """
    before = select(REFERRALS).where(REFERRALS.c.at_ms < days.first * DAY_MS)
    referrers = {row.account_id: row.referrer for row in connection.execute(before)}
    if not referrers:
        return ()
    fees: defaultdict[str, int] = defaultdict(int)
    paid = (USAGE, USAGE.c.charged - USAGE.c.credited, 1)
    for table, column, sign in (paid, (WORK, WORK.c.earned, -1)):
        statement = (
            select(table.c.namespace, func.sum(column).label("n"))
            .where(table.c.day.between(days.first, days.last))
            .group_by(table.c.namespace)
        )
        for row in connection.execute(statement):
            fees[row.namespace.partition("/")[0]] += sign * int(row.n)
    for row in connection.execute(_owners_shares(days)):
        fees[row.namespace.partition("/")[0]] -= int(row.n)
    return tuple(
        ReferredFees(AccountId(account_id), AccountId(referrer), fees[account_id])
        for account_id, referrer in sorted(referrers.items())
        if fees.get(account_id, 0) > 0
    )


def _owners_shares(days: Days) -> Select[Any]:
    """Ask what namespaces paid to subclouds' owners, less what corrections took back."""
    begin_ms, end_ms = days.first * DAY_MS, (days.last + 1) * DAY_MS
    return (
        select(TRANSFERS.c.namespace, func.sum(ENTRIES.c.amount).label("n"))
        .join(TRANSFERS, TRANSFERS.c.number == ENTRIES.c.transfer)
        .where(
            ENTRIES.c.account.startswith("owner:"),
            TRANSFERS.c.at_ms >= begin_ms,
            TRANSFERS.c.at_ms < end_ms,
        )
        .group_by(TRANSFERS.c.namespace)
    )


def uptime_records(
    connection: Connection, days: Days, bootstrap_id: str | None = None
) -> tuple[Signed, ...]:
    """Read the uptime records of some days, of all bootstraps or of one."""
    statement = select(UPTIME.c.signed).where(UPTIME.c.day.between(days.first, days.last))
    if bootstrap_id is not None:
        statement = statement.where(UPTIME.c.bootstrap_id == bootstrap_id)
    return tuple(decode_message(row.signed, Signed) for row in connection.execute(statement))


def score_from_row(row: Any) -> RcpScore:
    """Make a score of its row."""
    return RcpScore(*(getattr(row, name) for name in SCORE_COLUMNS))


def rcp_report(connection: Connection, query: RcpQuery) -> RcpReport | None:
    """Read a frozen epoch with the scores that are asked for; None if there is none."""
    statement = select(RCP_EPOCHS).order_by(RCP_EPOCHS.c.first_day.desc()).limit(1)
    if query.day:
        statement = statement.where(
            RCP_EPOCHS.c.first_day <= query.day, RCP_EPOCHS.c.last_day >= query.day
        )
    epoch = connection.execute(statement).first()
    if epoch is None:
        return None
    rows = select(RCP_SCORES).where(RCP_SCORES.c.first_day == epoch.first_day)
    if query.account_id:
        rows = rows.where(RCP_SCORES.c.account_id == query.account_id)
    else:
        rows = rows.where(RCP_SCORES.c.place >= query.first)
    found = connection.execute(rows.order_by(RCP_SCORES.c.place).limit(query.count)).all()
    first = found[0].place if found else query.first
    scores = tuple(score_from_row(row) for row in found)
    return RcpReport(decode_message(epoch.signed, Signed), first, scores)
