"""Owns the rules of stakes for subclouds: available -> stake, and back. Pure.

A subcloud has one stake at a time, of the account that founded it. It lies in an account of its
own, which no other kind of transfer touches; it can go nowhere but back to where it came from.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.account_rules import signing_account
from ledger.accounts import available_account, namespace_path, stake_account
from ledger.book import Book
from ledger.errors import (
    InsufficientFundsError,
    NamespaceUnknownError,
    NotAuthorizedError,
    ValueRefusedError,
)
from ledger.operations import content_of
from ledger.records import Change, Entry, Namespace, Transfer, TransferKind
from ledger.stake_errors import StakeExistsError, StakeInUseError, StakeUnknownError
from ledger.stakes import UNUSED_RETURN_MS, OpenStake, ReturnStake, StakeSubcloud
from ledger.transfer_rules import repeated
from p2p.codec import encode_message
from p2p.errors import MalformedError
from p2p.ledger_messages import TransferResult
from p2p.subclouds.identity import label_of, parse_subcloud_id, subcloud_id


def stake_subcloud(book: Book, operation: StakeSubcloud, now_ms: int) -> Change:
    """Set credits aside for a subcloud: available -> stake.

    Raises: ConflictError, AccountUnknownError, NotAuthorizedError, NamespaceUnknownError,
    ValueRefusedError (not what the network asks for), StakeExistsError, InsufficientFundsError.
    """
    document, signed = operation.document, operation.signed
    content = content_of(signed.signer, document)
    if found := repeated(book, document.stake_id, content):
        return found
    namespace = _namespace(book, operation)
    try:
        identity = parse_subcloud_id(document.subcloud_id)
    except MalformedError as error:
        raise ValueRefusedError(str(error)) from error
    own = subcloud_id(operation.network_id, document.account_id, label_of(identity))
    if identity != own:
        raise NotAuthorizedError(f"{identity} is not a subcloud that {document.account_id} founds")
    amount = document.amount
    if amount < max(1, operation.amount_min):
        raise ValueRefusedError(
            f"this network asks for a stake of {operation.amount_min} microcredits, not {amount}"
        )
    known = book.stakes.get(identity)
    if known is not None and known.amount:
        raise StakeExistsError(f"{known.amount} microcredits are set aside for {identity} already")
    if namespace.available < amount:
        raise InsufficientFundsError(namespace.available, amount)
    entries = (
        Entry(available_account(namespace.path), -amount),
        Entry(stake_account(identity), amount),
    )
    after = namespace.moved(namespace.available - amount, namespace.held)
    return _moved(
        operation,
        TransferKind.STAKE,
        document.stake_id,
        content,
        entries,
        after,
        OpenStake(identity, namespace.path, amount, now_ms),
        now_ms,
    )


def return_stake(book: Book, operation: ReturnStake, now_ms: int) -> Change:
    """Give a subcloud's stake back: stake -> available.

    Raises: ConflictError, AccountUnknownError, NotAuthorizedError, NamespaceUnknownError,
    StakeUnknownError, StakeInUseError, ValueRefusedError (another namespace's).
    """
    document, signed = operation.document, operation.signed
    content = content_of(signed.signer, document)
    if found := repeated(book, document.return_id, content):
        return found
    namespace = _namespace(book, operation)
    stake = book.stakes.get(document.subcloud_id)
    if stake is None or not stake.amount:
        raise StakeUnknownError(f"nothing is set aside for {document.subcloud_id[:80]}")
    if stake.namespace.partition("/")[0] != document.account_id:
        raise NotAuthorizedError("another account set this stake aside")
    if stake.namespace != namespace.path:
        raise ValueRefusedError(f"this stake goes back to {stake.namespace}, where it came from")
    if operation.ended is False:
        raise StakeInUseError("the subcloud has not ended: `resultity subcloud revoke` ends it")
    if operation.ended is None and stake.subcloud_id in book.published:
        raise StakeInUseError("the subcloud was published just now: try again if it has ended")
    left_ms = stake.at_ms + UNUSED_RETURN_MS - now_ms
    if operation.ended is None and left_ms > 0:
        raise StakeInUseError(
            "no policy of this subcloud is known here: its stake can be taken back in "
            f"{-(-left_ms // 60_000)} minutes"
        )
    amount = stake.amount
    entries = (
        Entry(stake_account(stake.subcloud_id), -amount),
        Entry(available_account(namespace.path), amount),
    )
    after = namespace.moved(namespace.available + amount, namespace.held)
    return _moved(
        operation,
        TransferKind.STAKE_RETURN,
        document.return_id,
        content,
        entries,
        after,
        stake._replace(amount=0, at_ms=now_ms),
        now_ms,
    )


def _namespace(book: Book, operation: StakeSubcloud | ReturnStake) -> Namespace:
    document, signed = operation.document, operation.signed
    account = book.accounts.get(document.account_id)
    if account is not None and operation.any_key:
        account = replace(account, signing_keys=account.signing_keys | account.retired_keys)
        if signed.signer not in account.signing_keys:
            raise NotAuthorizedError(f"this was never signed by a key of {account.account_id}")
    else:
        signing_account(book, document.account_id, signed)
    path = namespace_path(document.account_id, document.namespace)
    namespace = book.namespaces.get(path)
    if namespace is None:
        raise NamespaceUnknownError(f"there is no namespace {path}")
    return namespace


def _moved(
    operation: StakeSubcloud | ReturnStake,
    kind: TransferKind,
    transfer_id: bytes,
    content: bytes,
    entries: tuple[Entry, ...],
    after: Namespace,
    stake: OpenStake,
    now_ms: int,
) -> Change:
    amount = abs(entries[0].amount)
    result = TransferResult(transfer_id, amount, after.available, False)
    request = encode_message(operation.signed)
    transfer = Transfer(
        transfer_id, kind, after.path, None, content, request, entries, result, now_ms
    )
    return Change(result, transfer, namespace=after, stake=stake)
