"""Owns reading: rows of the database to the records that a group of operations needs."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, func, select, text

from ledger.accounts import namespace_path
from ledger.book import Book
from ledger.claim_operations import RecordClaim, SettleClaims
from ledger.limits import GRANT_EPOCH_MS
from ledger.operations import (
    AdmitNode,
    AnswerDispute,
    AppendLog,
    BindNode,
    CaptureHold,
    CaptureLeased,
    ChangeAccountKeys,
    ChangeKeyLimits,
    CreateKey,
    ExpireHold,
    FoundAccount,
    FreezeEpoch,
    KeepUptime,
    MakeGrant,
    OpenDispute,
    OpenLease,
    OpenNamespace,
    Operation,
    PlaceHold,
    ReferAccount,
    ReleaseHold,
    ReturnLease,
    RevokeKey,
    RotateKey,
    transfer_id_of,
)
from ledger.records import (
    Account,
    ApiKeyEntry,
    Binding,
    Hold,
    HoldEnd,
    HoldState,
    KeyUsage,
    LeaseUse,
    Namespace,
    PastTransfer,
)
from ledger.stakes import ReturnStake, StakeSubcloud
from ledger.store.claim_store import claimed_payers, load_claims
from ledger.store.dispute_store import disputed_holds, load_charges, load_disputes
from ledger.store.exposure_store import load_exposures
from ledger.store.log.writing import lock_log, pending_of
from ledger.store.opening_writing import load_openings
from ledger.store.rcp_writing import load_frozen_day
from ledger.store.stake_queries import load_stakes
from ledger.store.statements import select_holds, select_past, select_rows
from ledger.store.tables import (
    ACCOUNT_KEYS,
    ACCOUNTS,
    API_KEYS,
    GRANTS,
    NAMESPACES,
    NODE_BINDINGS,
)
from ledger.store.token_store import load_token_uses
from p2p.codec import decode_message
from p2p.key_limits import NO_LIMITS, KeyLimits
from p2p.ledger_messages import TransferResult
from p2p.prices import FeeRule, PriceTerms
from p2p.types import AccountId, PeerId, account_id_from_founding

_GRANTS_LOCK = 0x6772_616E_7473
"""PostgreSQL advisory lock: a cap counts rows that another process may just be adding."""

_COMMON = frozenset({PlaceHold, CaptureHold, CaptureLeased})
"""Nearly all operations; they need nothing but what `_Needs` names."""


class _Needs:
    """What the operations of a group name."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.accounts: set[str] = set()
        self.namespaces: set[str] = set()
        self.keys: set[str] = set()
        self.holds: set[bytes] = set()
        self.peers: set[str] = set()
        self.transfers: set[bytes] = set()
        self.mint_keys: set[bytes] = set()
        for operation in operations:
            self._add(operation)

    def _add(self, operation: Operation) -> None:
        transfer_id = transfer_id_of(operation)
        if transfer_id is not None:
            self.transfers.add(transfer_id)
        match operation:
            case PlaceHold():
                self.keys.add(operation.document.key_id)
            case CaptureHold():
                self.holds.add(operation.document.hold_id)
                self.peers.update([leg.node_id for leg in operation.legs])
                self.peers.update([node_id for node_id, _ in operation.failures])
            case ReleaseHold():
                self.holds.add(operation.document.hold_id)
            case CaptureLeased():
                self.holds.add(operation.hold.lease_id)
                self.peers.update([leg.node_id for leg in operation.legs])
                self.peers.update([node_id for node_id, _ in operation.failures])
            case ExpireHold():
                self.holds.add(operation.hold_id)
            case RecordClaim():
                self.holds.add(operation.payer_id)
                self.transfers.add(operation.document.hold_id)
                self.peers.add(operation.leg.node_id)
            case SettleClaims():
                self.holds.add(operation.payer_id)
            case _:
                self._add_rare(operation)

    def _add_rare(self, operation: Operation) -> None:
        match operation:
            case OpenLease():
                self.keys.add(operation.document.key_id)
            case ReturnLease():
                self.holds.add(operation.document.lease_id)
            case StakeSubcloud(document=stake) | ReturnStake(document=stake):
                self.accounts.add(stake.account_id)
                self.namespaces.add(namespace_path(stake.account_id, stake.namespace))
            case MakeGrant(document=grant):
                self.namespaces.add(namespace_path(grant.account_id, grant.namespace))
                self.mint_keys.add(operation.signed.signer)
            case FoundAccount():
                self.accounts.add(account_id_from_founding(operation.signed.body))
            case ReferAccount(document=referral):
                self.accounts |= {referral.account_id, referral.referrer}
            case OpenNamespace(document=opening):
                self.accounts.add(opening.account_id)
                self.namespaces.add(namespace_path(opening.account_id, opening.namespace))
            case CreateKey(document=creation):
                self.accounts.add(creation.account_id)
                self.namespaces.add(namespace_path(creation.account_id, creation.namespace))
                self.keys.add(creation.key_id)
            case ChangeAccountKeys() | OpenDispute() | AnswerDispute():
                self.accounts.add(operation.document.account_id)
            case RevokeKey() | RotateKey() | ChangeKeyLimits():
                self.accounts.add(operation.document.account_id)
                self.keys.add(operation.document.key_id)
            case BindNode():
                self.peers.add(operation.peer_id)
            case AdmitNode(invitation=invitation):
                self.peers.add(invitation.peer_id)
                self.accounts.add(invitation.account_id)


def load_book(connection: Connection, operations: Sequence[Operation], now_ms: int) -> Book:
    """Read (and on PostgreSQL lock) every record that a group of operations names."""
    needs, book = _Needs(operations), Book()
    if needs.mint_keys:
        _load_minted(connection, needs.mint_keys, now_ms, book)
    rare = [operation for operation in operations if type(operation) not in _COMMON]
    load_openings(connection, rare, book)
    if any(isinstance(operation, FreezeEpoch | KeepUptime) for operation in rare):
        book.frozen_day = load_frozen_day(connection)
    if any(isinstance(operation, AppendLog) for operation in rare):
        book.log_size = lock_log(connection)
        book.log_pending = pending_of(connection, rare)
    if needs.accounts:
        book.accounts = _accounts(connection, needs.accounts, lock=True)
    for row in select_holds(connection, needs.holds):
        hold, end = hold_from_row(row)
        book.holds[hold.hold_id] = hold
        if end is not None:
            book.ends[hold.hold_id] = end
        if hold.is_lease:
            book.leases[hold.hold_id] = lease_use_from_row(row)
        needs.keys.add(hold.key_id)
    if disputed := disputed_holds(rare):
        load_charges(connection, disputed, book)
        needs.keys.update(charge.key_id for charge in book.disputes.charges.values())
    for row in select_rows(connection, API_KEYS, "key_id", needs.keys, lock=True):
        key, usage = key_from_row(row)
        book.keys[key.key_id] = key
        book.usage[key.key_id] = usage
        needs.namespaces.add(key.namespace)
    for row in select_rows(connection, NAMESPACES, "path", needs.namespaces, lock=True):
        book.namespaces[row[0]] = Namespace(*row)
    load_exposures(connection, operations, book)
    load_token_uses(connection, operations, book)
    if claimed := claimed_payers(rare):
        nodes, parts = load_claims(connection, claimed, book)
        needs.peers |= nodes
        needs.transfers |= parts
    for row in select_rows(connection, NODE_BINDINGS, "peer_id", needs.peers):
        book.bindings[row[0]] = Binding(*row)
    # After the locks: whoever used one of these IDs before has committed by now.
    for transfer_id, content, result in select_past(connection, needs.transfers):
        book.past[transfer_id] = PastTransfer(content, decode_message(result, TransferResult))
    if disputed:
        load_disputes(connection, rare, book)
    load_stakes(connection, rare, book)
    return book


def _load_minted(
    connection: Connection, mint_keys: Collection[bytes], now_ms: int, book: Book
) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _GRANTS_LOCK})
    epoch_start_ms = now_ms - now_ms % GRANT_EPOCH_MS
    statement = (
        select(GRANTS.c.mint_key, func.sum(GRANTS.c.amount))
        .where(GRANTS.c.mint_key.in_(list(mint_keys)), GRANTS.c.at_ms >= epoch_start_ms)
        .group_by(GRANTS.c.mint_key)
    )
    for mint_key, amount in connection.execute(statement):
        book.minted[mint_key] = int(amount)


def _accounts(
    connection: Connection, account_ids: Collection[str], *, lock: bool
) -> dict[str, Account]:
    rows = select_rows(connection, ACCOUNTS, "account_id", account_ids, lock=lock)
    keys: dict[tuple[str, str], set[bytes]] = {}
    for account_id, public_key, purpose, _, removed_ms in select_rows(
        connection, ACCOUNT_KEYS, "account_id", account_ids
    ):
        keys.setdefault((account_id, "retired" if removed_ms else purpose), set()).add(public_key)
    return {
        account_id: Account(
            AccountId(account_id),
            frozenset(keys.get((account_id, "signing"), ())),
            frozenset(keys.get((account_id, "recovery"), ())),
            namespaces,
            created_ms,
            frozenset(keys.get((account_id, "retired"), ())),
            key_changes,
            last_key_change,
            operations,
        )
        for account_id, namespaces, created_ms, operations, key_changes, last_key_change in rows
    }


def account_of(connection: Connection, account_id: str) -> Account | None:
    """Read one account, without locking it."""
    return _accounts(connection, [account_id], lock=False).get(account_id)


@functools.lru_cache(maxsize=1024)
def _terms(encoded: bytes) -> PriceTerms:
    return decode_message(encoded, PriceTerms)


@functools.lru_cache(maxsize=1024)
def _names(encoded: str) -> tuple[str, ...]:
    return tuple(json.loads(encoded))


@functools.lru_cache(maxsize=1024)
def _limits(encoded: bytes) -> KeyLimits:
    return decode_message(encoded, KeyLimits) if encoded else NO_LIMITS


def hold_from_row(row: Sequence[Any]) -> tuple[Hold, HoldEnd | None]:
    """Make the records of a hold's row (its columns in order, then its ID)."""
    (
        number,
        job_id,
        key_id,
        namespace,
        gateway_id,
        gateway_account,
        model_digest,
        maximum,
        terms,
        gateway_basis_points,
        network_basis_points,
        issued_ms,
        expires_ms,
        state,
        charged,
        _,
        usage_day,
        is_lease,
        _,
        owner_account,
        hold_id,
    ) = row
    priced = _terms(terms)
    hold = Hold(
        hold_id,
        job_id,
        key_id,
        namespace,
        PeerId(gateway_id),
        AccountId(gateway_account),
        model_digest,
        maximum,
        priced,
        FeeRule(gateway_basis_points, network_basis_points).under(priced),
        issued_ms,
        expires_ms,
        number,
        usage_day,
        bool(is_lease),
        AccountId(owner_account),
    )
    if state == HoldState.OPEN:
        return hold, None
    return hold, HoldEnd(hold_id, HoldState(state), charged, None)


def lease_use_from_row(row: Sequence[Any]) -> LeaseUse:
    """Make the record of what became of a lease, from its hold's row."""
    hold_id, returned, charged = row[-1], row[-3], row[14]
    return LeaseUse(hold_id, charged, returned)


def key_from_row(row: Sequence[Any]) -> tuple[ApiKeyEntry, KeyUsage]:
    """Make the records of an API key's row."""
    key_id, namespace, hold_key, name, expires_ms, revoked_ms, cap, *rest = row
    models, gateways, content, spent, held, limits, *rest = rest
    generation, previous_hold_key, previous_until_ms, created_ms, *rest = rest
    usage_day, day_used, limit_changes = rest
    key = ApiKeyEntry(
        key_id,
        namespace,
        hold_key,
        name,
        expires_ms,
        revoked_ms,
        cap,
        _names(models),
        _names(gateways),
        content,
        _limits(limits),
        generation,
        previous_hold_key,
        previous_until_ms,
        created_ms,
        limit_changes,
    )
    return key, KeyUsage(key_id, spent, held, usage_day, day_used)
