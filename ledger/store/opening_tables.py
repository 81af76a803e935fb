"""Owns the tables of how accounts and nodes came: who referred them, and by which invite.

They are immutable and made from signed records (`ledger_records`); the audit makes them again.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey
from sqlmodel import SQLModel

from ledger.store.tables import IMMUTABLE, _big, _bytes, _table, _text


class ReferralRow(SQLModel, table=True):
    """Who referred an account, once and for ever."""

    __tablename__ = "ledger_referrals"
    __table_args__ = (CheckConstraint("account_id <> referrer", name="nobody_refers_itself"),)
    account_id: str = _text(ForeignKey("ledger_accounts.account_id"), primary_key=True)
    referrer: str = _text(ForeignKey("ledger_accounts.account_id"), index=True)
    at_ms: int = _big()


class InviteUseRow(SQLModel, table=True):
    """Which invite an account was opened with; the rows of an invite are its uses."""

    __tablename__ = "ledger_invite_uses"
    account_id: str = _text(ForeignKey("ledger_accounts.account_id"), primary_key=True)
    invite_id: bytes = _bytes(index=True)
    at_ms: int = _big()


class NodeInviteUseRow(SQLModel, table=True):
    """Which invite a node was admitted with, and for which account; once and for ever."""

    __tablename__ = "ledger_node_invite_uses"
    peer_id: str = _text(primary_key=True)
    account_id: str = _text(ForeignKey("ledger_accounts.account_id"))
    invite_id: bytes = _bytes(index=True)
    at_ms: int = _big()


REFERRALS = _table(ReferralRow)
INVITE_USES = _table(InviteUseRow)
NODE_INVITE_USES = _table(NodeInviteUseRow)
IMMUTABLE += [REFERRALS, INVITE_USES, NODE_INVITE_USES]
