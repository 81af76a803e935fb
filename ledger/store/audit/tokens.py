"""Owns the audit of subclouds' jobs: what a hold's context was, and the uses of callers' tokens.

Who a subcloud's owner and its delegates were, only the policy of the moment knew: the owner's
account is the hold's (its leaf in the log covers it), and a token is one that somebody signed. That
no job of a subcloud is without an owner, and how often each token was used and by whom, is decided
again.
"""

from __future__ import annotations

from sqlalchemy import Connection, select

from ledger.errors import IntegrityError
from ledger.hold_context import HoldContext
from ledger.records import Hold, TokenUse
from ledger.store.audit.report import AuditReport, Replay
from ledger.store.token_tables import TOKEN_USES
from p2p.lease_messages import LeaseRequest
from p2p.ledger_messages import HoldRequest
from p2p.signing import open_signed
from p2p.subclouds.tokens import CallerToken
from p2p.types import is_account_id


def context_of(replay: Replay, hold: Hold, document: HoldRequest | LeaseRequest) -> HoldContext:
    """Give what a hold was judged by, as far as one can know. Raises: P2PError, IntegrityError."""
    owner = hold.owner_account
    if bool(owner) != bool(document.terms.subcloud_id) or (owner and not is_account_id(owner)):
        raise IntegrityError("its subcloud and its subcloud's owner do not fit together")
    signed = document.caller_token if isinstance(document, HoldRequest) else None
    if signed is None:
        return HoldContext(owner)
    token = open_signed(signed, CallerToken, replay.network)
    if token.subcloud_id != document.terms.subcloud_id:
        raise IntegrityError("its token is one of another subcloud")
    return HoldContext(owner, token=token)


def audit_tokens(connection: Connection, replay: Replay, report: AuditReport) -> None:
    """Compare the uses of tokens with the holds that showed them."""
    rows = connection.execute(select(TOKEN_USES).where(TOKEN_USES.c.uses != 0))
    found = {row.name: TokenUse(*row) for row in rows}
    report.compare("the uses of callers' tokens", found, replay.book.token_uses)
    report.count("callers' tokens", len(found))
