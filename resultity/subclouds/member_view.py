"""Owns how the owner's view of a gateway (JSON) is read: members, candidates, what they lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2p.types import PeerId
from resultity.errors import GatewayCallError


@dataclass(frozen=True, slots=True)
class Failure:
    """One criterion that a node does not meet: what was asked, what was found (plain JSON)."""

    criterion: str
    wanted: Any
    found: Any


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member as one gateway sees it. Times are milliseconds since 1970.

    `certificate_id`: of what the node shows, where the join rule wants one. `service`: what was
    observed of it in the policy's window (`jobs`, `first_token_ms`, `tokens_per_second`, `uptime`).
    """

    peer_id: PeerId
    qualifies: bool
    failures: tuple[Failure, ...] = ()
    models: tuple[str, ...] = ()
    connected: bool = False
    slots: int = 0
    jobs_running: int = 0
    joined_ms: int = 0
    certificate_id: str = ""
    certificate_expires_ms: int | None = None
    service: Mapping[str, Any] | None = None

    @property
    def failed(self) -> frozenset[str]:
        """The criteria that it does not meet."""
        return frozenset(failure.criterion for failure in self.failures)


def read_members(view: Mapping[str, Any]) -> tuple[MemberView, ...]:
    """Read the members of a view, in the order of their IDs. Raises: GatewayCallError."""
    try:
        members = [_member(PeerId(str(entry["peer_id"])), entry) for entry in view["members"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GatewayCallError("the gateway's view of the subcloud cannot be read") from error
    return tuple(sorted(members, key=lambda member: member.peer_id))


def read_candidates(view: Mapping[str, Any]) -> dict[PeerId, MemberView]:
    """Read how nodes would do as members; nodes that the gateway does not know are left out.

    Raises: GatewayCallError.
    """
    try:
        return {
            PeerId(peer_id): _member(PeerId(peer_id), entry)
            for peer_id, entry in view.get("candidates", {}).items()
            if entry.get("known", True)
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GatewayCallError("the gateway's view of the subcloud cannot be read") from error


def _member(peer_id: PeerId, entry: Mapping[str, Any]) -> MemberView:
    expires_ms = entry.get("certificate_expires_ms")
    return MemberView(
        peer_id,
        bool(entry["qualifies"]),
        tuple(
            Failure(str(f["criterion"]), f.get("wanted"), f.get("found"))
            for f in entry.get("failed", ())
        ),
        tuple(str(model) for model in entry.get("models", ())),
        bool(entry.get("connected", False)),
        int(entry.get("slots", 0)),
        int(entry.get("jobs_running", 0)),
        int(entry.get("joined_ms", 0)),
        str(entry.get("certificate_id") or ""),
        int(expires_ms) if expires_ms is not None else None,
        entry.get("service"),
    )
