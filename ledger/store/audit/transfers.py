"""Owns the audit of transfers: each is decided again from its signed request, in their order.

Transfers of one namespace are numbered in the order of their commits (its row is locked from before
the number is taken until the commit), so balances can be followed by number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Table, func, select

from ledger.errors import IntegrityError
from ledger.log.leaves import LoggedTransfer, Opening, transfer_openings
from ledger.log.sources import transfer_source
from ledger.operations import (
    ExpireHold,
    MakeGrant,
    Operation,
    PlaceHold,
    ReleaseHold,
)
from ledger.records import ApiKeyEntry, Change, Namespace, TransferKind
from ledger.rules import decide
from ledger.stakes import ReturnStake, StakeSubcloud
from ledger.store.audit.captures import NO_BOUND, capture, lease_operation, use_secret
from ledger.store.audit.claims import claims_operation
from ledger.store.audit.disputes import dispute_known, resolution
from ledger.store.audit.limits import use_limits
from ledger.store.audit.report import AuditReport, Leaves, Replay
from ledger.store.audit.tokens import audit_tokens, context_of
from ledger.store.loading import key_from_row
from ledger.store.log.queries import logged_transfers
from ledger.store.tables import API_KEYS, ENTRIES, GRANTS, HOLDS, NAMESPACES, TRANSFERS
from ledger.store.usage_tables import USAGE, WORK
from ledger.usage import COUNTS, by_key, by_node
from p2p.api_keys import hold_mac
from p2p.codec import decode_message, encode_message
from p2p.ledger_messages import Grant, HoldRequest, ReleaseRequest
from p2p.signing import Signed, open_signed
from p2p.stake_messages import SubcloudStake, SubcloudUnstake
from p2p.types import PeerId

_PART = 500


def audit_transfers(
    connection: Connection, replay: Replay, leaves: Leaves, report: AuditReport
) -> None:
    """Do all transfers again, and compare them and everything that they moved with their rows."""
    final_keys = dict(replay.book.keys)
    for key in final_keys.values():
        # What became of a key later must not stop what it did before.
        replay.book.keys[key.key_id] = replace(key, revoked_ms=0)
    ends: dict[int, tuple[str, int, int | None]] = {}
    for numbers in _number_parts(connection):
        transfers = logged_transfers(connection, numbers)
        openings: dict[bytes, list[Opening]] = {}
        grants = _rows_by_number(connection, GRANTS, numbers)
        for transfer in transfers:
            with report.reading(f"transfer {transfer.transfer_id.hex()}"):
                replay_transfer(replay, transfer, grants.get(transfer.number), ends, report)
            with report.reading(f"the leaves of transfer {transfer.transfer_id.hex()}"):
                openings[transfer_source(transfer.number)] = transfer_openings(transfer)
        leaves.match(openings)
        report.count("transfers", len(transfers))
    _audit_positions(connection, report)
    _audit_ends(connection, ends, report)
    _audit_balances(connection, replay, final_keys, report)
    _audit_usage(connection, replay, report)
    audit_tokens(connection, replay, report)


def _number_parts(connection: Connection) -> Iterator[list[int]]:
    last = -(2**63)
    while True:
        statement = select(TRANSFERS.c.number).where(TRANSFERS.c.number > last)
        found = connection.execute(statement.order_by(TRANSFERS.c.number).limit(_PART))
        numbers = list(found.scalars())
        if not numbers:
            return
        yield numbers
        last = numbers[-1]


def _rows_by_number(connection: Connection, table: Table, numbers: Sequence[int]) -> dict[int, Any]:
    rows = connection.execute(select(table).where(table.c.number.in_(numbers)))
    return {row.number: row for row in rows}


def replay_transfer(
    replay: Replay,
    transfer: LoggedTransfer,
    grant: Any,
    ends: dict[int, tuple[str, int, int | None]],
    report: AuditReport,
) -> None:
    """Do one transfer again and compare; `grant` is its row among the grants, if it has one.

    Raises: LedgerError, P2PError, KeyError: it breaks a rule; nothing was done then.
    """
    name = f"transfer {transfer.transfer_id.hex()}"
    book = replay.book
    operation = _operation(replay, transfer)
    use_limits(replay, operation, transfer.at_ms)
    with dispute_known(replay, operation):
        change = decide(book, operation, transfer.at_ms)
    made = change.transfer
    if made is None:
        raise IntegrityError("the rules make no transfer of this request")
    book.apply(change)
    if replay.write is not None:
        replay.write(book)
    # What was made is compared and forgotten: a ledger may be larger than memory.
    for done in (book.new_transfers, book.new_holds, book.new_ends, book.new_grants):
        done.clear()
    book.past.clear()
    book.claims.clear()
    book.changed_claims.clear()
    book.minted.clear()
    report.compare(
        name,
        (
            transfer.transfer_id,
            transfer.kind,
            transfer.namespace,
            transfer.content,
            transfer.request,
            transfer.result,
            transfer.entries,
        ),
        (
            made.transfer_id,
            made.kind,
            made.namespace,
            made.content,
            made.request,
            encode_message(made.result),
            made.entries,
        ),
    )
    _audit_hold(replay, transfer, change, ends, report)
    if change.grant is not None:
        made_grant = change.grant
        found = grant and (grant.namespace, grant.mint_key, grant.amount, grant.at_ms)
        report.compare(
            f"the grant of {name}",
            found,
            (made_grant.namespace, made_grant.mint_key, made_grant.amount, transfer.at_ms),
        )
    elif grant is not None:
        report.problem(f"{name} is no grant")


def _audit_hold(
    replay: Replay,
    transfer: LoggedTransfer,
    change: Change,
    ends: dict[int, tuple[str, int, int | None]],
    report: AuditReport,
) -> None:
    hold, name = transfer.hold, f"the hold of transfer {transfer.transfer_id.hex()}"
    if change.hold is not None:
        expected = replace(change.hold, number=transfer.number)
        report.compare(name, hold, expected)
        replay.book.holds[expected.hold_id] = expected
        ends[transfer.number] = ("open", 0, None)
    elif change.end is not None:
        ended = replay.book.holds.pop(change.end.hold_id)
        replay.book.leases.pop(change.end.hold_id, None)
        replay.book.ends.clear()
        report.compare(name, hold, ended)
        ends[ended.number] = (change.end.state.value, change.end.charged, transfer.number)
    elif change.lease is not None:
        lease = replay.book.holds[change.lease.hold_id]
        report.compare(name, hold, lease)
        ends[lease.number] = ("open", change.lease.charged, None)
    else:
        report.compare(name, hold, None)


# --- from a row back to the operation that made it ---------------------------------------------
def _operation(replay: Replay, transfer: LoggedTransfer) -> Operation:
    network, hold = replay.network, transfer.hold
    if transfer.kind == TransferKind.EXPIRE and hold is not None:
        return ExpireHold(hold.hold_id, max(transfer.at_ms, hold.expires_ms))
    if transfer.kind == TransferKind.CLAIM and hold is not None:
        return claims_operation(replay, transfer)
    signed = decode_message(transfer.request, Signed)
    if transfer.kind == TransferKind.GRANT:
        if signed.signer not in replay.mint_keys:
            raise IntegrityError(
                "a grant is signed by a key that no given network configuration names"
            )
        return MakeGrant(signed, open_signed(signed, Grant, network), NO_BOUND)
    if transfer.kind == TransferKind.CORRECTION:
        return resolution(replay, transfer)
    if transfer.kind == TransferKind.STAKE:
        stake = open_signed(signed, SubcloudStake, network)
        return StakeSubcloud(signed, stake, network, 0, any_key=True)
    if transfer.kind == TransferKind.STAKE_RETURN:
        # Whether the subcloud had ended, only the policy of the moment knew.
        back = open_signed(signed, SubcloudUnstake, network)
        return ReturnStake(signed, back, True, any_key=True)
    if hold is None:
        raise IntegrityError("it belongs to no hold")
    match transfer.kind:
        case TransferKind.HOLD:
            document = open_signed(signed, HoldRequest, network)
            _use_key(replay, document, signed.peer_id)
            return PlaceHold(
                signed,
                document,
                network,
                signed.peer_id,
                hold.gateway_account,
                hold.model_digest,
                hold.fees,
                NO_BOUND,
                context=context_of(replay, hold, document),
            )
        case TransferKind.CAPTURE:
            return capture(replay, transfer, signed)
        case TransferKind.RELEASE:
            return ReleaseHold(signed, open_signed(signed, ReleaseRequest, network), signed.peer_id)
    if (operation := lease_operation(replay, transfer, signed)) is not None:
        return operation
    raise IntegrityError(f"this program knows no transfer of kind {transfer.kind!r}")


def _use_key(replay: Replay, document: HoldRequest, gateway_id: PeerId) -> None:
    def mac(hold_key: bytes) -> bytes:
        return hold_mac(
            hold_key,
            replay.network,
            gateway_id,
            document.hold_id,
            document.maximum,
            document.expires_ms,
        )

    use_secret(replay, document.key_id, mac, document.mac)


# --- what is left at the end ---------------------------------------------------------------------
def _audit_positions(connection: Connection, report: AuditReport) -> None:
    """Entries of a transfer are numbered from 0 on (their order alone is compared above)."""
    position = ENTRIES.c.position
    statement = (
        select(ENTRIES.c.transfer)
        .group_by(ENTRIES.c.transfer)
        .having((func.min(position) != 0) | (func.max(position) != func.count() - 1))
    )
    for number in connection.execute(statement).scalars():
        report.problem(f"the entries of transfer {number} are not numbered one after another")


def _audit_ends(
    connection: Connection, ends: dict[int, tuple[str, int, int | None]], report: AuditReport
) -> None:
    columns = (HOLDS.c.number, HOLDS.c.state, HOLDS.c.charged, HOLDS.c.ended_by)
    for number, *found in connection.execute(select(*columns)):
        report.compare(f"the end of hold {number}", tuple(found), ends.pop(number, None))
    for number in ends:
        report.problem(f"hold {number} is missing")


def _audit_balances(
    connection: Connection,
    replay: Replay,
    final_keys: dict[str, ApiKeyEntry],
    report: AuditReport,
) -> None:
    namespaces = {row.path: Namespace(*row) for row in connection.execute(select(NAMESPACES))}
    report.compare("the list of namespaces", set(namespaces), set(replay.book.namespaces))
    for path, namespace in replay.book.namespaces.items():
        report.compare(f"namespace {path}", namespaces.get(path), namespace)
    report.count("namespaces", len(namespaces))
    found: dict[str, Any] = {}
    for row in connection.execute(select(API_KEYS)):
        with report.reading(f"API key {row.key_id}"):
            found[row.key_id] = key_from_row(row)
    report.compare("the list of API keys", set(found), set(final_keys))
    for key_id, key in final_keys.items():
        stored, usage = found.get(key_id, (None, None))
        if stored is not None and not stored.created_ms:
            key = replace(key, created_ms=0)  # from before that was kept
        report.compare(f"API key {key_id}", stored, key)
        report.compare(f"the use of API key {key_id}", usage, replay.book.usage.get(key_id))
    report.count("API keys", len(found))


def _audit_usage(connection: Connection, replay: Replay, report: AuditReport) -> None:
    usage = {tuple(row[:4]): tuple(row[4:]) for row in connection.execute(select(USAGE))}
    consumed, worked = by_key(replay.book.consumed), by_node(replay.book.worked)
    width = len(COUNTS)
    expected = {tuple(key[:4]): counts.values[:width] for key, counts in consumed.items()}
    report.compare("the usage by day", usage, expected)
    work = {
        (row.namespace, row.day, row.node_id, row.account_id): (row.legs, row.earned)
        for row in connection.execute(select(WORK))
    }
    report.compare("the work by day", work, {tuple(k[:4]): v for k, v in worked.items()})
    report.count("days of usage", len(usage))
