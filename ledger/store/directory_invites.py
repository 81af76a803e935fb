"""Owns the counting of the uses of invites into subclouds (`bootstrap.subclouds`): SQL only."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, func, insert, select

from ledger.store.directory_members import CERTIFICATE, Paper, answer_to, put_answer
from ledger.store.directory_store import lock_directory
from ledger.store.directory_tables import SUBCLOUD_INVITE_USES

ANSWERS_MAX = 100_000
"""Of one subcloud by invites, whose uses are bounded by themselves."""


def use_invite(
    connection: Connection,
    invite_id: bytes,
    peer_id: str,
    uses_max: int,
    make: Callable[[int], bytes],
    now_ms: int,
) -> bytes:
    """Count a node's use of an invite and keep the answer that `make` gives for its number.

    Returns: the answer (the same one again for the same node); empty if the invite is used up.
    """
    lock_directory(connection)
    table = SUBCLOUD_INVITE_USES
    found = connection.execute(
        select(table.c.answer).where(table.c.invite_id == invite_id, table.c.peer_id == peer_id)
    ).scalar_one_or_none()
    if found is not None:
        return bytes(found)
    count = connection.execute(select(func.count()).where(table.c.invite_id == invite_id))
    number = int(count.scalar_one()) + 1
    if number > uses_max:
        return b""
    answer = make(number)
    connection.execute(
        insert(table).values(
            invite_id=invite_id, peer_id=peer_id, number=number, answer=answer, used_ms=now_ms
        )
    )
    return answer


def use_and_keep(
    connection: Connection,
    invite_id: bytes,
    uses_max: int,
    make: Callable[[int], bytes],
    place: tuple[str, str],
    times_ms: tuple[int, int],
) -> bytes:
    """Use an invite (`use_invite`), and keep the answer as its node's certificate.

    Args: place: subcloud and node. times_ms: now, and when the membership ends.
    """
    subcloud_id, peer_id = place
    now_ms, ends_ms = times_ms
    answer = use_invite(connection, invite_id, peer_id, uses_max, make, now_ms)
    if answer:
        paper = Paper(subcloud_id, peer_id, answer, now_ms, ends_ms)
        known = answer_to(connection, CERTIFICATE, subcloud_id, peer_id, now_ms)
        if known is None:  # a delegate's own certificate, made later, is not replaced
            put_answer(connection, CERTIFICATE, paper, now_ms, per_subcloud_max=ANSWERS_MAX)
    return answer
