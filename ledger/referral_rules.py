"""Owns the rule of referrals: an account says once, soon after its opening, who brought it. Pure.

Referrals make a forest: each account has at most one referrer, nobody is among those who were
brought by their own referrals. Of two accounts that name each other only the first one is taken:
the store lets one group of operations with referrals in at a time.
"""

from __future__ import annotations

from ledger.account_rules import operated, record_of, result_of, signing_account
from ledger.book import Book
from ledger.errors import AccountUnknownError, ConflictError, utc_text
from ledger.opening_errors import ReferralError
from ledger.operations import ReferAccount
from ledger.records import Change, ReferralEntry


def refer_account(book: Book, operation: ReferAccount, now_ms: int) -> Change:
    """Record who referred an account.

    Raises: AccountUnknownError (either account), NotAuthorizedError, ConflictError (another
    referrer before), ReferralError (itself, too late, a loop, a chain that is too long).
    """
    document, signed = operation.document, operation.signed
    account = signing_account(book, document.account_id, signed)
    existing = book.referrals.get(account.account_id)
    if existing == document.referrer:
        return Change(result_of(signed, exists=True))
    if existing is not None:
        raise ConflictError("this account named who referred it before: that is done once")
    if document.referrer == account.account_id:
        raise ReferralError("an account cannot refer itself")
    if document.referrer not in book.accounts:
        raise AccountUnknownError(f"there is no account {document.referrer[:60]}")
    ends_ms = account.created_ms + operation.window_ms
    if now_ms > ends_ms:
        raise ReferralError(
            f"an account says who referred it within {operation.window_ms // 86_400_000} days of "
            f"its opening; that ended at {utc_text(ends_ms)}"
        )
    _check_chain(book, account.account_id, document.referrer, operation.chain_max)
    after = operated(account)
    record = record_of(signed, document, account.account_id, after, now_ms)
    entry = ReferralEntry(account.account_id, document.referrer, now_ms)
    return Change(result_of(signed), account=after, record=record, referral=entry)


def _check_chain(book: Book, account_id: str, referrer: str, chain_max: int) -> None:
    """Walk up from the referrer. Raises: ReferralError."""
    at = referrer
    for _ in range(chain_max):
        above = book.referrals.get(at)
        if above is None:
            return
        if above == account_id:
            raise ReferralError("this would be a loop: that account was brought by this one")
        at = above
    raise ReferralError(f"more than {chain_max} referrals stand above that account")
