"""Owns the operations that let nodes in, and the rule for nodes and new accounts. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.node_invites import NodeInvitation
from p2p.types import AccountId, PeerId


@dataclass(frozen=True, slots=True)
class OpeningRule:
    """Who may open accounts, or run nodes, now: whether it takes an invite, who signs those, and
    which are revoked."""

    invite_required: bool = False
    issuers: frozenset[bytes] = frozenset()
    revoked: frozenset[bytes] = frozenset()


NO_RULE = OpeningRule()


@dataclass(frozen=True, slots=True)
class BindNode:
    """Say whose earnings a node's work pays (asked for by admission).

    `invited_only`: a node that is not bound to any account yet needs an invite (AdmitNode).
    """

    peer_id: PeerId
    account_id: AccountId
    invited_only: bool = False


@dataclass(frozen=True, slots=True)
class AdmitNode:
    """Bind a node that comes with an invite. `binds` is False where the log has the binding already
    (an audit, a mirror): then only the use of the invite is judged and noted."""

    invitation: NodeInvitation
    rule: OpeningRule = NO_RULE
    binds: bool = True
