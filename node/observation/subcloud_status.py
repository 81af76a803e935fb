"""Owns what a node's status says of its subclouds. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2p.errors import MalformedError


@dataclass(frozen=True, slots=True)
class FailedCriterion:
    """A criterion of the policy that the node does not meet: what is asked, what was found."""

    criterion: str
    wanted: str
    found: str


@dataclass(frozen=True, slots=True)
class SubcloudStatus:
    """One subcloud that the node is in, or that its operator named. Times: ms since 1970, 0: none.

    `name` is what the operator called it, or its label; `subcloud_id` is empty while a label leads
    nowhere. `state`: member, suspended (a member that takes no jobs there), asking (its owner has
    to approve), waiting or out; `reason` says why. `others_judge`: what only gateways can tell.
    """

    name: str
    subcloud_id: str
    state: str
    reason: str = ""
    join: str = ""
    version: int = 0
    digest: str = ""
    joined_ms: int = 0
    isolates: bool = False
    certificate_until_ms: int = 0
    models: tuple[str, ...] = ()
    failed: tuple[FailedCriterion, ...] = ()
    others_judge: tuple[str, ...] = ()

    @property
    def is_member(self) -> bool:
        """Whether the node says that it is one."""
        return self.state in ("member", "suspended")


def subcloud_status_of(content: Mapping[str, Any]) -> SubcloudStatus:
    """Read one from a status file. Raises: MalformedError."""
    try:
        failed = tuple(FailedCriterion(**entry) for entry in content.get("failed", ()))
        tuples = {name: tuple(content.get(name, ())) for name in ("models", "others_judge")}
        return SubcloudStatus(**{**content, **tuples, "failed": failed})
    except TypeError as error:
        raise MalformedError(f"not the status of a subcloud: {error}") from error
