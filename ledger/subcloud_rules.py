"""Owns the rules of jobs in subclouds: who may send them, what of them the owner gets. Pure.

Theory of operation. The owner's share is a fee like the gateway's: part of the charge, rounded
down, taken before the nodes' parts. A token that is shown is counted in the transaction of the hold
(needed or not: an audit has no policy to tell by), and belongs to the namespace that used it first:
whoever carries it cannot use it for another.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.book import Book
from ledger.errors import ValueRefusedError
from ledger.hold_context import NO_CONTEXT, HoldContext, token_name
from ledger.records import ApiKeyEntry, TokenUse
from ledger.subcloud_errors import (
    CallerNotAllowedError,
    CallerTokenError,
    ForeignNamespaceError,
)
from p2p.prices import FEES_BASIS_POINTS_MAX, FeeRule, PriceTerms
from p2p.subclouds.callers import check_caller
from p2p.subclouds.tokens import CallerToken, token_allows
from p2p.types import AccountId


def fees_of(fees: FeeRule, terms: PriceTerms, context: HoldContext) -> FeeRule:
    """Give the shares of what a hold pays for. Raises: ValueRefusedError."""
    if not terms.subcloud_id and not terms.owner_fee_basis_points:
        return fees.under(terms)
    if not terms.subcloud_id or not context.owner_account:
        raise ValueRefusedError("the owner of the subcloud that the terms name is not known")
    found = fees.under(terms)
    if terms.owner_fee_basis_points and found.total_basis_points > FEES_BASIS_POINTS_MAX:
        raise ValueRefusedError(
            f"all fees of a job in a subcloud are at most {FEES_BASIS_POINTS_MAX / 100:g} %"
        )
    return found


def judge_caller(
    book: Book, context: HoldContext, key: ApiKeyEntry, gateway_account: AccountId, network: str
) -> TokenUse | None:
    """Judge whether a key may be used here; gives the use of the token, if one is shown.

    Args: network: in which of the policy's source networks the gateway says that the client is.
    Raises: ForeignNamespaceError, CallerNotAllowedError, CallerTokenError.
    """
    if context is NO_CONTEXT:
        return None
    account, _, namespace = key.namespace.partition("/")
    account_id = AccountId(account)
    if context.own_namespaces_only and account_id != gateway_account:
        raise ForeignNamespaceError("this gateway serves its own account's namespaces only")
    policy, token = context.policy, context.token
    if policy is not None:
        reason = check_caller(policy, account_id, namespace, key.key_id, token, network)
        if reason is not None:
            raise CallerNotAllowedError(reason)
    return None if token is None else _used(book, token, key, account, namespace)


def _used(
    book: Book, token: CallerToken, key: ApiKeyEntry, account: str, namespace: str
) -> TokenUse:
    """Count one use of a token. Raises: CallerTokenError."""
    if not token_allows(token, account, namespace):
        raise CallerTokenError("this token is for jobs that another account or namespace pays")
    name = token_name(token)
    before = book.token_uses.get(name) or TokenUse(name)
    if before.namespace not in ("", key.namespace):
        raise CallerTokenError("this token belongs to the namespace that used it first")
    if token.uses and before.uses >= token.uses:
        raise CallerTokenError(f"this token was good for {token.uses} jobs and is used up")
    return replace(before, namespace=key.namespace, uses=before.uses + 1)
