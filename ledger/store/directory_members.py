"""Owns reading and writing of who wants into a subcloud, is admitted, and is in: SQL only.

Who may do what was judged before (`bootstrap.subclouds`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)

from ledger.limits import JOIN_LOG_ROWS_PER_SUBCLOUD_MAX
from ledger.store.directory_store import lock_directory
from ledger.store.directory_tables import (
    ANSWERS,
    JOINS,
    MEMBERS,
    REQUESTS,
)

CERTIFICATE = "certificate"
DENIAL = "denial"
ATTESTATION = "attestation"
"""What a kind of attestation begins with: those about other things stay beside each other."""


@dataclass(frozen=True, slots=True)
class Paper:
    """A signed request, certificate or denial about one node in one subcloud."""

    subcloud_id: str
    peer_id: str
    signed: bytes
    issued_ms: int
    expires_ms: int


# --- requests and answers -------------------------------------------------------------------------
def put_request(
    connection: Connection, paper: Paper, now_ms: int, *, per_node_max: int, per_subcloud_max: int
) -> str:
    """Keep a node's newest request. Returns: empty, or why not (`stale`, `node`, `subcloud`)."""
    lock_directory(connection)
    connection.execute(delete(REQUESTS).where(REQUESTS.c.expires_ms <= now_ms))
    place = _place(REQUESTS, paper)
    known = connection.execute(select(REQUESTS.c.issued_ms).where(place)).scalar_one_or_none()
    if known is not None and known > paper.issued_ms:
        return "stale"
    if known is None:
        if _count(connection, REQUESTS, "peer_id", paper) >= per_node_max:
            return "node"
        if _count(connection, REQUESTS, "subcloud_id", paper) >= per_subcloud_max:
            return "subcloud"
    connection.execute(delete(REQUESTS).where(place))
    connection.execute(insert(REQUESTS).values(_values(paper)))
    return ""


def withdraw_request(connection: Connection, subcloud_id: str, peer_id: str) -> None:
    """Forget a node's request."""
    connection.execute(
        delete(REQUESTS).where(REQUESTS.c.subcloud_id == subcloud_id, REQUESTS.c.peer_id == peer_id)
    )


def requests(
    connection: Connection, subcloud_id: str, after: str, now_ms: int, count_max: int
) -> list[bytes]:
    """Read a subcloud's open requests in order of their nodes."""
    statement = (
        select(REQUESTS.c.signed)
        .where(
            REQUESTS.c.subcloud_id == subcloud_id,
            REQUESTS.c.peer_id > after,
            REQUESTS.c.expires_ms > now_ms,
        )
        .order_by(REQUESTS.c.peer_id)
        .limit(count_max)
    )
    return [bytes(signed) for signed in connection.scalars(statement)]


def put_answer(
    connection: Connection, kind: str, paper: Paper, now_ms: int, *, per_subcloud_max: int
) -> str:
    """Keep a delegate's newest certificate or denial; it ends the request that it answers. Or an
    attestation, which answers nothing.

    Returns: empty, or why not (`stale`, `subcloud`: it has too many).
    """
    lock_directory(connection)
    connection.execute(delete(ANSWERS).where(ANSWERS.c.expires_ms <= now_ms))
    place = _place(ANSWERS, paper) & (ANSWERS.c.kind == kind)
    known = connection.execute(select(ANSWERS.c.issued_ms).where(place)).scalar_one_or_none()
    if known is not None and known > paper.issued_ms:
        return "stale"
    if known is None and _count(connection, ANSWERS, "subcloud_id", paper) >= per_subcloud_max:
        return "subcloud"
    connection.execute(delete(ANSWERS).where(place))
    connection.execute(insert(ANSWERS).values(kind=kind, **_values(paper)))
    if kind == CERTIFICATE:
        connection.execute(delete(ANSWERS).where(_place(ANSWERS, paper), ANSWERS.c.kind == DENIAL))
    if not kind.startswith(ATTESTATION):
        withdraw_request(connection, paper.subcloud_id, paper.peer_id)
    return ""


def answers_for(
    connection: Connection, peer_id: str, subcloud_id: str, now_ms: int, count_max: int
) -> list[bytes]:
    """Read what delegates answered a node, of one subcloud or all."""
    statement = select(ANSWERS.c.signed).where(
        ANSWERS.c.peer_id == peer_id, ANSWERS.c.expires_ms > now_ms
    )
    if subcloud_id:
        statement = statement.where(ANSWERS.c.subcloud_id == subcloud_id)
    ordered = statement.order_by(ANSWERS.c.issued_ms.desc()).limit(count_max)
    return [bytes(signed) for signed in connection.scalars(ordered)]


def answer_to(
    connection: Connection, kind: str, subcloud_id: str, peer_id: str, now_ms: int
) -> Paper | None:
    """Read the answer of a kind that a node has now."""
    statement = select(ANSWERS).where(
        ANSWERS.c.subcloud_id == subcloud_id,
        ANSWERS.c.peer_id == peer_id,
        ANSWERS.c.kind == kind,
        ANSWERS.c.expires_ms > now_ms,
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    return Paper(row.subcloud_id, row.peer_id, bytes(row.signed), row.issued_ms, row.expires_ms)


def issued_certificates(
    connection: Connection, subcloud_id: str, after: str, now_ms: int, count_max: int
) -> list[bytes]:
    """Read a subcloud's certificates that have not expired, in order of their nodes."""
    statement = (
        select(ANSWERS.c.signed)
        .where(
            ANSWERS.c.subcloud_id == subcloud_id,
            ANSWERS.c.kind == CERTIFICATE,
            ANSWERS.c.peer_id > after,
            ANSWERS.c.expires_ms > now_ms,
        )
        .order_by(ANSWERS.c.peer_id)
        .limit(count_max)
    )
    return [bytes(signed) for signed in connection.scalars(statement)]


def _place(table: Table, paper: Paper) -> ColumnElement[bool]:
    return (table.c.subcloud_id == paper.subcloud_id) & (table.c.peer_id == paper.peer_id)


def _values(paper: Paper) -> dict[str, object]:
    return {
        "subcloud_id": paper.subcloud_id,
        "peer_id": paper.peer_id,
        "signed": paper.signed,
        "issued_ms": paper.issued_ms,
        "expires_ms": paper.expires_ms,
    }


def _count(connection: Connection, table: Table, column: str, paper: Paper) -> int:
    place = table.c[column] == getattr(paper, column)
    return int(connection.execute(select(func.count()).where(place)).scalar_one())


# --- members --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class MemberRecord:
    """When a node joined and when it left last (0: never); a member has `joined_ms > left_ms`."""

    subcloud_id: str
    peer_id: str
    joined_ms: int
    left_ms: int


@dataclass(frozen=True, slots=True)
class JoinLine:
    """One line of the log of joins."""

    number: int
    subcloud_id: str
    peer_id: str
    at_ms: int
    what: str


def note_memberships(
    connection: Connection,
    told: Sequence[tuple[str, int, frozenset[str]]],
    now_ms: int,
    *,
    members_max: int,
) -> int:
    """Compare nodes' statements (node, sequence, subclouds) with what is known, and log changes.

    A statement that is older than what is known of a membership changes nothing in it.
    Returns: how many lines were logged.
    """
    lock_directory(connection)
    lines: list[tuple[str, str, str]] = []
    for peer_id, sequence, subclouds in told:
        rows = {
            row.subcloud_id: row
            for row in connection.execute(select(MEMBERS).where(MEMBERS.c.peer_id == peer_id))
        }
        for subcloud_id in sorted(subclouds | rows.keys()):
            row = rows.get(subcloud_id)
            is_in = row is not None and row.joined_ms > row.left_ms
            wanted = subcloud_id in subclouds
            if is_in == wanted or (row is not None and row.sequence >= sequence):
                continue
            if row is None and _members(connection, subcloud_id) >= members_max:
                continue
            times = (row.joined_ms, row.left_ms) if row is not None else None
            _set_member(connection, (subcloud_id, peer_id), sequence, wanted, times, now_ms)
            lines.append((subcloud_id, peer_id, "joined" if wanted else "left"))
    _log(connection, lines, now_ms)
    return len(lines)


def _members(connection: Connection, subcloud_id: str) -> int:
    statement = select(func.count()).where(MEMBERS.c.subcloud_id == subcloud_id)
    return int(connection.execute(statement).scalar_one())


def _set_member(
    connection: Connection,
    place: tuple[str, str],
    sequence: int,
    is_in: bool,
    times: tuple[int, int] | None,
    now_ms: int,
) -> None:
    """Write that a node is in, or not. `times`: when it joined and left before."""
    subcloud_id, peer_id = place
    joined_ms, left_ms = times or (0, 0)
    if is_in:
        joined_ms = max(now_ms, left_ms + 1)  # when it left stays known: a cooldown counts from it
    else:
        left_ms = max(now_ms, joined_ms)
    values = {"joined_ms": joined_ms, "left_ms": left_ms, "sequence": sequence}
    if times is None:
        connection.execute(
            insert(MEMBERS).values(subcloud_id=subcloud_id, peer_id=peer_id, **values)
        )
        return
    connection.execute(
        update(MEMBERS)
        .where(MEMBERS.c.subcloud_id == subcloud_id, MEMBERS.c.peer_id == peer_id)
        .values(values)
    )


def _log(connection: Connection, lines: Sequence[tuple[str, str, str]], now_ms: int) -> None:
    if not lines:
        return
    statement = select(func.coalesce(func.max(JOINS.c.number), 0))
    first = int(connection.execute(statement).scalar_one()) + 1
    connection.execute(
        insert(JOINS),
        [
            {
                "number": number,
                "subcloud_id": subcloud_id,
                "peer_id": peer_id,
                "at_ms": now_ms,
                "what": what,
            }
            for number, (subcloud_id, peer_id, what) in enumerate(lines, first)
        ],
    )
    for subcloud_id in sorted({line[0] for line in lines}):
        kept = (
            select(JOINS.c.number)
            .where(JOINS.c.subcloud_id == subcloud_id)
            .order_by(JOINS.c.number.desc())
            .offset(JOIN_LOG_ROWS_PER_SUBCLOUD_MAX)
            .limit(1)
        )
        last = connection.execute(kept).scalar_one_or_none()
        if last is not None:
            connection.execute(
                delete(JOINS).where(JOINS.c.subcloud_id == subcloud_id, JOINS.c.number <= last)
            )


def members(
    connection: Connection, subcloud_id: str, after: str, count_max: int
) -> list[MemberRecord]:
    """Read a subcloud's members, present and past, in order of their IDs."""
    statement = (
        select(MEMBERS.c.subcloud_id, MEMBERS.c.peer_id, MEMBERS.c.joined_ms, MEMBERS.c.left_ms)
        .where(MEMBERS.c.subcloud_id == subcloud_id, MEMBERS.c.peer_id > after)
        .order_by(MEMBERS.c.peer_id)
        .limit(count_max)
    )
    return [MemberRecord(*row) for row in connection.execute(statement)]


def is_member(connection: Connection, subcloud_id: str, peer_id: str) -> bool:
    """Tell whether a node is a member now."""
    statement = select(MEMBERS.c.peer_id).where(
        MEMBERS.c.subcloud_id == subcloud_id,
        MEMBERS.c.peer_id == peer_id,
        MEMBERS.c.joined_ms > MEMBERS.c.left_ms,
    )
    return connection.execute(statement).one_or_none() is not None


def joins(connection: Connection, subcloud_id: str, after: int, count_max: int) -> list[JoinLine]:
    """Read a subcloud's log after a line, oldest first."""
    statement = (
        select(JOINS)
        .where(JOINS.c.subcloud_id == subcloud_id, JOINS.c.number > after)
        .order_by(JOINS.c.number)
        .limit(count_max)
    )
    return [JoinLine(*row) for row in connection.execute(statement)]


def forget_members(connection: Connection, before_ms: int) -> int:
    """Forget members that left before a time (no cooldown lasts so long). Returns: how many."""
    lock_directory(connection)
    gone = connection.execute(
        delete(MEMBERS).where(
            MEMBERS.c.left_ms >= MEMBERS.c.joined_ms, MEMBERS.c.left_ms < before_ms
        )
    )
    return gone.rowcount
