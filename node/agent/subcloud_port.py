"""Owns what the agent asks about this node's subclouds: the port that `node.subclouds` implements.

Theory of operation. What a node consented to is in one signed statement (`p2p.subclouds`); offers
are judged by what the node itself knows of the policies that it names. A node without memberships
has `NO_SUBCLOUDS`: it serves the global pool and nothing else.
"""

from __future__ import annotations

from typing import Protocol

import trio

from node.agent.subcloud_offers import Joined
from p2p.approved_models import ApprovedModel
from p2p.signing import Signed


class Memberships(Protocol):
    """The memberships of this node."""

    @property
    def isolated(self) -> str:
        """The subcloud for which this node left the global pool; empty if it did not."""
        ...

    def joined(self, subcloud_id: str) -> Joined | None:
        """The membership of a subcloud; None if this node is no member, or lacks the policy."""
        ...

    def policy_wanted(self, subcloud_id: str) -> None:
        """An offer names a policy that is not known here: fetch it soon."""
        ...

    def own_model(self, digest: bytes) -> ApprovedModel | None:
        """A model that a policy of these memberships approves by itself."""
        ...

    def statement(self) -> Signed | None:
        """The statement to show to gateways; None while there is nothing to say."""
        ...

    @property
    def statement_change(self) -> trio.Event:
        """Set at the next statement (take it before you look at the statement)."""
        ...


class _NoSubclouds:
    """The global pool only."""

    isolated = ""

    def __init__(self) -> None:
        self.statement_change = trio.Event()

    def joined(self, subcloud_id: str) -> Joined | None:
        return None

    def policy_wanted(self, subcloud_id: str) -> None:
        pass

    def own_model(self, digest: bytes) -> ApprovedModel | None:
        return None

    def statement(self) -> Signed | None:
        return None


def no_subclouds() -> Memberships:
    """Give the memberships of a node that has none."""
    return _NoSubclouds()
