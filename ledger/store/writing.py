"""Owns writing: the new and changed records of a book to rows of the database, in bulk."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection

from ledger.book import Book
from ledger.records import Hold, HoldState, Transfer
from ledger.store.statements import insert_rows, update_rows
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
            (usage.spent, usage.held, key_id)
            for key_id, usage in sorted(book.usage.items())
            if key_id in book.changed_usage
        ]
        update_rows(connection, API_KEYS, "key_id", ("spent", "held"), rows)
    if book.new_transfers:
        _write_transfers(connection, book)
    if book.changed_bindings:
        _write_bindings(connection, book)
    if book.new_records:
        insert_rows(
            connection,
            RECORDS,
            [(r.digest, r.purpose, r.subject, r.signed, r.at_ms) for r in book.new_records],
        )


def _write_transfers(connection: Connection, book: Book) -> None:
    transfers = book.new_transfers
    numbers = dict(
        zip(
            [transfer.transfer_id for transfer in transfers],
            _new_numbers(connection, len(transfers)),
            strict=True,
        )
    )

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
    )


def _write_keys(connection: Connection, book: Book) -> None:
    new = [book.keys[key_id] for key_id in sorted(book.new_keys)]
    revoked = [book.keys[key_id] for key_id in sorted(book.changed_keys - book.new_keys)]
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
            )
            for key in new
        ],
    )
    rows = [(key.revoked_ms, key.key_id) for key in revoked]
    update_rows(connection, API_KEYS, "key_id", ("revoked_ms",), rows)


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
    insert_rows(connection, ACCOUNTS, [(a.account_id, a.namespaces, a.created_ms) for a in new])
    keys = [
        (account.account_id, public_key, purpose, account.created_ms)
        for account in new
        for purpose, public_keys in (
            ("signing", account.signing_keys),
            ("recovery", account.recovery_keys),
        )
        for public_key in sorted(public_keys)
    ]
    insert_rows(connection, ACCOUNT_KEYS, keys)
    rows = [(a.namespaces, a.account_id) for a in rest]
    update_rows(connection, ACCOUNTS, "account_id", ("namespaces",), rows)


def _write_bindings(connection: Connection, book: Book) -> None:
    new = [book.bindings[peer_id] for peer_id in sorted(book.new_bindings)]
    moved = [book.bindings[p] for p in sorted(book.changed_bindings - book.new_bindings)]
    insert_rows(connection, NODE_BINDINGS, [(b.peer_id, b.account_id, b.bound_ms) for b in new])
    rows = [(b.account_id, b.bound_ms, b.peer_id) for b in moved]
    update_rows(connection, NODE_BINDINGS, "peer_id", ("account_id", "bound_ms"), rows)
