"""Owns reading and writing claims for a group of operations, and what the sweep asks about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, text

from ledger.book import Book
from ledger.claim_operations import RecordClaim, SettleClaims
from ledger.claims import ClaimEntry, ClaimState, read_claim
from ledger.claims import paid_legs as claimed_legs
from ledger.operations import ExpireHold, Operation, ReleaseHold, ReturnLease
from ledger.refusals import Refusal
from ledger.store.claim_tables import CLAIMS
from ledger.store.refusal_store import add_refusals
from ledger.store.statements import select_rows
from ledger.store.tables import HOLDS, TRANSFERS
from p2p.claim_messages import Claim, PaidClaims
from p2p.codec import decode_any_message, decode_message, encode_message
from p2p.job_messages import DeliveryCount
from p2p.lease_messages import LeasedCapture
from p2p.ledger_messages import CaptureLeg, CaptureRequest
from p2p.signing import Signed
from p2p.types import PeerId

_PLACES = {"sqlite": "?", "postgresql": "%s"}


def claimed_payers(operations: Iterable[Operation]) -> set[bytes]:
    """Name the holds and leases on which claims matter to these operations."""
    found: set[bytes] = set()
    for operation in operations:
        match operation:
            case RecordClaim() | SettleClaims():
                found.add(operation.payer_id)
            case ExpireHold():
                found.add(operation.hold_id)
            case ReleaseHold():
                found.add(operation.document.hold_id)
            case ReturnLease():
                found.add(operation.document.lease_id)
    return found


def load_claims(
    connection: Connection, payers: Iterable[bytes], book: Book
) -> tuple[set[str], set[bytes]]:
    """Read the claims on holds that the book has locked.

    Returns: the nodes of these claims, and the IDs of the jobs' holds (which may name transfers).
    """
    numbers = {book.holds[payer].number: payer for payer in payers if payer in book.holds}
    nodes: set[str] = set()
    holds: set[bytes] = set()
    for row in select_rows(connection, CLAIMS, "payer", numbers):
        claim = claim_from_row(row, numbers[row.payer])
        book.claims.setdefault(claim.payer_id, {})[claim.hold_id, claim.attempt] = claim
        nodes.add(claim.node_id)
        holds.add(claim.hold_id)
    return nodes, holds


def claim_from_row(row: Any, payer_id: bytes) -> ClaimEntry:
    """Make the record of a claim's row. Raises: MalformedError."""
    signed = decode_message(row.signed, Signed)
    return read_claim(signed, payer_id, ClaimState(row.state))


def write_claims(connection: Connection, book: Book) -> None:
    """Write new claims, and what became of those that were there."""
    place = _PLACES[connection.dialect.name]
    statement = (
        f"INSERT INTO {CLAIMS.name} "  # noqa: S608 - names of ours only
        "(hold_id, attempt, payer, node_id, signed, state) "
        f"VALUES ({', '.join([place] * 6)}) "
        # What became of a claim is final.
        "ON CONFLICT (hold_id, attempt) DO UPDATE SET state = excluded.state "
        f"WHERE {CLAIMS.name}.state = 'open'"
    )
    rows = [
        (
            claim.hold_id,
            claim.attempt,
            book.holds[claim.payer_id].number,
            claim.node_id,
            encode_message(claim.signed),
            claim.state.value,
        )
        for _, claim in sorted(book.changed_claims.items())
    ]
    connection.exec_driver_sql(statement, rows)
    book.changed_claims.clear()


# --- what the sweep does --------------------------------------------------------------------------
_DUE = (
    "SELECT DISTINCT t.transfer_id AS payer_id, c.hold_id AS hold_id, h.expires_ms "
    "FROM ledger_claims c JOIN ledger_holds h ON h.number = c.payer "
    "JOIN ledger_transfers t ON t.number = h.number "
    "LEFT JOIN ledger_transfers p ON p.transfer_id = c.hold_id AND h.is_lease = 1 "
    "WHERE c.state = 'open' AND h.state = 'open' AND p.number IS NULL "
    "AND h.expires_ms <= :now_ms ORDER BY h.expires_ms LIMIT :count_max"
)
_SETTLED = (
    "SELECT c.hold_id, c.attempt, c.signed, h.gateway_id, h.state AS hold_state, "
    "COALESCE(p.kind, e.kind) AS kind, COALESCE(p.request, e.request) AS request "
    "FROM ledger_claims c JOIN ledger_holds h ON h.number = c.payer "
    "LEFT JOIN ledger_transfers e ON e.number = h.ended_by "
    "LEFT JOIN ledger_transfers p ON p.transfer_id = c.hold_id AND h.is_lease = 1 "
    "WHERE c.state = 'open' AND (h.state <> 'open' OR p.number IS NOT NULL) "
    "ORDER BY c.hold_id, c.attempt LIMIT :count_max"
)


@dataclass(frozen=True, slots=True)
class SettledClaim:
    """An open claim whose job was settled by its gateway (`kind`, `request`: the transfer)."""

    hold_id: bytes
    attempt: int
    signed: bytes
    gateway_id: PeerId
    kind: str
    request: bytes


def due_claims(connection: Connection, now_ms: int, count_max: int) -> list[tuple[bytes, bytes]]:
    """Read (payer, hold) of the jobs with claims whose hold is over and was not settled."""
    rows = connection.execute(text(_DUE), {"now_ms": now_ms, "count_max": count_max})
    return [(row.payer_id, row.hold_id) for row in rows]


def settled_claims(connection: Connection, count_max: int) -> list[SettledClaim]:
    """Read the open claims on jobs that their gateways have settled meanwhile."""
    rows = connection.execute(text(_SETTLED), {"count_max": count_max})
    return [
        SettledClaim(
            row.hold_id, row.attempt, row.signed, PeerId(row.gateway_id), row.kind, row.request
        )
        for row in rows
    ]


def judge(settled: SettledClaim) -> tuple[ClaimState, str]:
    """Compare a claim with what its gateway paid: how it ends, and what was wrong.

    Tokens are compared, not amounts: a charge is rounded once for all legs of a job.
    """
    document = decode_message(decode_message(settled.signed, Signed).body, Claim)
    counted = decode_message(document.delivery.body, DeliveryCount)
    paid = paid_tokens(settled.kind, settled.request, document.receipt.peer_id)
    found = paid.get(counted.attempt, (0, 0))
    if found[0] >= counted.input_tokens and found[1] >= counted.output_tokens:
        return ClaimState.PAID, ""
    return ClaimState.UNDERPAID, (
        f"hold {settled.hold_id.hex()}: the gateway had counted {counted.input_tokens} input and "
        f"{counted.output_tokens} output tokens of attempt {counted.attempt} as delivered, and "
        f"settled {found[0]} and {found[1]}"
    )


def close_claim(
    connection: Connection, settled: SettledClaim, state: ClaimState, refusals: Sequence[Refusal]
) -> bool:
    """Write how a claim ended, with what is recorded for it; False if another was faster."""
    statement = (
        CLAIMS.update()
        .where(
            CLAIMS.c.hold_id == settled.hold_id,
            CLAIMS.c.attempt == settled.attempt,
            CLAIMS.c.state == ClaimState.OPEN.value,
        )
        .values(state=state.value)
    )
    if not connection.execute(statement).rowcount:
        return False
    add_refusals(connection, refusals)
    return True


# --- how holds stand ----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Standing:
    """How a hold stands (`p2p.claim_messages.HOLD_STATES`), and what its end paid to one node."""

    state: str
    input_tokens: int = 0
    output_tokens: int = 0


_KIND_STATES = {"capture": "captured", "leased_capture": "captured", "claim": "claimed"}


def hold_standing(
    connection: Connection,
    hold_id: bytes,
    lease_id: bytes,
    node_id: PeerId,
    attempt: int | None = None,
) -> Standing:
    """Read how a hold stands; one out of a lease that was not settled stands as its lease does.

    Args:
        attempt: count the tokens of this attempt of the node only.
    """
    if lease_id:
        settled = connection.execute(
            select(TRANSFERS.c.kind, TRANSFERS.c.request).where(TRANSFERS.c.transfer_id == hold_id)
        ).first()
        if settled is not None and settled.kind in ("leased_capture", "claim"):
            return _paid_standing(settled.kind, settled.request, node_id, attempt)
        return Standing(_state_of(connection, lease_id)[0])
    state, ended_by = _state_of(connection, hold_id)
    if state not in ("captured", "claimed"):
        return Standing(state)
    row = connection.execute(
        select(TRANSFERS.c.kind, TRANSFERS.c.request).where(TRANSFERS.c.number == ended_by)
    ).one()
    return _paid_standing(row.kind, row.request, node_id, attempt)


def _state_of(connection: Connection, transfer_id: bytes) -> tuple[str, int | None]:
    row = connection.execute(
        select(HOLDS.c.state, HOLDS.c.ended_by)
        .join(TRANSFERS, TRANSFERS.c.number == HOLDS.c.number)
        .where(TRANSFERS.c.transfer_id == transfer_id)
    ).first()
    return ("unknown", None) if row is None else (row.state, row.ended_by)


def _paid_standing(kind: str, request: bytes, node_id: PeerId, attempt: int | None) -> Standing:
    paid = paid_tokens(kind, request, node_id)
    counts = list(paid.values()) if attempt is None else [paid.get(attempt, (0, 0))]
    return Standing(
        _KIND_STATES[kind], sum(count[0] for count in counts), sum(count[1] for count in counts)
    )


def paid_tokens(kind: str, request: bytes, node_id: PeerId) -> dict[int, tuple[int, int]]:
    """Read what a transfer paid a node for: attempt -> (input, output tokens).

    Raises: MalformedError.
    """
    if kind not in _KIND_STATES or not request:
        return {}
    counts = [decode_message(leg.delivery.body, DeliveryCount) for leg in paid_legs(request)]
    return {
        count.attempt: (count.input_tokens, count.output_tokens)
        for count in counts
        if count.node_id == node_id
    }


def paid_legs(request: bytes) -> tuple[CaptureLeg, ...]:
    """Read the legs of a capture, a leased capture or the claims that a hold's end paid.

    Raises: MalformedError.
    """
    outer = decode_any_message(request)
    if isinstance(outer, PaidClaims):
        return claimed_legs(request).legs
    document = decode_any_message(decode_message(request, Signed).body)
    return document.legs if isinstance(document, CaptureRequest | LeasedCapture) else ()
