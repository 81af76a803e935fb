"""Owns the audit of a whole ledger: everything in it is made again from what was signed.

Theory of operation. The audit believes the network's ID, and the configuration that the network's
authority signed. It goes through the signed account operations and requests in the ledger's order,
verifies each signature, lets the same rules decide them that decided them then, and compares each
row with what came out. What nobody signed (times, fees and accounts of the moment) is covered by
the log's leaves, which are made again and compared too, and the tree, tiles and checkpoints over
them. So a changed bit is found wherever it is, unless whoever changed it has the keys to sign
everything again from there on; and then a checkpoint that anybody kept proves it.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select

from ledger.errors import IntegrityError
from ledger.store.audit.accounts import audit_accounts, audit_bindings
from ledger.store.audit.claims import audit_claims, audit_exposure
from ledger.store.audit.disputes import DisputeRows, audit_disputes
from ledger.store.audit.report import AuditReport, Leaves, Replay
from ledger.store.audit.transfers import audit_transfers
from ledger.store.audit.tree import audit_tree
from ledger.store.integrity import check_integrity
from ledger.store.log.queries import salt_secret
from ledger.store.log.tables import SALT_SECRET
from ledger.store.schema import definition_problems, newest_revision
from ledger.store.tables import META
from ledger.store.usage_check import counter_problems, epoch_problems
from p2p.types import NetworkId

_META_NAMES = {"network_id", "schema_version", SALT_SECRET, "verified_to"}
"""`verified_to` only says how much a start may skip (`ledger.store.tail`): it is not judged."""


def audit(
    connection: Connection,
    network: NetworkId,
    mint_keys: Collection[bytes],
    dispute_keys: Collection[bytes] = (),
    *,
    log_keys: Collection[bytes] = (),
    replay: Replay | None = None,
) -> AuditReport:
    """Check everything that a ledger's database holds.

    Args:
        connection: in a transaction of its own (one snapshot).
        mint_keys: the public keys that may ever have signed grants.
        dispute_keys: those that may ever have decided disputes.
        log_keys: those that sign, or ever signed, checkpoints (empty: the authority named none).
        replay: what the ledger is made again in, for who goes on with it (a mirror's copy).
    """
    report = AuditReport()
    _audit_meta(connection, network, report)
    try:
        check_integrity(connection)
    except IntegrityError as error:
        report.problem(str(error))
    with report.reading("the log's outbox and salts"):
        leaves = Leaves(connection, salt_secret(connection), report)
        replay = replay or Replay(network, frozenset(mint_keys))
        replay.dispute_keys = frozenset(dispute_keys)
        replay.dispute_rows = DisputeRows(connection)
        audit_bindings(connection, replay, leaves, report)
        audit_accounts(connection, replay, leaves, report)
        audit_transfers(connection, replay, leaves, report)
        audit_claims(connection, network, report)
        audit_exposure(connection, replay, report)
        audit_disputes(connection, replay, report)
        leaves.finish()
    with report.reading("usage and contribution points"):
        for problem in (*counter_problems(connection), *epoch_problems(connection, network)):
            report.problem(problem)
    with report.reading("the log"):
        audit_tree(connection, network, report, log_keys)
    return report


def audit_with_definitions(
    connection: Connection,
    network: NetworkId,
    mint_keys: Collection[bytes],
    dispute_keys: Collection[bytes],
    log_keys: Collection[bytes],
) -> AuditReport:
    """Check what a ledger's database holds, and that its tables are what the revisions make."""
    report = audit(connection, network, mint_keys, dispute_keys, log_keys=log_keys)
    with report.reading("the definitions of the tables"):
        for problem in definition_problems(connection):
            report.problem(problem)
    return report


def _audit_meta(connection: Connection, network: NetworkId, report: AuditReport) -> None:
    with report.reading("the database's description"):
        found = {row.name: row.value for row in connection.execute(select(META))}
        if found.get("network_id") != network:
            report.problem(f"this is the ledger of network {found.get('network_id')}")
        if found.get("schema_version") != newest_revision():
            report.problem(f"the tables have version {found.get('schema_version')}")
        if strange := sorted(set(found) - _META_NAMES):
            report.problem(f"the database's description has unknown rows: {strange[:5]}")
