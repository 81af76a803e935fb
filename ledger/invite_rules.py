"""Owns the rule of invites: which account and which node is let in, and what is noted of it. Pure.

Expiry, revocation and the number of uses are judged where the account is opened or the node bound,
in one transaction, so that an invite for three opens three, at however many bootstraps. An invite
for nodes also opens the accounts that they work for; accounts and nodes are counted apart, each up
to its uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import utc_text
from ledger.opening_errors import InviteError
from ledger.records import InviteUse, NodeInviteUse

if TYPE_CHECKING:
    from ledger.book import Book
    from ledger.operations import AdmitNode, FoundAccount, OpeningRule
    from p2p.node_invites import NodeInvitation
    from p2p.opening_messages import Invitation
    from p2p.types import AccountId


def check_invitation(
    book: Book, operation: FoundAccount, account_id: AccountId, now_ms: int
) -> InviteUse | None:
    """Judge the invitation of a new account; gives its use (None: opened without one).

    Raises: InviteError.
    """
    invitation, rule = operation.invitation, operation.rule
    if invitation is None:
        if rule.invite_required:
            raise InviteError("this network opens accounts by invite only: ask for one")
        return None
    _check(invitation, rule, now_ms)
    if book.invite_uses.get(invitation.invite_id, 0) >= invitation.invite.uses:
        uses = invitation.invite.uses
        raise InviteError(
            f"{_name(invitation)} is used up: it has opened {uses} of {uses} accounts"
        )
    return InviteUse(account_id, invitation.invite_id, now_ms)


def check_node_invitation(book: Book, operation: AdmitNode, now_ms: int) -> NodeInviteUse:
    """Judge the invitation of a node that is not bound yet; gives its use. Raises: InviteError."""
    invitation = operation.invitation
    _check(invitation, operation.rule, now_ms)
    if book.node_invite_uses.get(invitation.invite_id, 0) >= invitation.invite.uses:
        uses = invitation.invite.uses
        raise InviteError(f"{_name(invitation)} is used up: it has admitted {uses} of {uses} nodes")
    return NodeInviteUse(invitation.peer_id, invitation.account_id, invitation.invite_id, now_ms)


def _check(invitation: Invitation | NodeInvitation, rule: OpeningRule, now_ms: int) -> None:
    name = _name(invitation)
    if invitation.issuer not in rule.issuers:
        raise InviteError(f"{name} is not signed by the authority or one of its invite keys")
    if invitation.invite_id in rule.revoked:
        raise InviteError(f"{name} was revoked")
    if now_ms >= invitation.invite.expires_ms:
        raise InviteError(f"{name} ended at {utc_text(invitation.invite.expires_ms)}")


def _name(invitation: Invitation | NodeInvitation) -> str:
    return f"invite {invitation.invite_id.hex()}"
