"""Owns reading disputes for answers: lists, single ones, and what of somebody's pay is disputed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Select, exists, func, select

from ledger.accounts import operator_accounts
from ledger.disputes import Charge, taken_parts
from ledger.records import TransferKind
from ledger.store.dispute_store import find_charge
from ledger.store.dispute_tables import (
    DISPUTE_ANSWERS,
    DISPUTE_DECISIONS,
    DISPUTE_EVIDENCE,
    DISPUTES,
)
from ledger.store.tables import ENTRIES, RECORDS, TRANSFERS
from p2p.codec import decode_message
from p2p.dispute_messages import (
    DISPUTES_PER_ANSWER_MAX,
    DisputeList,
    DisputeOpening,
    DisputeShare,
    DisputeView,
)
from p2p.signing import Signed
from p2p.types import AccountId, PeerId

PAYER, OPERATOR, DECIDER = "payer", "operator", "decider"


@dataclass(frozen=True, slots=True)
class Unmatured:
    """What of a ledger account can still be taken back, and what of that is disputed."""

    amount: int
    disputed: int


def unmatured(connection: Connection, account: str, since_ms: int) -> Unmatured:
    """Sum what of a ledger account has not matured: paid after `since_ms`, or disputed and open.

    What a correction took back counts where it had been paid, not when it was decided.
    """
    paid = select(func.coalesce(func.sum(ENTRIES.c.amount), 0)).where(ENTRIES.c.account == account)
    recent = _sum(
        connection,
        paid.join(TRANSFERS, TRANSFERS.c.number == ENTRIES.c.transfer).where(
            TRANSFERS.c.at_ms > since_ms, TRANSFERS.c.kind != TransferKind.CORRECTION.value
        ),
    )
    corrected = _sum(
        connection,
        paid.join(DISPUTE_DECISIONS, DISPUTE_DECISIONS.c.transfer == ENTRIES.c.transfer)
        .join(DISPUTES, DISPUTES.c.capture == DISPUTE_DECISIONS.c.capture)
        .where(DISPUTES.c.charged_ms > since_ms),
    )
    disputed = paid.join(DISPUTES, DISPUTES.c.capture == ENTRIES.c.transfer).where(_is_open())
    old = _sum(connection, disputed.where(DISPUTES.c.charged_ms <= since_ms))
    return Unmatured(recent + corrected + old, _sum(connection, disputed))


def credited(connection: Connection, path: str) -> int:
    """Sum what corrections gave back to a namespace."""
    statement = (
        select(func.coalesce(func.sum(DISPUTE_DECISIONS.c.refunded), 0))
        .join(TRANSFERS, TRANSFERS.c.number == DISPUTE_DECISIONS.c.transfer)
        .where(TRANSFERS.c.namespace == path)
    )
    return _sum(connection, statement)


def dispute_list(connection: Connection, side: str, account_id: str, skip: int) -> DisputeList:
    """Read disputes without their documents, the newest first.

    Args:
        side: OPERATOR sees those about its pay, PAYER its own, DECIDER all.
    """
    statement = _seen_by(side, account_id).order_by(DISPUTES.c.opened_ms.desc(), DISPUTES.c.capture)
    rows = connection.execute(statement.offset(skip).limit(DISPUTES_PER_ANSWER_MAX + 1)).all()
    shown = rows[:DISPUTES_PER_ANSWER_MAX]
    views = tuple(_view(connection, row, side, account_id, whole=False) for row in shown)
    return DisputeList(views, len(rows) > len(shown))


def dispute_view(
    connection: Connection, hold_id: bytes, side: str, account_id: str
) -> DisputeView | None:
    """Read one dispute with all that one side may see; None if it may see nothing."""
    statement = _seen_by(side, account_id).where(DISPUTES.c.hold_id == hold_id)
    row = connection.execute(statement).first()
    return None if row is None else _view(connection, row, side, account_id, whole=True)


def _is_open() -> Any:
    return ~exists().where(DISPUTE_DECISIONS.c.capture == DISPUTES.c.capture)


def _sum(connection: Connection, statement: Select[Any]) -> int:
    return int(connection.execute(statement).scalar_one())


def _accounts(account_id: str) -> tuple[str, ...]:
    return operator_accounts(AccountId(account_id))


def _seen_by(side: str, account_id: str) -> Select[Any]:
    statement = select(
        DISPUTES,
        DISPUTE_DECISIONS.c.transfer,
        DISPUTE_DECISIONS.c.refunded,
        DISPUTE_DECISIONS.c.at_ms.label("resolved_ms"),
        RECORDS.c.signed,
    )
    statement = statement.join(RECORDS, RECORDS.c.digest == DISPUTES.c.record).outerjoin(
        DISPUTE_DECISIONS, DISPUTE_DECISIONS.c.capture == DISPUTES.c.capture
    )
    if side == PAYER:
        return statement.where(DISPUTES.c.account_id == account_id)
    if side == OPERATOR:
        paid = exists().where(
            ENTRIES.c.transfer == DISPUTES.c.capture, ENTRIES.c.account.in_(_accounts(account_id))
        )
        return statement.where(paid)
    return statement


def _view(
    connection: Connection, row: Any, side: str, account_id: str, *, whole: bool
) -> DisputeView:
    opening = decode_message(row.signed, Signed)
    refunded = row.refunded or 0
    shares: tuple[DisputeShare, ...] = ()
    if side != PAYER:
        charge = find_charge(connection, row.hold_id)
        shares = _shares(charge, refunded, side, account_id) if charge is not None else ()
    view = DisputeView(
        row.hold_id,
        side,
        row.opened_ms,
        row.charged_ms,
        row.charged if side != OPERATOR else 0,
        row.claimed if side != OPERATOR else 0,
        decode_message(opening.body, DisputeOpening).reason,
        row.resolved_ms or 0,
        refunded if side != OPERATOR else 0,
        shares,
    )
    if not whole:
        return view
    return replace(
        view,
        # It says the whole refund: an operator sees that it was decided, and what it paid of it.
        resolution=_resolution(connection, row.transfer) if side != OPERATOR else None,
        opening=opening if side != OPERATOR else None,
        answers=_answers(connection, row.capture, side, account_id),
        capture=_request_of(connection, row.capture) if side == DECIDER else b"",
        evidence=_evidence(connection, row.capture) if side == DECIDER else b"",
    )


def _shares(charge: Charge, refunded: int, side: str, account_id: str) -> tuple[DisputeShare, ...]:
    taken = taken_parts(charge, refunded)
    return tuple(
        DisputeShare(part.account, part.amount, back, PeerId(part.node_id))
        for part, back in zip(charge.paid, taken, strict=True)
        if side == DECIDER or part.account in _accounts(account_id)
    )


def _resolution(connection: Connection, number: int | None) -> Signed | None:
    return None if number is None else decode_message(_request_of(connection, number), Signed)


def _request_of(connection: Connection, number: int) -> bytes:
    statement = select(TRANSFERS.c.request).where(TRANSFERS.c.number == number)
    found: bytes = connection.execute(statement).scalar_one()
    return found


def _answers(
    connection: Connection, capture: int, side: str, account_id: str
) -> tuple[Signed, ...]:
    if side == PAYER:  # they say who was paid
        return ()
    statement = (
        select(RECORDS.c.signed)
        .join(DISPUTE_ANSWERS, DISPUTE_ANSWERS.c.record == RECORDS.c.digest)
        .where(DISPUTE_ANSWERS.c.capture == capture)
        .order_by(DISPUTE_ANSWERS.c.at_ms)
    )
    if side == OPERATOR:
        statement = statement.where(DISPUTE_ANSWERS.c.account_id == account_id)
    found: Sequence[bytes] = connection.execute(statement).scalars().all()
    return tuple(decode_message(signed, Signed) for signed in found)


def _evidence(connection: Connection, capture: int) -> bytes:
    statement = select(DISPUTE_EVIDENCE.c.evidence).where(DISPUTE_EVIDENCE.c.capture == capture)
    return connection.execute(statement).scalar_one_or_none() or b""
