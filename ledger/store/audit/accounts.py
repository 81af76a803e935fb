"""Owns the audit of accounts, namespaces' and API keys' records, and node bindings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, select

from ledger.errors import IntegrityError
from ledger.log.leaves import Opening, record_opening
from ledger.log.sources import BINDING, binding_of, binding_source, record_source
from ledger.operations import (
    AdmitNode,
    AnswerDispute,
    ChangeAccountKeys,
    ChangeKeyLimits,
    CreateKey,
    FoundAccount,
    OpenDispute,
    OpeningRule,
    OpenNamespace,
    Operation,
    ReferAccount,
    RevokeKey,
    RotateKey,
)
from ledger.records import Account
from ledger.rules import decide
from ledger.store.audit.disputes import dispute_known
from ledger.store.audit.limits import note_limits
from ledger.store.audit.openings import audit_openings
from ledger.store.audit.report import AuditReport, Leaves, Replay
from ledger.store.loading import account_of
from ledger.store.log.tables import LOG_LEAVES, LOG_PENDING
from ledger.store.tables import ACCOUNT_KEYS, ACCOUNTS, NODE_BINDINGS, RECORDS
from p2p.account_messages import AccountKeyChange, ApiKeyRotation, KeyLimitsChange
from p2p.codec import decode_any_message, decode_message
from p2p.dispute_messages import DisputeAnswer, DisputeOpening
from p2p.ledger_messages import AccountFounding, KeyCreation, KeyRevocation, NamespaceOpening
from p2p.log_messages import BindingLeaf
from p2p.node_invites import NodeAdmission, open_admission
from p2p.opening_messages import InvitedFounding, Referral, open_opening
from p2p.signing import Signed, open_signed
from p2p.types import AccountId, NetworkId
from p2p.usage_messages import RcpEpoch

_KINDS: tuple[tuple[type[Any], Callable[[Signed, Any], Operation]], ...] = (
    (AccountFounding, FoundAccount),
    (InvitedFounding, FoundAccount),
    (NamespaceOpening, OpenNamespace),
    (KeyCreation, CreateKey),
    (KeyRevocation, RevokeKey),
    (ApiKeyRotation, RotateKey),
    (KeyLimitsChange, ChangeKeyLimits),
    (AccountKeyChange, ChangeAccountKeys),
    (DisputeOpening, lambda signed, document: OpenDispute(signed, document, b"", NO_BOUND)),
    (DisputeAnswer, AnswerDispute),
    (NodeAdmission, lambda signed, document: AdmitNode(document)),  # opened above
    (Referral, lambda signed, document: ReferAccount(signed, document, NO_BOUND, NO_BOUND)),
)
"""In the order in which they can follow each other, for records from before they had numbers."""
_ORDER = {kind.PURPOSE: place for place, (kind, _) in enumerate(_KINDS)}

_OPENINGS = (AccountFounding.PURPOSE, InvitedFounding.PURPOSE)
NO_BOUND = 2**62
"""A bound that only the configuration of the moment knew, or that depends on the order."""

KeyTimes = dict[tuple[str, bytes], tuple[int, int]]


def account_operation(signed: Signed, network: NetworkId) -> Operation:
    """Verify and open a signed account operation. Raises: P2PError, IntegrityError."""
    found = decode_any_message(signed.body)
    if isinstance(found, AccountFounding | InvitedFounding):
        founding, document, invitation = open_opening(signed, network)
        # Who may sign invites, and which are revoked, only the configuration of the moment knew.
        issuers = frozenset([invitation.issuer] if invitation is not None else [])
        rule = OpeningRule(issuers=issuers)
        return FoundAccount(founding, document, invitation, rule)
    if isinstance(found, NodeAdmission):
        admitted = open_admission(signed, network)
        # The node's binding has a leaf of its own.
        return AdmitNode(admitted, OpeningRule(issuers=frozenset([admitted.issuer])), binds=False)
    for kind, make in _KINDS:
        if isinstance(found, kind):
            return make(signed, open_signed(signed, kind, network))
    raise IntegrityError(f"a {type(found).__name__} is no account operation")


def record_order(row: Any) -> tuple[object, ...]:
    """Sort records into an order in which they can have been taken.

    All accounts first, because a referral names two; then each account's operations by number.
    """
    later = row.purpose not in _OPENINGS
    return (later, row.account_id, row.operation, _ORDER.get(row.purpose, 99), row.at_ms)


def audit_accounts(
    connection: Connection, replay: Replay, leaves: Leaves, report: AuditReport
) -> None:
    """Do all account operations again and compare accounts and their keys with their rows."""
    rows = list(connection.execute(select(RECORDS)).all())
    rows.sort(key=record_order)
    openings: dict[bytes, list[Opening]] = {}
    for row in rows:
        with report.reading(f"record {row.digest.hex()[:32]}"):
            if row.purpose != RcpEpoch.PURPOSE:  # no account's; `ledger.store.usage_check` has them
                replay_record(row, replay, report)
            openings[record_source(row.digest)] = [
                record_opening(row.purpose, row.subject, row.signed, row.at_ms)
            ]
    report.count("account operations", len(rows))
    leaves.match(openings)
    found_ids = set(connection.execute(select(ACCOUNTS.c.account_id)).scalars())
    report.compare("the list of accounts", found_ids, set(replay.book.accounts))
    for account_id, account in replay.book.accounts.items():
        with report.reading(f"account {account_id}"):
            _audit_account(connection, account, replay, report)
    audit_openings(connection, replay, report)


def replay_record(row: Any, replay: Replay, report: AuditReport) -> None:
    """Do one account operation again (`row`: its record) and compare.

    Raises: LedgerError, P2PError, KeyError: it breaks a rule; nothing was done then.
    """
    operation = account_operation(decode_message(row.signed, Signed), replay.network)
    with dispute_known(replay, operation):
        change = decide(replay.book, operation, row.at_ms)
    record = change.record
    if record is None or change.account is None:
        raise IntegrityError("this operation is there twice")
    expected: tuple[object, ...] = (record.digest, record.purpose, record.subject, record.signed)
    found: tuple[object, ...] = (row.digest, row.purpose, row.subject, row.signed)
    account_id = change.account.account_id
    if row.operation:
        expected += (record.account_id, record.operation - replay.unnumbered[account_id])
        found += (row.account_id, row.operation)
    else:
        replay.unnumbered[account_id] += 1
    report.compare(f"record {row.digest.hex()[:32]}", found, expected)
    before = replay.book.accounts.get(account_id)
    times = replay.key_times.setdefault(account_id, {})
    _note_times(times, before, change.account, row.at_ms)
    replay.book.apply(change)
    if change.key is not None:
        known = replay.hold_keys.setdefault(change.key.key_id, [])
        if change.key.hold_key not in known:
            known.append(change.key.hold_key)
        note_limits(replay, change.key)
    if replay.write is not None:
        replay.write(replay.book)


def _note_times(times: KeyTimes, before: Account | None, after: Account, at_ms: int) -> None:
    """Note when each key came and went."""
    for purpose in ("signing", "recovery"):
        was = getattr(before, f"{purpose}_keys") if before else frozenset()
        now = getattr(after, f"{purpose}_keys")
        times.update({(purpose, key): (at_ms, 0) for key in now - was})
        for key in was - now:
            times[(purpose, key)] = (times[(purpose, key)][0], max(at_ms, 1))


def _audit_account(
    connection: Connection,
    account: Account,
    replay: Replay,
    report: AuditReport,
) -> None:
    found = account_of(connection, account.account_id)
    name = f"account {account.account_id}"
    if found is None:
        raise IntegrityError("it is missing")
    numbered = account.operations - replay.unnumbered[account.account_id]
    same = (found.namespaces, found.created_ms, found.key_changes, found.last_key_change)
    report.compare(
        name,
        (*same, found.operations),
        (
            account.namespaces,
            account.created_ms,
            account.key_changes,
            account.last_key_change,
            numbered,
        ),
    )
    rows = connection.execute(
        select(ACCOUNT_KEYS).where(ACCOUNT_KEYS.c.account_id == account.account_id)
    )
    keys = {(row.purpose, row.public_key): (row.added_ms, row.removed_ms) for row in rows}
    report.compare(f"the keys of {name}", keys, replay.key_times.get(account.account_id, {}))


def audit_bindings(
    connection: Connection, replay: Replay, leaves: Leaves, report: AuditReport
) -> None:
    """Compare each node's binding with the log, and learn whose a node was when."""
    of_bindings = (BINDING, bytes([BINDING[0] + 1]))
    sources: set[bytes] = set()
    for column in (LOG_LEAVES.c.source, LOG_PENDING.c.source):
        statement = select(column).where(column >= of_bindings[0], column < of_bindings[1])
        sources.update(connection.execute(statement).scalars())
    openings: dict[bytes, list[Opening]] = {}
    for source in sorted(sources):
        with report.reading("a binding in the log"):
            binding = binding_of(source)
            openings[source] = [binding]
            history = replay.bindings.setdefault(binding.peer_id, [])
            history.append((binding.bound_ms, binding.account_id))
    for history in replay.bindings.values():
        history.sort()
    leaves.match(openings)
    peers = set()
    for row in connection.execute(select(NODE_BINDINGS)):
        peers.add(row.peer_id)
        with report.reading(f"the binding of node {row.peer_id}"):
            leaf = BindingLeaf(row.peer_id, AccountId(row.account_id), row.bound_ms)
            if binding_source(leaf) not in openings:
                report.problem(f"the binding of node {row.peer_id} is not in the log")
    report.compare("the list of bound nodes", peers, set(replay.bindings))
    report.count("node bindings", len(peers))
