"""Owns the rules of accounts, namespaces, API keys and node bindings. Pure.

These move no money. Each is idempotent by what it names: a repetition gets `exists`, the same name
with other content is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ledger.accounts import namespace_path
from ledger.book import Book
from ledger.errors import (
    AccountUnknownError,
    ConflictError,
    KeyUnknownError,
    LimitError,
    NamespaceUnknownError,
    NotAuthorizedError,
    ValueRefusedError,
)
from ledger.invite_rules import check_invitation, check_node_invitation
from ledger.limits import KEYS_PER_NAMESPACE_MAX, NAMESPACES_PER_ACCOUNT_MAX
from ledger.opening_errors import InviteError
from ledger.operations import (
    AdmitNode,
    BindNode,
    CreateKey,
    FoundAccount,
    OpenNamespace,
    RevokeKey,
    content_of,
)
from ledger.records import Account, ApiKeyEntry, Binding, Change, Namespace, SignedRecord
from p2p.api_keys import is_key_id
from p2p.codec import encode_message
from p2p.key_limits import KeyLimits, is_network, subclouds_problem
from p2p.ledger_messages import TransferResult
from p2p.node_invites import NodeAdmission
from p2p.opening_messages import InvitedFounding
from p2p.signing import Document, Signed
from p2p.types import AccountId, account_id_from_founding, is_account_id, is_namespace_name


def found_account(book: Book, operation: FoundAccount, now_ms: int) -> Change:
    """Open an account; its ID is the hash of the founding document.

    Raises: NotAuthorizedError if it is not signed by the key that it names, InviteError.
    """
    document, signed = operation.document, operation.signed
    if signed.signer != document.signing_key:
        raise NotAuthorizedError("a founding document is signed by the key that it names")
    account_id = account_id_from_founding(signed.body)
    if account_id in book.accounts:
        return Change(result_of(signed, exists=True))
    invite_use = check_invitation(book, operation, account_id, now_ms)
    account = Account(
        account_id,
        frozenset([document.signing_key]),
        frozenset([document.recovery_key]),
        namespaces=0,
        created_ms=now_ms,
        operations=1,
    )
    # With an invite, the record is the document that has both: the founding and the invite.
    kept, kind = signed, document.PURPOSE
    if operation.invitation is not None:
        kept, kind = operation.invitation.signed, InvitedFounding.PURPOSE
    record = SignedRecord(
        kept.digest(),
        kind,
        account_id,
        encode_message(kept),
        now_ms,
        account_id,
        account.operations,
    )
    return Change(result_of(signed), account=account, record=record, invite_use=invite_use)


def open_namespace(book: Book, operation: OpenNamespace, now_ms: int) -> Change:
    """Open a namespace of an account.

    Raises: AccountUnknownError, NotAuthorizedError, ValueRefusedError, LimitError.
    """
    document, signed = operation.document, operation.signed
    account = signing_account(book, document.account_id, signed)
    if not is_namespace_name(document.namespace):
        raise ValueRefusedError("a namespace's name is 1 to 64 of a-z, 0-9, - and _")
    path = namespace_path(document.account_id, document.namespace)
    existing = book.namespaces.get(path)
    if existing is not None:
        return Change(result_of(signed, existing.available, exists=True))
    if account.namespaces >= NAMESPACES_PER_ACCOUNT_MAX:
        raise LimitError(f"an account has at most {NAMESPACES_PER_ACCOUNT_MAX} namespaces")
    namespace = Namespace(
        path,
        account.account_id,
        document.namespace,
        available=0,
        held=0,
        grants=0,
        keys=0,
    )
    after = operated(replace(account, namespaces=account.namespaces + 1))
    record = record_of(signed, document, path, after, now_ms)
    return Change(result_of(signed), account=after, namespace=namespace, record=record)


def create_key(book: Book, operation: CreateKey, now_ms: int) -> Change:
    """Register an API key of a namespace.

    Raises: AccountUnknownError, NotAuthorizedError, NamespaceUnknownError, ValueRefusedError,
    ConflictError (the key's ID is taken), LimitError.
    """
    document, signed = operation.document, operation.signed
    account = signing_account(book, document.account_id, signed)
    path = namespace_path(document.account_id, document.namespace)
    namespace = book.namespaces.get(path)
    if namespace is None:
        raise NamespaceUnknownError(f"there is no namespace {path}")
    content = content_of(signed.signer, document)
    existing = book.keys.get(document.key_id)
    if existing is not None:
        if existing.content != content:
            raise ConflictError(f"the API key ID {document.key_id} is taken")
        return Change(result_of(signed, namespace.available, exists=True))
    if not is_key_id(document.key_id):
        raise ValueRefusedError("an API key's ID is 16 characters of a-z and 2-7")
    check_key_values((document.name, *document.models), document.gateways, document.limits)
    if document.expires_ms and document.expires_ms <= now_ms:
        raise ValueRefusedError("this API key would have expired already")
    if namespace.keys >= KEYS_PER_NAMESPACE_MAX:
        raise LimitError(f"a namespace has at most {KEYS_PER_NAMESPACE_MAX} API keys")
    key = ApiKeyEntry(
        document.key_id,
        path,
        document.hold_key,
        document.name,
        document.expires_ms,
        revoked_ms=0,
        credit_cap_total=document.credit_cap_total,
        models=document.models,
        gateways=document.gateways,
        content=content,
        limits=document.limits,
        created_ms=now_ms,
    )
    after, account = replace(namespace, keys=namespace.keys + 1), operated(account)
    return Change(
        result_of(signed, after.available),
        account=account,
        namespace=after,
        key=key,
        record=record_of(signed, document, key.key_id, account, now_ms),
    )


def check_key_values(texts: Iterable[str], gateways: Iterable[str], limits: KeyLimits) -> None:
    """See that what an owner sets for an API key can be used. Raises: ValueRefusedError."""
    if any(not text.isprintable() for text in (*texts, *gateways)):
        raise ValueRefusedError("the texts of an API key are printable")
    if not all(is_network(text) for text in limits.networks):
        raise ValueRefusedError("a source network is in CIDR form, such as 192.0.2.0/24")
    if problem := subclouds_problem(limits):
        raise ValueRefusedError(problem)


def revoke_key(book: Book, operation: RevokeKey, now_ms: int) -> Change:
    """End an API key at once; running holds stay as they are.

    Raises: AccountUnknownError, NotAuthorizedError, KeyUnknownError.
    """
    document, signed = operation.document, operation.signed
    account = signing_account(book, document.account_id, signed)
    key = book.keys.get(document.key_id)
    if key is None or not key.namespace.startswith(f"{account.account_id}/"):
        raise KeyUnknownError(f"this account has no API key {document.key_id}")
    if key.revoked_ms:
        return Change(result_of(signed, exists=True))
    after, account = replace(key, revoked_ms=max(now_ms, 1)), operated(account)
    record = record_of(signed, document, key.key_id, account, now_ms)
    return Change(result_of(signed), account=account, key=after, record=record)


def bind_node(book: Book, operation: BindNode, now_ms: int) -> Change:
    """Say whose earnings a node's work pays from now on.

    Raises: ValueRefusedError if that is no account ID, InviteError if it takes an invite.
    """
    if not is_account_id(operation.account_id):
        raise ValueRefusedError("a node is bound to an account ID")
    existing = book.bindings.get(operation.peer_id)
    result = TransferResult(bytes(16), 0, 0, False)
    if existing is not None and existing.account_id == operation.account_id:
        return Change(replace(result, exists=True))
    if operation.invited_only and existing is None:
        raise InviteError("this network admits nodes by invite only: ask its operator for one")
    binding = Binding(operation.peer_id, operation.account_id, now_ms)
    return Change(result, binding=binding)


def admit_node(book: Book, operation: AdmitNode, now_ms: int) -> Change:
    """Bind a node that comes with an invite. A node that is bound already needs none: nothing of
    the invite is used, however often it asks.

    Raises: InviteError, AccountUnknownError, NotAuthorizedError.
    """
    invitation = operation.invitation
    bound = BindNode(invitation.peer_id, invitation.account_id)
    if operation.binds and invitation.peer_id in book.bindings:
        return bind_node(book, bound, now_ms)
    account = book.accounts.get(invitation.account_id)
    if account is None:
        raise AccountUnknownError(f"there is no account {invitation.account_id[:60]}")
    if invitation.account_key not in account.signing_keys:
        raise NotAuthorizedError(f"this node is not bound by a key of {account.account_id}")
    use = check_node_invitation(book, operation, now_ms)
    after, signed = operated(account), invitation.signed
    record = SignedRecord(
        signed.digest(),
        NodeAdmission.PURPOSE,
        invitation.peer_id,
        encode_message(signed),
        now_ms,
        after.account_id,
        after.operations,
    )
    change = Change(result_of(signed), account=after, record=record, node_invite_use=use)
    if not operation.binds:
        return change
    return replace(change, binding=bind_node(book, bound, now_ms).binding)


def signing_account(book: Book, account_id: AccountId, signed: Signed) -> Account:
    """Give the account that a document is signed for. Raises: AccountUnknownError,
    NotAuthorizedError."""
    account = book.accounts.get(account_id)
    if account is None:
        raise AccountUnknownError(f"there is no account {account_id[:60]}")
    if signed.signer not in account.signing_keys:
        raise NotAuthorizedError(f"this is not signed by a key of {account_id}")
    return account


def operated(account: Account) -> Account:
    """Count one more operation of an account."""
    return replace(account, operations=account.operations + 1)


def record_of(
    signed: Signed, document: Document, subject: str, after: Account, now_ms: int
) -> SignedRecord:
    """Keep an operation as it came, under its number; `after` is the account with it counted."""
    return SignedRecord(
        signed.digest(),
        document.PURPOSE,
        subject,
        encode_message(signed),
        now_ms,
        after.account_id,
        after.operations,
    )


def result_of(signed: Signed, available: int = 0, *, exists: bool = False) -> TransferResult:
    """Answer an operation that moves no money: its ID is the start of the document's digest."""
    return TransferResult(signed.digest()[:16], 0, available, exists)
