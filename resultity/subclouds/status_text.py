"""Owns the state of a subcloud as its owner sees it: one record, and its text for people."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from p2p.subclouds.records import KnownPolicy
from resultity.subclouds.member_text import member_as_record, reason_text
from resultity.subclouds.member_view import read_members

MICROCREDITS = 1_000_000
SUMMED = ("jobs", "failed", "client_left", "input_tokens", "output_tokens", "charged", "income")


def status_as_record(
    known: KnownPolicy, view: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], now_ms: int
) -> dict[str, Any]:
    """Give everything as JSON. `rows`: usage of some days (`resultity.subclouds.usage`)."""
    policy = known.policy
    members = read_members(view)
    total = int(view.get("members_known", len(members)))  # a gateway shows the first ones only
    return {
        "subcloud_id": known.identity,
        "policy": {
            "version": policy.version,
            "digest": known.digest,
            "in_force_at_gateway": view.get("policy", {}).get("digest") == known.digest,
            "join": policy.join,
            "ended": policy.ended,
            "expires_ms": policy.expires_ms,
            "expired": policy.expires_ms <= now_ms,
        },
        "revocation_list": view.get("revocation_list"),
        "revocation_list_age_s_max": policy.revocation_list_age_s_max,
        "members_max": policy.members_max,
        "members": [member_as_record(member) for member in members],
        "members_known": total,
        "qualified": sum(member.qualifies for member in members),
        "slots": sum(member.slots for member in members if member.qualifies),
        "jobs_running": sum(member.jobs_running for member in members),
        "refusals": dict(view.get("refusals", {})),
        "usage": {name: sum(int(row.get(name, 0)) for row in rows) for name in SUMMED},
        "usage_rows": [dict(row) for row in rows],
    }


def without_age(record: Mapping[str, Any]) -> dict[str, Any]:
    """Give what is worth showing again when it changes."""
    return {**record, "revocation_list": (record["revocation_list"] or {}).get("number")}


def status_as_text(record: Mapping[str, Any]) -> str:
    """Give it as lines for people."""
    policy = record["policy"]
    lines = [f"{record['subcloud_id']}  policy {policy['version']} ({policy['join']})"]
    if policy["ended"] or policy["expired"]:
        lines.append("  NOT IN FORCE: the policy is over; publish a new version")
    elif not policy["in_force_at_gateway"]:
        lines.append("  this gateway goes by another version (yet)")
    lines += _list_lines(record)
    lines.append(
        f"  {record['members_known']} members (at most {record['members_max']}), "
        f"{record['qualified']} {_of_shown(record)}; "
        f"{record['jobs_running']} of {record['slots']} slots busy"
    )
    for member in record["members"]:
        lines.append(f"    {member['peer_id']}  {_member_text(member)}")
        lines += [f"        {reason_text(failed)}" for failed in member["failed"]]
    usage = record["usage"]
    if usage["jobs"]:
        lines.append(
            f"  {usage['jobs']} jobs ({usage['failed']} failed, {usage['client_left']} left by the "
            f"client), {usage['input_tokens']} + {usage['output_tokens']} tokens"
        )
        lines.append(
            f"  charged {_credits(usage['charged'])}, income {_credits(usage['income'])} credits"
        )
    refusals = sorted(record["refusals"].items(), key=lambda item: (-item[1], item[0]))
    if refusals:
        lines.append("  refused at this gateway since it started")
        lines += [f"    {count:>8}  {reason}" for reason, count in refusals]
    return "\n".join(lines)


def _of_shown(record: Mapping[str, Any]) -> str:
    shown = len(record["members"])
    return "qualify" if shown == record["members_known"] else f"of the first {shown} qualify"


def _list_lines(record: Mapping[str, Any]) -> list[str]:
    if record["policy"]["join"] == "open":
        return []
    found, most_s = record["revocation_list"], record["revocation_list_age_s_max"]
    if not found:
        return ["  NO REVOCATION LIST: members are refused until a delegate publishes one"]
    age_s = int(found["age_s"])
    told = f"  revocation list {found['number']}, {_age(age_s)} old (at most {_age(most_s)})"
    return [told + (": TOO OLD, members are refused" if age_s > most_s else "")]


def _member_text(member: Mapping[str, Any]) -> str:
    parts = ["qualifies" if member["qualifies"] else "does not qualify"]
    if not member["connected"]:
        parts.append("not connected")
    parts.append(f"{member['jobs_running']} of {member['slots']} slots busy")
    service = member["service"]
    if service:
        parts.append(
            f"{service.get('jobs', 0)} jobs seen: first token "
            f"{service.get('first_token_ms', 0):.0f} ms, "
            f"{service.get('tokens_per_second', 0):.1f} tokens/s, "
            f"up {service.get('uptime', 0) / 100:.1f}%"
        )
    return ", ".join(parts)


def _credits(microcredits: int) -> str:
    return f"{microcredits / MICROCREDITS:.6f}".rstrip("0").rstrip(".")


def _age(seconds: int) -> str:
    return str(datetime.timedelta(seconds=seconds))
