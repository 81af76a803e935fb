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
from ledger.store.integrity import check_integrity
from ledger.store.log_audit_accounts import audit_accounts, audit_bindings
from ledger.store.log_audit_report import AuditReport, Leaves, Replay
from ledger.store.log_audit_transfers import audit_transfers
from ledger.store.log_audit_tree import audit_tree
from ledger.store.log_queries import salt_secret
from ledger.store.log_tables import SALT_SECRET
from ledger.store.schema import newest_revision
from ledger.store.tables import META
from ledger.store.usage_check import counter_problems, epoch_problems
from p2p.types import NetworkId

_META_NAMES = {"network_id", "schema_version", SALT_SECRET, "verified_to"}
"""`verified_to` only says how much a start may skip (`ledger.store.tail`): it is not judged."""


def audit(connection: Connection, network: NetworkId, mint_keys: Collection[bytes]) -> AuditReport:
    """Check everything that a ledger's database holds.

    Args:
        connection: in a transaction of its own (one snapshot).
        mint_keys: the public keys that may ever have signed grants.
    """
    report = AuditReport()
    _audit_meta(connection, network, report)
    try:
        check_integrity(connection)
    except IntegrityError as error:
        report.problem(str(error))
    with report.reading("the log's outbox and salts"):
        leaves = Leaves(connection, salt_secret(connection), report)
        replay = Replay(network, frozenset(mint_keys))
        audit_bindings(connection, replay, leaves, report)
        audit_accounts(connection, replay, leaves, report)
        audit_transfers(connection, replay, leaves, report)
        leaves.finish()
    with report.reading("usage and contribution points"):
        for problem in (*counter_problems(connection), *epoch_problems(connection, network)):
            report.problem(problem)
    with report.reading("the log"):
        audit_tree(connection, network, report)
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
