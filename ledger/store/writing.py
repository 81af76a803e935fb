"""Owns writing: the new and changed records of a book to rows of the database, in bulk."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, update

from ledger.book import Book
from ledger.conduct import COUNTERS
from ledger.log.sources import transfer_source
from ledger.records import Account, Hold, HoldState, Transfer
from ledger.store.claim_store import write_claims
from ledger.store.conduct_tables import CONDUCT
from ledger.store.dispute_store import write_disputes
from ledger.store.exposure_store import write_exposures
from ledger.store.log.writing import enqueue, write_batch, write_pending
from ledger.store.opening_writing import write_openings
from ledger.store.rcp_writing import write_rcp
from ledger.store.statements import insert_rows, select_rows, update_rows
from ledger.store.tables import (
    ACCOUNT_KEYS,
    ACCOUNTS,
    API_KEYS,
    ENTRIES,
    GRANTS,
    HOLDS,
    NAMESPACES,
    NODE_BINDINGS,
    NUMBERS,
    RECORDS,
    TRANSFERS,
)
from ledger.store.token_store import write_token_uses
from ledger.store.usage_writing import add_counters, write_usage
from p2p.codec import encode_message
from p2p.prices import PriceTerms

Values = tuple[Any, ...]


def write_book(connection: Connection, book: Book) -> None:
    """Write everything that is new or changed in a book, parents before children."""
    if book.changed_accounts:
        _write_accounts(connection, book)
    if book.changed_namespaces:
        _write_namespaces(connection, book)
    if book.changed_keys:
        _write_keys(connection, book)
    if book.changed_usage:
        rows = [
            (usage.spent, usage.held, usage.day, usage.day_used, key_id)
            for key_id, usage in sorted(book.usage.items())
            if key_id in book.changed_usage
        ]
        columns = ("spent", "held", "usage_day", "day_used")
        update_rows(connection, API_KEYS, "key_id", columns, rows)
    if book.consumed:
        write_usage(connection, book)
    if book.new_referrals or book.new_invite_uses or book.new_node_invite_uses:
        write_openings(connection, book)
    if book.new_uptime or book.new_epochs:
        write_rcp(connection, book)
    if book.new_transfers:
        _write_transfers(connection, book)
    if book.changed_exposures:
        write_exposures(connection, book)
    if book.changed_token_uses or book.locked_tokens:
        write_token_uses(connection, book)
    if book.changed_claims:
        write_claims(connection, book)
    if book.new_records or book.changed_bindings:
        write_pending(connection, book)
    for batch in book.new_log_batches:
        write_batch(connection, batch)
    if book.changed_bindings:
        _write_bindings(connection, book)
    if book.new_records:
        insert_rows(
            connection,
            RECORDS,
            [
                (r.digest, r.purpose, r.subject, r.signed, r.at_ms, r.account_id, r.operation)
                for r in book.new_records
            ],
        )
    if book.conduct:
        conduct = [(*key, *counts) for key, counts in sorted(book.conduct.items())]
        add_counters(connection, CONDUCT, COUNTERS, conduct)
    if book.disputes.new_disputes or book.disputes.new_answers or book.disputes.new_decisions:
        write_disputes(connection, book)


def _write_transfers(connection: Connection, book: Book) -> None:
    transfers = book.new_transfers
    ids = [transfer.transfer_id for transfer in transfers]
    kept = [book.numbers[transfer_id] for transfer_id in ids] if book.numbers else None
    numbers = dict(zip(ids, kept or _new_numbers(connection, len(ids)), strict=True))

    def hold_number(hold_id: bytes | None) -> int | None:
        if hold_id is None:
            return None
        return numbers.get(hold_id) or book.holds[hold_id].number

    insert_rows(
        connection,
        TRANSFERS,
        [
            (
                numbers[transfer.transfer_id],
                transfer.transfer_id,
                transfer.kind.value,
                transfer.namespace,
                hold_number(transfer.hold_id),
                transfer.content,
                transfer.request,
                encode_message(transfer.result),
                transfer.at_ms,
            )
            for transfer in transfers
        ],
    )
    insert_rows(connection, ENTRIES, list(_entry_rows(transfers, numbers)))
    enqueue(connection, [transfer_source(number) for number in numbers.values()])
    insert_rows(
        connection, HOLDS, [_hold_row(hold, numbers[hold.hold_id]) for hold in book.new_holds]
    )
    update_rows(
        connection,
        HOLDS,
        "number",
        ("state", "charged", "ended_by"),
        [
            (end.state.value, end.charged, numbers[end.ended_by], hold_number(end.hold_id))
            for end in book.new_ends
            if end.ended_by is not None
        ],
    )
    leases = [book.leases[lease_id] for lease_id in sorted(book.changed_leases)]
    rows = [(lease.charged, lease.returned, hold_number(lease.hold_id)) for lease in leases]
    update_rows(connection, HOLDS, "number", ("charged", "returned"), rows)
    insert_rows(
        connection,
        GRANTS,
        [
            (numbers[g.grant_id], g.namespace, g.mint_key, g.amount, g.at_ms)
            for g in book.new_grants
        ],
    )


def _new_numbers(connection: Connection, count: int) -> list[int]:
    if connection.dialect.name == "sqlite":
        # The writer has the file to itself until it commits, and transfers are never deleted.
        statement = f"SELECT COALESCE(MAX(number), 0) FROM {TRANSFERS.name}"  # noqa: S608
        last: int = connection.exec_driver_sql(statement).scalar_one()
        return list(range(last + 1, last + 1 + count))
    statement = f"SELECT nextval('{NUMBERS}') FROM generate_series(1, %s)"  # noqa: S608
    return list(connection.exec_driver_sql(statement, (count,)).scalars())


def _entry_rows(transfers: Iterable[Transfer], numbers: Mapping[bytes, int]) -> Iterable[Values]:
    for transfer in transfers:
        number = numbers[transfer.transfer_id]
        for position, (account, amount) in enumerate(transfer.entries):
            yield number, position, account, amount


@functools.lru_cache(maxsize=1024)
def _encoded_terms(terms: PriceTerms) -> bytes:
    return encode_message(terms)


def _hold_row(hold: Hold, number: int) -> Values:
    return (
        number,
        hold.job_id,
        hold.key_id,
        hold.namespace,
        hold.gateway_id,
        hold.gateway_account,
        hold.model_digest,
        hold.maximum,
        _encoded_terms(hold.terms),
        hold.fees.gateway_basis_points,
        hold.fees.network_basis_points,
        hold.issued_ms,
        hold.expires_ms,
        HoldState.OPEN.value,
        0,
        None,
        hold.usage_day,
        int(hold.is_lease),
        0,
        hold.owner_account,
    )


def _write_keys(connection: Connection, book: Book) -> None:
    new = [book.keys[key_id] for key_id in sorted(book.new_keys)]
    rest = [book.keys[key_id] for key_id in sorted(book.changed_keys - book.new_keys)]
    insert_rows(
        connection,
        API_KEYS,
        [
            (
                key.key_id,
                key.namespace,
                key.hold_key,
                key.name,
                key.expires_ms,
                key.revoked_ms,
                key.credit_cap_total,
                json.dumps(key.models),
                json.dumps(key.gateways),
                key.content,
                0,
                0,
                encode_message(key.limits),
                key.generation,
                key.previous_hold_key,
                key.previous_until_ms,
                key.created_ms,
                0,
                0,
                key.limit_changes,
            )
            for key in new
        ],
    )
    as_they_are = (
        *("revoked_ms", "hold_key", "generation", "previous_hold_key", "previous_until_ms"),
        *("expires_ms", "credit_cap_total", "limit_changes"),
    )
    rows = [
        (
            *(getattr(key, name) for name in as_they_are),
            json.dumps(key.models),
            json.dumps(key.gateways),
            encode_message(key.limits),
            key.key_id,
        )
        for key in rest
    ]
    columns = (*as_they_are, "models", "gateways", "limits")
    update_rows(connection, API_KEYS, "key_id", columns, rows)


def _write_namespaces(connection: Connection, book: Book) -> None:
    new = [book.namespaces[path] for path in sorted(book.new_namespaces)]
    moved = [
        book.namespaces[path] for path in sorted(book.changed_namespaces - book.new_namespaces)
    ]
    insert_rows(
        connection,
        NAMESPACES,
        [(n.path, n.account_id, n.name, n.available, n.held, n.grants, n.keys) for n in new],
    )
    update_rows(
        connection,
        NAMESPACES,
        "path",
        ("available", "held", "grants", "keys"),
        [(n.available, n.held, n.grants, n.keys, n.path) for n in moved],
    )


def _write_accounts(connection: Connection, book: Book) -> None:
    new = [book.accounts[account_id] for account_id in sorted(book.new_accounts)]
    rest = [book.accounts[a] for a in sorted(book.changed_accounts - book.new_accounts)]
    values = {account.account_id: _account_values(account) for account in (*new, *rest)}
    insert_rows(
        connection,
        ACCOUNTS,
        [
            (a.account_id, values[a.account_id][0], a.created_ms, *values[a.account_id][1:])
            for a in new
        ],
    )
    for account in new:
        _write_account_keys(connection, account, account.created_ms, [])
    for account in rest:
        if account.account_id in book.changed_account_keys:
            at_ms = book.changed_account_keys[account.account_id]
            rows = select_rows(connection, ACCOUNT_KEYS, "account_id", [account.account_id])
            _write_account_keys(connection, account, at_ms, rows)
    columns = ("namespaces", "operations", "key_changes", "last_key_change")
    rows = [(*values[a.account_id], a.account_id) for a in rest]
    update_rows(connection, ACCOUNTS, "account_id", columns, rows)


def _account_values(account: Account) -> Values:
    return (account.namespaces, account.operations, account.key_changes, account.last_key_change)


def _write_account_keys(
    connection: Connection, account: Account, at_ms: int, rows: Sequence[Values]
) -> None:
    """Bring an account's rows up to date; a row stays for ever, removed keys are marked."""
    known = {row[1] for row in rows}
    current = [("signing", key) for key in sorted(account.signing_keys)]
    current += [("recovery", key) for key in sorted(account.recovery_keys)]
    found = [(account.account_id, key, purpose, at_ms, 0) for purpose, key in current]
    # Added and removed within one group of operations.
    passing = [
        (account.account_id, key, "signing", at_ms, at_ms) for key in sorted(account.retired_keys)
    ]
    insert_rows(connection, ACCOUNT_KEYS, [row for row in found + passing if row[1] not in known])
    removed = [row[1] for row in rows if not row[4] and row[1] in account.retired_keys]
    if removed:
        connection.execute(
            update(ACCOUNT_KEYS)
            .where(
                ACCOUNT_KEYS.c.account_id == account.account_id,
                ACCOUNT_KEYS.c.public_key.in_(removed),
            )
            .values(removed_ms=max(at_ms, 1))
        )


def _write_bindings(connection: Connection, book: Book) -> None:
    new = [book.bindings[peer_id] for peer_id in sorted(book.new_bindings)]
    moved = [book.bindings[p] for p in sorted(book.changed_bindings - book.new_bindings)]
    insert_rows(connection, NODE_BINDINGS, [(b.peer_id, b.account_id, b.bound_ms) for b in new])
    rows = [(b.account_id, b.bound_ms, b.peer_id) for b in moved]
    update_rows(connection, NODE_BINDINGS, "peer_id", ("account_id", "bound_ms"), rows)
