"""Owns the tables of what happened in each subcloud: usage and work for its owner, conduct.

All are counters that each group of operations adds to. Usage and work belong to a namespace, whose
row the group has locked, conduct to a gateway, whose exposure it has locked: several processes
never wait for each other here. Usage and work can be made again from the transfers; conduct is
forgotten after some time, and no money depends on it.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlmodel import SQLModel

from ledger.store.tables import _big, _table, _text


class SubcloudUsageRow(SQLModel, table=True):
    """What a namespace did in a subcloud with a model on a day (`ledger.usage.Counts`)."""

    __tablename__ = "ledger_subcloud_usage"
    __table_args__ = ({"sqlite_with_rowid": False},)
    subcloud_id: str = _text(primary_key=True)
    day: int = _big(primary_key=True)
    model: str = _text(primary_key=True)
    namespace: str = _text(ForeignKey("ledger_namespaces.path"), primary_key=True)
    requests: int = _big()
    captured: int = _big()
    client_left: int = _big()
    failed: int = _big()
    input_tokens: int = _big()
    output_tokens: int = _big()
    charged: int = _big()
    duration_ms: int = _big()
    credited: int = _big()
    income: int = _big()


class SubcloudWorkRow(SQLModel, table=True):
    """What a node earned in a subcloud from a namespace on a day, for the account it had then."""

    __tablename__ = "ledger_subcloud_work"
    __table_args__ = ({"sqlite_with_rowid": False},)
    subcloud_id: str = _text(primary_key=True)
    day: int = _big(primary_key=True)
    node_id: str = _text(primary_key=True)
    account_id: str = _text(primary_key=True)
    namespace: str = _text(ForeignKey("ledger_namespaces.path"), primary_key=True)
    legs: int = _big()
    earned: int = _big()


class ConductRow(SQLModel, table=True):
    """What a gateway saw of a node in `span` minutes from `minute` on (`ledger.conduct`)."""

    __tablename__ = "ledger_conduct"
    __table_args__ = (
        Index("ix_ledger_conduct_age", "span", "minute"),
        {"sqlite_with_rowid": False},
    )
    node_id: str = _text(primary_key=True)
    subcloud_id: str = _text(primary_key=True)
    minute: int = _big(primary_key=True)
    span: int = _big(primary_key=True)
    gateway_id: str = _text(primary_key=True)
    gateway_account: str = _text(primary_key=True)
    related: int = _big(primary_key=True)
    jobs: int = _big()
    failed: int = _big()
    unproven: int = _big()
    first_tokens: int = _big()
    first_token_ms: int = _big()
    output_tokens: int = _big()
    output_ms: int = _big()


SUBCLOUD_USAGE = _table(SubcloudUsageRow)
SUBCLOUD_WORK = _table(SubcloudWorkRow)
CONDUCT = _table(ConductRow)
