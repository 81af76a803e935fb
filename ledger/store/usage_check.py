"""Owns making usage and work from the transfers again, to check the counters or to fill them.

It reads every hold that has ended, with the signed request that ended it. A database that was
upgraded gets its counters this way, and an audit compares: every row of `ledger_usage` and
`ledger_work` must be what the transfers say, and the scores of each frozen epoch what work and
uptime say under the rules that were signed with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Connection, select, text

from ledger.claims import PaidLegs, paid_legs
from ledger.disputes import corrected_usage, corrected_work
from ledger.errors import IntegrityError
from ledger.rcp import Days, SeenNode, scores_digest, scores_of, seen_nodes
from ledger.store.dispute_store import find_charge
from ledger.store.dispute_tables import DISPUTE_DECISIONS, DISPUTES
from ledger.store.rcp_queries import rcp_inputs, score_from_row
from ledger.store.subcloud_counters import subcloud_problems
from ledger.store.tables import RECORDS
from ledger.store.usage_tables import RCP_EPOCHS, RCP_SCORES, USAGE, WORK
from ledger.store.usage_writing import write_counters
from ledger.usage import (
    COUNTS,
    Counts,
    UsageEntry,
    UsageKey,
    WorkEntry,
    WorkKey,
    add_usage,
    add_work,
    by_key,
    by_node,
    captured_counts,
    day_of,
    duration_ms,
    uncharged_counts,
)
from p2p.codec import decode_message
from p2p.errors import P2PError
from p2p.job_messages import DeliveryCount
from p2p.lease_messages import LeasedCapture, LeasedHold, LeaseReturn
from p2p.ledger_messages import CaptureRequest, ReleaseRequest, TransferResult
from p2p.prices import FeeRule, PriceTerms, Split, exact_price, split_charge
from p2p.signing import Signed, open_signed
from p2p.types import AccountId, NetworkId
from p2p.usage_messages import RcpEpoch, UptimeRecord

# Columns by name, because the first upgrade runs this on the tables of that time.
_ENDED = (
    "SELECT h.namespace, h.key_id, h.terms, h.gateway_basis_points, h.network_basis_points, "
    "h.issued_ms, h.expires_ms, h.charged, t.number, t.kind, t.request, t.at_ms "
    "FROM ledger_holds h JOIN ledger_transfers t ON t.number = h.ended_by "
    "JOIN ledger_transfers s ON s.number = h.number AND s.kind = 'hold' ORDER BY t.number"
)
_OF_LEASES = (
    "SELECT h.namespace, h.key_id, h.terms, h.gateway_basis_points, h.network_basis_points, "
    "t.number, t.kind, t.request, t.result, t.at_ms "
    "FROM ledger_transfers t JOIN ledger_holds h ON h.number = t.hold_number "
    "WHERE t.kind IN ('leased_capture', 'lease_return') "
    "OR (t.kind = 'claim' AND t.number <> COALESCE(h.ended_by, 0)) ORDER BY t.number"
)
_EARNED = (
    "SELECT transfer, account, amount FROM ledger_entries WHERE transfer = :number "
    "AND account LIKE 'earnings:%' ORDER BY position"
)
_ROWS_AT_ONCE = 500
COUNTS_AT_FIRST = COUNTS[: COUNTS.index("duration_ms") + 1]
"""What the first table of usage had."""


@dataclass(slots=True)
class Counters:
    """Usage and work made from the transfers, and what could not be read."""

    usage: dict[UsageKey, Counts] = field(default_factory=dict)
    work: dict[WorkKey, tuple[int, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def counters_of_transfers(connection: Connection) -> Counters:
    """Make the counters again from every hold that has ended, and what was done with leases."""
    found = Counters()
    for statement, count in ((_ENDED, _count), (_OF_LEASES, _count_leased)):
        for row in connection.execute(text(statement)).yield_per(_ROWS_AT_ONCE):
            try:
                count(connection, row, found)
            except (P2PError, ValueError) as error:
                found.problems.append(f"transfer {row.number} cannot be read: {error}")
    return found


def add_corrections(connection: Connection, found: Counters) -> None:
    """Add what the decisions of disputes gave back."""
    statement = select(DISPUTES.c.hold_id, DISPUTE_DECISIONS).join(
        DISPUTE_DECISIONS, DISPUTE_DECISIONS.c.capture == DISPUTES.c.capture
    )
    for row in connection.execute(statement):
        try:
            charge = find_charge(connection, row.hold_id)
        except (P2PError, IntegrityError) as error:
            found.problems.append(f"the charge of a dispute cannot be read: {error}")
            continue
        if charge is None or not 0 <= row.refunded <= charge.charged:
            found.problems.append(f"correction {row.transfer} has no charge to correct")
            continue
        if row.refunded:
            day = day_of(row.at_ms)
            add_usage(found.usage, corrected_usage(charge, row.refunded, day))
            add_work(found.work, corrected_work(charge, row.refunded, day))


def fill_counters(connection: Connection) -> None:
    """Write the counters of everything that ended before there were any (in an upgrade)."""
    found = counters_of_transfers(connection)
    write_counters(connection, found.usage, found.work, COUNTS_AT_FIRST)


def _count(connection: Connection, row: Any, found: Counters) -> None:
    terms = decode_message(row.terms, PriceTerms)
    key = _key(row, terms)
    if row.kind == "claim":
        _count_capture(connection, row, found, paid_legs(row.request))
        return
    if row.kind != "capture":
        outcome = ""
        if row.kind == "release":
            signed = decode_message(row.request, Signed)
            outcome = decode_message(signed.body, ReleaseRequest).outcome
        add_usage(found.usage, UsageEntry(key, uncharged_counts(outcome)))
        return
    request = decode_message(decode_message(row.request, Signed).body, CaptureRequest)
    _count_capture(connection, row, found, request)


def _count_leased(connection: Connection, row: Any, found: Counters) -> None:
    if row.kind == "claim":
        claimed = paid_legs(row.request)
        if claimed.part is not None:
            _count_part(connection, row, found, claimed, claimed.part)
        return
    body = decode_message(row.request, Signed).body
    if row.kind == "lease_return":
        gone = decode_message(body, LeaseReturn)
        key = _key(row, decode_message(row.terms, PriceTerms))
        if uncharged := gone.failed + gone.client_left:
            counts = Counts(uncharged, 0, gone.client_left, gone.failed)
            add_usage(found.usage, UsageEntry(key, counts))
        return
    request = decode_message(body, LeasedCapture)
    part = decode_message(request.hold.body, LeasedHold)
    _count_part(connection, row, found, request, part)


def _count_part(
    connection: Connection,
    row: Any,
    found: Counters,
    request: LeasedCapture | PaidLegs,
    part: LeasedHold,
) -> None:
    job = SimpleNamespace(
        **row._mapping,
        charged=decode_message(row.result, TransferResult).amount,
        issued_ms=part.issued_ms,
        expires_ms=part.expires_ms,
    )
    _count_capture(connection, job, found, request)


def _count_capture(
    connection: Connection,
    row: Any,
    found: Counters,
    request: CaptureRequest | LeasedCapture | PaidLegs,
) -> None:
    terms = decode_message(row.terms, PriceTerms)
    legs = [decode_message(leg.delivery.body, DeliveryCount) for leg in request.legs]
    counts = captured_counts(
        request.outcome,
        sum(leg.input_tokens for leg in legs),
        sum(leg.output_tokens for leg in legs),
        row.charged,
        duration_ms(row.issued_ms, row.expires_ms, [leg.at_ms for leg in legs]),
        (split := _split(row, terms, legs)).owner,
    )
    add_work(found.work, _work(connection, row, terms, legs, split))
    add_usage(found.usage, UsageEntry(_key(row, terms), counts))


def _key(row: Any, terms: PriceTerms) -> UsageKey:
    day = day_of(row.at_ms)
    return UsageKey(row.namespace, day, row.key_id, terms.model_name, terms.subcloud_id)


def _split(row: Any, terms: PriceTerms, legs: list[DeliveryCount]) -> Split:
    weights = tuple(
        exact_price(terms, leg.input_tokens, leg.output_tokens, leg.cached_input_tokens)
        for leg in legs
    )
    fees = FeeRule(row.gateway_basis_points, row.network_basis_points).under(terms)
    return split_charge(row.charged, weights, fees)


def _work(
    connection: Connection, row: Any, terms: PriceTerms, legs: list[DeliveryCount], split: Split
) -> list[WorkEntry]:
    """Give the work of a capture: whose it was is in the entries. Raises: ValueError."""
    paid = [(leg.node_id, amount) for leg, amount in zip(legs, split.nodes, strict=True) if amount]
    entries = connection.execute(text(_EARNED), {"number": row.number}).all()
    if [entry.amount for entry in entries] != [amount for _, amount in paid]:
        raise ValueError("its entries are not what its legs earned")
    return [
        WorkEntry(
            WorkKey(
                row.namespace,
                day_of(row.at_ms),
                node_id,
                AccountId(entry.account.removeprefix("earnings:")),
                terms.subcloud_id,
            ),
            1,
            amount,
        )
        for (node_id, amount), entry in zip(paid, entries, strict=True)
    ]


def counter_problems(connection: Connection) -> Iterator[str]:
    """Compare usage and work with the transfers; gives a line for each difference."""
    made = counters_of_transfers(connection)
    add_corrections(connection, made)
    yield from made.problems
    usage = {
        UsageKey(row[0], row[1], row[2], row[3]): Counts(*row[4:])
        for row in connection.execute(select(USAGE))
    }
    of_keys, of_nodes = by_key(made.usage), by_node(made.work)
    for usage_key in sorted({*usage, *of_keys}):
        if usage.get(usage_key) != of_keys.get(usage_key):
            yield f"the usage of {usage_key[:4]} is not what the transfers say"
    work = {
        WorkKey(row.namespace, row.day, row.node_id, row.account_id): (row.legs, row.earned)
        for row in connection.execute(select(WORK))
    }
    for work_key in sorted({*work, *of_nodes}):
        if work.get(work_key) != of_nodes.get(work_key):
            yield f"the work of {work_key[:4]} is not what the transfers say"
    yield from subcloud_problems(connection, made.usage, made.work)


def epoch_problems(connection: Connection, network: NetworkId) -> Iterator[str]:
    """Compute each frozen epoch again; gives a line for each that differs."""
    rows = connection.execute(select(RCP_EPOCHS).order_by(RCP_EPOCHS.c.first_day)).all()
    recorded = select(RECORDS.c.signed).where(RECORDS.c.purpose == RcpEpoch.PURPOSE)
    if sorted(connection.execute(recorded).scalars()) != sorted(row.signed for row in rows):
        yield "the frozen epochs are not those of the ledger's records"
    for row in rows:
        name = f"the epoch of day {row.first_day}"
        try:
            epoch = open_signed(decode_message(row.signed, Signed), RcpEpoch, network)
        except P2PError as error:
            yield f"{name}: {error}"
            continue
        days = Days(epoch.first_day, epoch.first_day + epoch.days - 1)
        if (row.first_day, row.last_day) != days:
            yield f"{name} is kept under other days than it was signed for"
        statement = select(RCP_SCORES).where(RCP_SCORES.c.first_day == row.first_day)
        rows_kept = connection.execute(statement.order_by(RCP_SCORES.c.place)).all()
        kept = [score_from_row(row) for row in rows_kept]
        in_order = [s.place for s in rows_kept] == list(range(len(rows_kept)))
        if not in_order or scores_digest(kept) != epoch.scores_digest:
            yield f"{name}: its scores are not those that were signed"
        inputs, seen = rcp_inputs(connection, days), list[SeenNode]()
        for signed in inputs.uptime:
            try:
                seen += seen_nodes(signed.peer_id, open_signed(signed, UptimeRecord, network))
            except P2PError as error:
                yield f"{name}: an uptime record: {error}"
        made = scores_of(epoch.parameters, inputs.work, seen, inputs.referred)
        if scores_digest(made) != epoch.scores_digest:
            yield f"{name}: work and uptime give other scores"
