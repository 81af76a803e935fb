"""Owns reading and writing of the subclouds' directory: policies, names, lists, evidence.

Writers take one lock, so that two bootstraps on one database agree on what came first. (On SQLite
the transaction is the lock.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, delete, func, insert, select, text, update

from ledger.limits import (
    POLICY_VERSIONS_KEPT_MAX,
    SUBCLOUD_EVIDENCE_ROWS_MAX,
    SUBCLOUD_EVIDENCE_ROWS_PER_SUBCLOUD_MAX,
)
from ledger.store.directory_tables import NAMES, POLICIES, SUBCLOUD_EVIDENCE, SUBCLOUDS

_LOCK = 0x7375_6263_6C64
"""PostgreSQL advisory lock of everybody who changes the directory."""


@dataclass(frozen=True, slots=True)
class StoredSubcloud:
    """A subcloud's newest record, its revocation list (empty: none), and the change's number."""

    subcloud_id: str
    record: bytes
    revocations: bytes
    changed: int


@dataclass(frozen=True, slots=True)
class NewPolicy:
    """A version that is to be stored. `label`: the name to ask for; empty for none."""

    subcloud_id: str
    owner: str
    version: int
    digest: str
    record: bytes
    label: str


def lock_directory(connection: Connection) -> None:
    """Wait for the others who write."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _LOCK})


def put_policy(connection: Connection, new: NewPolicy, now_ms: int) -> bytes:
    """Store a version if the database has none that is newer, or other.

    Returns: nothing if it was stored (also if it was there), else the record that is in its way.
    """
    lock_directory(connection)
    row = connection.execute(
        select(SUBCLOUDS.c.version, SUBCLOUDS.c.digest).where(
            SUBCLOUDS.c.subcloud_id == new.subcloud_id
        )
    ).one_or_none()
    other = row is not None and row.version == new.version and row.digest != new.digest
    if row is not None and (other or row.version > new.version):
        return _record(connection, new.subcloud_id, row.version)
    _put_version(connection, new, now_ms)
    changed = _next_change(connection)
    values = {
        "owner": new.owner,
        "version": new.version,
        "digest": new.digest,
        "changed": changed,
    }
    if row is None:
        connection.execute(
            insert(SUBCLOUDS).values(
                subcloud_id=new.subcloud_id, revocations=b"", created_ms=now_ms, **values
            )
        )
    else:
        connection.execute(
            update(SUBCLOUDS).where(SUBCLOUDS.c.subcloud_id == new.subcloud_id).values(values)
        )
    if new.label:
        _take_name(connection, new.label, new.subcloud_id, now_ms)
    return b""


def _put_version(connection: Connection, new: NewPolicy, now_ms: int) -> None:
    place = (POLICIES.c.subcloud_id == new.subcloud_id) & (POLICIES.c.version == new.version)
    changed = connection.execute(update(POLICIES).where(place).values(record=new.record))
    if not changed.rowcount:
        connection.execute(
            insert(POLICIES).values(
                subcloud_id=new.subcloud_id,
                version=new.version,
                digest=new.digest,
                record=new.record,
                received_ms=now_ms,
            )
        )
        oldest = new.version - POLICY_VERSIONS_KEPT_MAX
        connection.execute(
            delete(POLICIES).where(
                POLICIES.c.subcloud_id == new.subcloud_id, POLICIES.c.version <= oldest
            )
        )


def _record(connection: Connection, subcloud_id: str, version: int) -> bytes:
    statement = select(POLICIES.c.record).where(
        POLICIES.c.subcloud_id == subcloud_id, POLICIES.c.version == version
    )
    return bytes(connection.execute(statement).scalar_one())


def _next_change(connection: Connection) -> int:
    highest = select(func.coalesce(func.max(SUBCLOUDS.c.changed), 0))
    return int(connection.execute(highest).scalar_one()) + 1


def _take_name(connection: Connection, label: str, subcloud_id: str, now_ms: int) -> None:
    taken = connection.execute(select(NAMES.c.subcloud_id).where(NAMES.c.label == label))
    if taken.one_or_none() is None:
        connection.execute(
            insert(NAMES).values(label=label, subcloud_id=subcloud_id, since_ms=now_ms)
        )


def put_revocations(connection: Connection, subcloud_id: str, signed: bytes) -> None:
    """Store a subcloud's newest revocation list (the book has judged it)."""
    lock_directory(connection)
    connection.execute(
        update(SUBCLOUDS)
        .where(SUBCLOUDS.c.subcloud_id == subcloud_id)
        .values(revocations=signed, changed=_next_change(connection))
    )


def changed_subclouds(connection: Connection, after: int, count_max: int) -> list[StoredSubcloud]:
    """Read the subclouds that changed after a number, in order."""
    joined = SUBCLOUDS.join(
        POLICIES,
        (POLICIES.c.subcloud_id == SUBCLOUDS.c.subcloud_id)
        & (POLICIES.c.version == SUBCLOUDS.c.version),
    )
    statement = (
        select(
            SUBCLOUDS.c.subcloud_id,
            POLICIES.c.record,
            SUBCLOUDS.c.revocations,
            SUBCLOUDS.c.changed,
        )
        .select_from(joined)
        .where(SUBCLOUDS.c.changed > after)
        .order_by(SUBCLOUDS.c.changed)
        .limit(count_max)
    )
    return [
        StoredSubcloud(row[0], bytes(row[1]), bytes(row[2]), int(row[3]))
        for row in connection.execute(statement)
    ]


def names(connection: Connection) -> dict[str, str]:
    """Read the registry: label to ID."""
    rows = connection.execute(select(NAMES.c.label, NAMES.c.subcloud_id))
    return {row[0]: row[1] for row in rows}


def name_of(connection: Connection, label: str) -> str | None:
    """Read whose a name is."""
    statement = select(NAMES.c.subcloud_id).where(NAMES.c.label == label)
    return connection.execute(statement).scalar_one_or_none()


def founded_since(connection: Connection, owner: str, since_ms: int) -> int:
    """Count the subclouds of an owner that were first published here since a time."""
    statement = select(func.count()).where(
        SUBCLOUDS.c.owner == owner, SUBCLOUDS.c.created_ms > since_ms
    )
    return int(connection.execute(statement).scalar_one())


def policy_records(
    connection: Connection, subcloud_id: str, below_version: int, count_max: int
) -> list[bytes]:
    """Read the versions below one (0: all), newest first."""
    statement = select(POLICIES.c.record).where(POLICIES.c.subcloud_id == subcloud_id)
    if below_version:
        statement = statement.where(POLICIES.c.version < below_version)
    ordered = statement.order_by(POLICIES.c.version.desc()).limit(count_max)
    return [bytes(record) for record in connection.scalars(ordered)]


# --- evidence -------------------------------------------------------------------------------------
def add_evidence(connection: Connection, rows: Sequence[tuple[str, str, str, int, bytes]]) -> None:
    """Keep evidence (name, subcloud, kind, time, content); the oldest makes room."""
    lock_directory(connection)
    table = SUBCLOUD_EVIDENCE
    for name, subcloud_id, kind, seen_ms, content in rows:
        found = connection.execute(select(table.c.name).where(table.c.name == name))
        if found.one_or_none() is not None:
            continue
        _make_room(
            connection,
            table,
            (table.c.subcloud_id == subcloud_id) & (table.c.kind == kind),
            SUBCLOUD_EVIDENCE_ROWS_PER_SUBCLOUD_MAX,
        )
        forks = table.c.kind.like("%fork")
        alike = forks if kind.endswith("fork") else ~forks
        _make_room(connection, table, alike, SUBCLOUD_EVIDENCE_ROWS_MAX)
        connection.execute(
            insert(table).values(
                name=name, subcloud_id=subcloud_id, kind=kind, seen_ms=seen_ms, content=content
            )
        )


def _make_room(
    connection: Connection, table: Table, where: ColumnElement[bool], rows_max: int
) -> None:
    count = connection.execute(select(func.count()).select_from(table).where(where))
    if int(count.scalar_one()) < rows_max:
        return
    oldest = select(table.c.name).where(where).order_by(table.c.seen_ms, table.c.name).limit(1)
    connection.execute(delete(table).where(table.c.name == oldest.scalar_subquery()))


def evidence(connection: Connection, subcloud_id: str, count_max: int) -> list[bytes]:
    """Read what is kept of a subcloud (empty: of all), newest first."""
    statement = select(SUBCLOUD_EVIDENCE.c.content)
    if subcloud_id:
        statement = statement.where(SUBCLOUD_EVIDENCE.c.subcloud_id == subcloud_id)
    ordered = statement.order_by(SUBCLOUD_EVIDENCE.c.seen_ms.desc()).limit(count_max)
    return [bytes(content) for content in connection.scalars(ordered)]
