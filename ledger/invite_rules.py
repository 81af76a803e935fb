"""Owns the rule of invites: which opening of an account is let in, and what is noted of it. Pure.

Expiry, revocation and the number of uses are judged where the account is opened, in one
transaction, so that an invite for three accounts opens three, at however many bootstraps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import utc_text
from ledger.opening_errors import InviteError
from ledger.records import InviteUse

if TYPE_CHECKING:
    from ledger.book import Book
    from ledger.operations import FoundAccount
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
    name = f"invite {invitation.invite_id.hex()}"
    if invitation.issuer not in rule.issuers:
        raise InviteError(f"{name} is not signed by the authority or one of its invite keys")
    if invitation.invite_id in rule.revoked:
        raise InviteError(f"{name} was revoked")
    if now_ms >= invitation.invite.expires_ms:
        raise InviteError(f"{name} ended at {utc_text(invitation.invite.expires_ms)}")
    if book.invite_uses.get(invitation.invite_id, 0) >= invitation.invite.uses:
        raise InviteError(f"{name} has opened its {invitation.invite.uses} accounts already")
    return InviteUse(account_id, invitation.invite_id, now_ms)
