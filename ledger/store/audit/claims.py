"""Owns the audit of claims and of gateways' exposure.

What claims were paid is decided again from the claims that the transfer carries; then every claim
that was kept is verified, and what became of it is compared with what the job's transfer says: a
ledger that leaves out a claim it had taken is found here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, select, text

from ledger.claim_operations import SettleClaims
from ledger.claims import ClaimEntry, ClaimState, payable, read_claim
from ledger.errors import IntegrityError
from ledger.lease_rules import check_part, leased_part
from ledger.log.leaves import LoggedTransfer
from ledger.receipts import settle
from ledger.records import Hold, TransferKind
from ledger.store.audit.captures import bind_nodes, verified_legs
from ledger.store.audit.report import AuditReport, Replay
from ledger.store.claim_store import SettledClaim, judge
from ledger.store.claim_tables import CLAIMS
from ledger.store.exposure_tables import EXPOSURES
from ledger.store.loading import hold_from_row
from ledger.store.tables import HOLDS, TRANSFERS
from p2p.claim_messages import Claim, PaidClaims
from p2p.codec import decode_message
from p2p.job_messages import NodeReceipt
from p2p.lease_messages import LeasedHold
from p2p.ledger_messages import CaptureLeg
from p2p.signing import Signed, open_signed
from p2p.types import NetworkId, PeerId, public_key_of

_ROWS_AT_ONCE = 500
_NO_BOUND = 2**62


def claims_operation(replay: Replay, transfer: LoggedTransfer) -> SettleClaims:
    """Make the operation that paid these claims, and put them into the book.

    Raises: P2PError, IntegrityError, KeyError.
    """
    assert transfer.hold is not None
    payer = replay.book.holds[transfer.hold.hold_id]
    claims = [
        verified_claim(replay.network, signed, payer)
        for signed in decode_message(transfer.request, PaidClaims).claims
    ]
    replay.book.claims[payer.hold_id] = {(c.hold_id, c.attempt): c for c in claims}
    bind_nodes(replay, transfer, _job_hold(payer, claims[0]), tuple(c.leg for c in claims))
    now_ms = max(transfer.at_ms, payer.expires_ms)
    return SettleClaims(payer.hold_id, claims[0].hold_id, now_ms)


def verified_claim(network: NetworkId, signed: Signed, payer: Hold) -> ClaimEntry:
    """Verify every signature of a claim and read it. Raises: P2PError, IntegrityError."""
    document = open_signed(signed, Claim, network)
    if document.receipt.signer != signed.signer:
        raise IntegrityError("a claim is signed by another node than its receipt")
    gateway_key = public_key_of(payer.gateway_id)
    leg = CaptureLeg(document.receipt, document.delivery)
    verified_legs(Replay(network, frozenset()), [leg], gateway_key)
    if document.leased_hold is not None:
        open_signed(document.leased_hold, LeasedHold, network, signer=gateway_key)
    claim = read_claim(signed, payer.hold_id, ClaimState.OPEN)
    if payer.hold_id != (claim.hold_id if claim.part is None else claim.part.lease_id):
        raise IntegrityError("a claim is kept on another hold than it names")
    return claim


def _job_hold(payer: Hold, claim: ClaimEntry) -> Hold:
    if claim.part is None:
        return payer
    check_part(payer, claim.part)
    return leased_part(payer, claim.part)


# --- the claims that were kept -----------------------------------------------------------------
def audit_claims(connection: Connection, network: NetworkId, report: AuditReport) -> None:
    """Verify each claim, and that what became of it is what its job's transfer says."""
    for rows in _jobs(connection):
        name = f"the claims on hold {rows[0].hold_id.hex()}"
        with report.reading(name):
            _audit_job(connection, network, rows, name, report)
        report.count("claims", len(rows))
    with report.reading("the claims that were paid"):
        _audit_paid(connection, report)


def _audit_paid(connection: Connection, report: AuditReport) -> None:
    """Every claim that a transfer paid must have been kept."""
    columns = (CLAIMS.c.hold_id, CLAIMS.c.attempt)
    paid = connection.execute(select(*columns).where(CLAIMS.c.state == ClaimState.PAID.value))
    kept = {tuple(row) for row in paid}
    requests = select(TRANSFERS.c.request).where(TRANSFERS.c.kind == TransferKind.CLAIM.value)
    for request in connection.execute(requests).scalars():
        for signed in decode_message(request, PaidClaims).claims:
            claim = decode_message(signed.body, Claim)
            attempt = decode_message(claim.receipt.body, NodeReceipt).attempt
            if (claim.hold_id, attempt) not in kept:
                report.problem(f"a claim on hold {claim.hold_id.hex()} was paid, but is not kept")


def _jobs(connection: Connection) -> Iterator[list[Any]]:
    statement = select(CLAIMS).order_by(CLAIMS.c.hold_id, CLAIMS.c.attempt)
    job: list[Any] = []
    for row in connection.execute(statement).yield_per(_ROWS_AT_ONCE):
        if job and job[0].hold_id != row.hold_id:
            yield job
            job = []
        job.append(row)
    if job:
        yield job


def _audit_job(
    connection: Connection, network: NetworkId, rows: Sequence[Any], name: str, report: AuditReport
) -> None:
    payer = _payer(connection, rows[0].payer)
    claims: list[ClaimEntry] = []
    for row in rows:
        claim = verified_claim(network, decode_message(row.signed, Signed), payer)
        settle(_job_hold(payer, claim), [claim.leg], _NO_BOUND)
        own = (claim.hold_id, claim.attempt, claim.node_id, payer.number)
        report.compare(name, (row.hold_id, row.attempt, row.node_id, row.payer), own)
        claims.append(claim)
    settled = _settlement(connection, rows[0])
    for row, allowed in zip(rows, _allowed(payer, claims, rows, settled), strict=True):
        if row.state not in allowed:
            report.problem(f"{name}: one is {row.state}, and should be {allowed[0]}")


def _payer(connection: Connection, number: int) -> Hold:
    row = connection.execute(
        select(HOLDS, TRANSFERS.c.transfer_id)
        .join(TRANSFERS, TRANSFERS.c.number == HOLDS.c.number)
        .where(HOLDS.c.number == number)
    ).one()
    return hold_from_row(row)[0]


_SETTLEMENT = (
    "SELECT COALESCE(p.kind, e.kind) AS kind, COALESCE(p.request, e.request) AS request, "
    "COALESCE(p.at_ms, e.at_ms) AS at_ms FROM ledger_holds h "
    "LEFT JOIN ledger_transfers e ON e.number = h.ended_by "
    "LEFT JOIN ledger_transfers p ON p.transfer_id = :hold_id AND h.is_lease = 1 "
    "WHERE h.number = :payer"
)


def _settlement(connection: Connection, row: Any) -> Any:
    """Read the transfer that settled a job, or ended its lease; its kind is None if none did."""
    values = {"hold_id": row.hold_id, "payer": row.payer}
    return connection.execute(text(_SETTLEMENT), values).one()


def _allowed(
    payer: Hold, claims: Sequence[ClaimEntry], rows: Sequence[Any], settled: Any
) -> list[tuple[str, ...]]:
    """Say what each claim of a job may be, what it should be first."""
    ended_ms = settled.at_ms or payer.expires_ms
    chosen, _ = payable(_job_hold(payer, claims[0]), claims, _NO_BOUND, ended_ms)
    if settled.kind == "claim":
        paid = decode_message(settled.request, PaidClaims).claims
        if not payer.is_lease and [claim.signed for claim in chosen] != list(paid):
            raise IntegrityError("its end paid other claims than those that were kept")
        return [(("paid" if claim.signed in paid else "dropped"),) for claim in claims]
    if settled.kind == "expire":
        if chosen and not payer.is_lease:
            raise IntegrityError("it expired, and there were claims to pay")
        return [("dropped",) for _ in claims]
    if settled.kind is None:
        # Nothing could be paid of what is dropped already: the hold is about to expire.
        return [("open", *(() if claim in chosen else ("dropped",))) for claim in claims]
    judged = [
        judge(
            SettledClaim(
                row.hold_id,
                row.attempt,
                row.signed,
                PeerId(payer.gateway_id),
                settled.kind,
                settled.request,
            )
        )[0].value
        for row in rows
    ]
    return [(one, "open") for one in judged]


# --- exposure ----------------------------------------------------------------------------------
def audit_exposure(connection: Connection, replay: Replay, report: AuditReport) -> None:
    """Compare what each gateway holds, and what was charged through it, with the transfers."""
    found = {row[0]: tuple(row[1:]) for row in connection.execute(select(EXPOSURES))}
    made = {e.gateway_id: (e.held, e.day, e.charged) for e in replay.book.exposures.values()}
    for gateway_id in sorted({*found, *made}):
        nothing = (0, 0, 0)
        report.compare(
            f"the exposure of gateway {gateway_id}",
            found.get(gateway_id, nothing),
            made.get(gateway_id, nothing),
        )
    report.count("gateways", len(found))
