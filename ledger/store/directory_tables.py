"""Owns the tables of the subclouds' directory that a bootstrap keeps beside its ledger.

Nothing of money is decided by them, the log does not carry them, and they change: a certificate
replaces an older one, a request ends. What counts in them is signed by owners, delegates and nodes.
"""

from __future__ import annotations

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import SQLModel

from ledger.store.tables import _big, _bytes, _number, _table, _text


class SubcloudRow(SQLModel, table=True):
    """A subcloud as it is now. `changed` orders the changes of all: bootstraps that share this
    database look for higher ones. `revocations`: encoded `Signed`, or empty.
    """

    __tablename__ = "ledger_subclouds"
    subcloud_id: str = _text(primary_key=True)
    owner: str = _text(index=True)
    version: int = _big()
    digest: str = _text()
    revocations: bytes = _bytes()
    changed: int = _big(index=True)
    created_ms: int = _big()


class SubcloudPolicyRow(SQLModel, table=True):
    """Every version that was published; `record` is an encoded `PolicyRecord`."""

    __tablename__ = "ledger_subcloud_policies"
    subcloud_id: str = _text(primary_key=True)
    version: int = _big(primary_key=True, autoincrement=False)
    digest: str = _text()
    record: bytes = _bytes()
    received_ms: int = _big()


class SubcloudNameRow(SQLModel, table=True):
    """The registry: whose a name is, given to who came first."""

    __tablename__ = "ledger_subcloud_names"
    label: str = _text(primary_key=True)
    subcloud_id: str = _text(index=True)
    since_ms: int = _big()


class SubcloudRequestRow(SQLModel, table=True):
    """A node's open request to join (encoded `Signed`)."""

    __tablename__ = "ledger_subcloud_requests"
    subcloud_id: str = _text(primary_key=True)
    peer_id: str = _text(primary_key=True, index=True)
    signed: bytes = _bytes()
    issued_ms: int = _big()
    expires_ms: int = _big(index=True)


class SubcloudAnswerRow(SQLModel, table=True):
    """The newest `certificate` and `denial` of a delegate for a node (encoded `Signed`)."""

    __tablename__ = "ledger_subcloud_answers"
    subcloud_id: str = _text(primary_key=True)
    peer_id: str = _text(primary_key=True, index=True)
    kind: str = _text(primary_key=True)
    signed: bytes = _bytes()
    issued_ms: int = _big()
    expires_ms: int = _big(index=True)


class SubcloudMemberRow(SQLModel, table=True):
    """When a node was seen to join, and to leave last (0: never): in while `joined_ms > left_ms`.

    `sequence`: of the node's statement that said so.
    """

    __tablename__ = "ledger_subcloud_members"
    subcloud_id: str = _text(primary_key=True)
    peer_id: str = _text(primary_key=True, index=True)
    joined_ms: int = _big()
    left_ms: int = _big()
    sequence: int = _big()


class SubcloudJoinRow(SQLModel, table=True):
    """The log of joins: `joined` or `left`."""

    __tablename__ = "ledger_subcloud_joins"
    __table_args__ = (Index("ix_ledger_subcloud_joins_order", "subcloud_id", "number"),)
    number: int = _number(primary_key=True)
    subcloud_id: str = _text()
    peer_id: str = _text()
    at_ms: int = _big()
    what: str = _text()


class SubcloudEvidenceRow(SQLModel, table=True):
    """What was refused and is kept (encoded `PolicyEvidence`)."""

    __tablename__ = "ledger_subcloud_evidence"
    name: str = _text(primary_key=True)
    subcloud_id: str = _text(index=True)
    kind: str = _text()
    seen_ms: int = _big(index=True)
    content: bytes = _bytes()


class SubcloudInviteUseRow(SQLModel, table=True):
    """Which nodes used an invite into a subcloud, and what they were answered."""

    __tablename__ = "ledger_subcloud_invite_uses"
    __table_args__ = (UniqueConstraint("invite_id", "number", name="one_use_one_number"),)
    invite_id: bytes = _bytes(primary_key=True)
    peer_id: str = _text(primary_key=True)
    number: int = _big()
    answer: bytes = _bytes()
    used_ms: int = _big()


SUBCLOUDS = _table(SubcloudRow)
POLICIES = _table(SubcloudPolicyRow)
NAMES = _table(SubcloudNameRow)
REQUESTS = _table(SubcloudRequestRow)
ANSWERS = _table(SubcloudAnswerRow)
MEMBERS = _table(SubcloudMemberRow)
JOINS = _table(SubcloudJoinRow)
SUBCLOUD_EVIDENCE = _table(SubcloudEvidenceRow)
SUBCLOUD_INVITE_USES = _table(SubcloudInviteUseRow)
