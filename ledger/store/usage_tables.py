"""Owns the tables of usage, work, uptime and contribution points.

Usage and work are counters that each group of operations adds to; their rows belong to a namespace,
whose row the group has locked, so that several processes never wait for each other here. They are
not immutable, and need not be: they can be made again from the transfers.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlmodel import SQLModel

from ledger.store.tables import IMMUTABLE, _big, _bytes, _table, _text


class UsageTableRow(SQLModel, table=True):
    """What an API key did with a model on a day (`ledger.usage.Counts`)."""

    __tablename__ = "ledger_usage"
    __table_args__ = ({"sqlite_with_rowid": False},)
    namespace: str = _text(ForeignKey("ledger_namespaces.path"), primary_key=True)
    day: int = _big(primary_key=True)
    key_id: str = _text(primary_key=True)
    model: str = _text(primary_key=True)
    requests: int = _big()
    captured: int = _big()
    client_left: int = _big()
    failed: int = _big()
    input_tokens: int = _big()
    output_tokens: int = _big()
    charged: int = _big()
    duration_ms: int = _big()
    credited: int = _big(server_default="0")


class WorkRow(SQLModel, table=True):
    """What a node earned from a namespace on a day, for the account that it was bound to then."""

    __tablename__ = "ledger_work"
    __table_args__ = ({"sqlite_with_rowid": False},)
    day: int = _big(primary_key=True)
    namespace: str = _text(ForeignKey("ledger_namespaces.path"), primary_key=True)
    node_id: str = _text(primary_key=True)
    account_id: str = _text(primary_key=True)
    legs: int = _big()
    earned: int = _big()


class UptimeRow(SQLModel, table=True):
    """The newest uptime record of a bootstrap for a day (an encoded `Signed`)."""

    __tablename__ = "ledger_uptime"
    day: int = _big(primary_key=True)
    bootstrap_id: str = _text(primary_key=True)
    part: int = _big(primary_key=True)
    signed: bytes = _bytes()


class RcpEpochRow(SQLModel, table=True):
    """A frozen epoch: the signed RcpEpoch."""

    __tablename__ = "ledger_rcp_epochs"
    first_day: int = _big(primary_key=True)
    last_day: int = _big(unique=True)
    signed: bytes = _bytes()


class RcpScoreRow(SQLModel, table=True):
    """An account's points of a frozen epoch; `place` counts from 0, the highest first."""

    __tablename__ = "ledger_rcp_scores"
    __table_args__ = ({"sqlite_with_rowid": False},)
    first_day: int = _big(ForeignKey("ledger_rcp_epochs.first_day"), primary_key=True)
    place: int = _big(primary_key=True)
    account_id: str = _text(index=True)
    points: int = _big()
    work: int = _big()
    uptime_minutes: int = _big()
    referral_fees: int = _big(server_default="0")


USAGE = _table(UsageTableRow)
WORK = _table(WorkRow)
UPTIME = _table(UptimeRow)
RCP_EPOCHS = _table(RcpEpochRow)
RCP_SCORES = _table(RcpScoreRow)
IMMUTABLE += [RCP_EPOCHS, RCP_SCORES]
