"""Owns the audit of how accounts and nodes came: referrals, uses of invites; by their records."""

from __future__ import annotations

from sqlalchemy import Connection, select

from ledger.store.audit.report import AuditReport, Replay
from ledger.store.opening_tables import INVITE_USES, NODE_INVITE_USES, REFERRALS


def audit_openings(connection: Connection, replay: Replay, report: AuditReport) -> None:
    """Compare the rows with what the accounts' records made."""
    for name, table, made in (
        ("referrals", REFERRALS, replay.book.new_referrals),
        ("uses of invites", INVITE_USES, replay.book.new_invite_uses),
        ("nodes' uses of invites", NODE_INVITE_USES, replay.book.new_node_invite_uses),
    ):
        found = {tuple(row) for row in connection.execute(select(table))}
        report.compare(f"the list of {name}", found, {tuple(entry) for entry in made})
        report.count(name, len(found))
