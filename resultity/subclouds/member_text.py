"""Owns how members and requests are shown: as JSON records, and as text for people."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from p2p.subclouds.directory_messages import KnownJoinRequest
from p2p.types import PeerId
from resultity.subclouds.member_view import MemberView
from resultity.subclouds.verdict_text import moment_text, value_text


def members_as_record(
    members: Sequence[MemberView],
    requests: Sequence[KnownJoinRequest],
    candidates: Mapping[PeerId, MemberView],
    banned: Sequence[PeerId] = (),
) -> dict[str, Any]:
    """Give members, waiting requests and banned nodes as JSON."""
    return {
        "members": [member_as_record(member) for member in members],
        "waiting": [_request_as_record(request, candidates) for request in requests],
        "banned": [*banned],
    }


def member_as_record(member: MemberView) -> dict[str, Any]:
    """Give one member as JSON."""
    return {
        "peer_id": member.peer_id,
        "qualifies": member.qualifies,
        "failed": [
            {"criterion": f.criterion, "wanted": f.wanted, "found": f.found}
            for f in member.failures
        ],
        "models": list(member.models),
        "connected": member.connected,
        "slots": member.slots,
        "jobs_running": member.jobs_running,
        "joined_ms": member.joined_ms,
        "certificate_expires_ms": member.certificate_expires_ms,
        "service": dict(member.service) if member.service else None,
    }


def _request_as_record(
    request: KnownJoinRequest, candidates: Mapping[PeerId, MemberView]
) -> dict[str, Any]:
    asked = request.request
    seen = candidates.get(asked.peer_id)
    return {
        "peer_id": asked.peer_id,
        "account_id": request.account_id,
        "note": asked.note,
        "asked_ms": asked.issued_ms,
        "would_qualify": seen.qualifies if seen is not None else None,
        "failed": member_as_record(seen)["failed"] if seen is not None else [],
    }


def members_as_text(record: Mapping[str, Any]) -> str:
    """Give members and waiting requests as lines for people."""
    lines = []
    members = record["members"]
    good = sum(bool(member["qualifies"]) for member in members)
    lines.append(f"{len(members)} members, {good} qualify")
    for member in members:
        state = "qualifies" if member["qualifies"] else "does not qualify"
        end = _until(member["certificate_expires_ms"])
        lines.append(f"  {member['peer_id']}  {state}{end}")
        lines += [f"      {reason_text(failed)}" for failed in member["failed"]]
    if record["waiting"]:
        lines.append(f"{len(record['waiting'])} ask to join")
    for asked in record["waiting"]:
        would = {True: "would qualify", False: "would not qualify", None: "not seen here yet"}
        note = f"  {printable(asked['note'])!r}" if asked["note"] else ""
        lines.append(f"  {asked['peer_id']}  {would[asked['would_qualify']]}{note}")
        lines += [f"      {reason_text(failed)}" for failed in asked["failed"]]
    lines += [f"  {peer_id}  banned" for peer_id in record["banned"]]
    return "\n".join(lines)


def join_text(event: Mapping[str, Any]) -> str:
    """Give a line of the log of joins and leaves for people."""
    return printable(f"{moment_text(event['at_ms'])}  {event['peer_id']}  {event['what']}")


def reason_text(failed: Mapping[str, Any]) -> str:
    """Give a criterion that is not met, with its values, in one line."""
    name = str(failed["criterion"])
    wanted, found = (value_text(name, failed[which]) for which in ("wanted", "found"))
    return printable(f"{name}: wanted {wanted}, found {found}")


def printable(text: str) -> str:
    """Give a stranger's text without what a terminal would act on."""
    return "".join(character if character.isprintable() else " " for character in text)


def _until(expires_ms: int | None) -> str:
    if expires_ms is None:
        return ""
    end = datetime.datetime.fromtimestamp(expires_ms / 1000, datetime.UTC)
    return f"  until {end:%Y-%m-%d %H:%M} UTC"
