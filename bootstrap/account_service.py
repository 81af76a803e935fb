"""Owns what an account's owner may ask the ledger: the account's keys and namespaces, its API keys.

Each question is signed by the owner; any gateway may carry it. The recovery key may ask for the
account too: whoever recovers an account needs the number of its last key change.
"""

from __future__ import annotations

from collections.abc import Callable

from bootstrap.ledger_checks import check_fresh, require_role
from ledger import methods
from ledger.accounts import namespace_path
from ledger.errors import NamespaceUnknownError, NotAuthorizedError
from ledger.key_limits import usage_day, used_on_day
from ledger.ledger import Ledger
from ledger.records import Account, ApiKeyEntry, KeyUsage
from ledger.store.account_queries import (
    founding_of,
    key_changes_of,
    keys_of,
    namespaces_of,
)
from ledger.store.queries import account_view, namespace_view
from p2p.account_messages import (
    KEY_CHANGES_MAX,
    KEYS_PER_ANSWER_MAX,
    AccountRequest,
    AccountStatement,
    KeyList,
    KeyListRequest,
    KeySummary,
    NamespaceSummary,
)
from p2p.calls import Caller, CallHandler
from p2p.codec import decode_message, encode_message
from p2p.signing import Signed, open_signed
from p2p.types import NetworkId, Role


class AccountService:
    """Answers owners' questions with one process's ledger."""

    def __init__(self, ledger: Ledger, network_id: NetworkId, clock_ms: Callable[[], int]) -> None:
        """Read from a running ledger; `clock_ms` gives milliseconds since 1970."""
        self._ledger = ledger
        self._network_id = network_id
        self._clock_ms = clock_ms

    def handlers(self) -> dict[str, CallHandler]:
        """Give the handler of each method. They raise LedgerError."""
        return {methods.ACCOUNT: self._account, methods.KEYS: self._keys}

    async def _account(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, Role.GATEWAY, Role.BOOTSTRAP)
        signed = decode_message(body, Signed)
        document = open_signed(signed, AccountRequest, self._network_id)
        check_fresh(document.issued_ms, self._clock_ms())
        account = await self._owner(document.account_id, signed, recovery=True)
        found = await self._ledger.read(lambda c: namespaces_of(c, account.account_id))
        founding = await self._ledger.read(lambda c: founding_of(c, account.account_id))
        changes = await self._ledger.read(lambda c: key_changes_of(c, account.account_id))
        namespaces = tuple(NamespaceSummary(n.name, n.available, n.held, n.keys) for n in found)
        return encode_message(
            AccountStatement(
                tuple(sorted(account.signing_keys)),
                tuple(sorted(account.recovery_keys)),
                account.key_changes,
                account.operations,
                namespaces,
                decode_message(founding, Signed),
                tuple(decode_message(signed, Signed) for signed in changes[:KEY_CHANGES_MAX]),
            )
        )

    async def _keys(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, Role.GATEWAY, Role.BOOTSTRAP)
        signed = decode_message(body, Signed)
        document = open_signed(signed, KeyListRequest, self._network_id)
        now_ms = self._clock_ms()
        check_fresh(document.issued_ms, now_ms)
        await self._owner(document.account_id, signed)
        path = namespace_path(document.account_id, document.namespace)
        if await self._ledger.read(lambda c: namespace_view(c, path)) is None:
            raise NamespaceUnknownError(f"there is no namespace {path}")
        found = await self._ledger.read(
            lambda c: keys_of(c, path, document.after, KEYS_PER_ANSWER_MAX + 1)
        )
        shown = found[:KEYS_PER_ANSWER_MAX]
        summaries = tuple(_summary(key, usage, now_ms) for key, usage in shown)
        return encode_message(KeyList(summaries, len(found) > len(shown)))

    async def _owner(self, account_id: str, signed: Signed, *, recovery: bool = False) -> Account:
        account = await self._ledger.read(lambda c: account_view(c, account_id))
        if account is None or not (
            signed.signer in account.signing_keys
            or (recovery and signed.signer in account.recovery_keys)
        ):
            raise NotAuthorizedError("this is not signed by a key of the account")
        return account


def _summary(key: ApiKeyEntry, usage: KeyUsage, now_ms: int) -> KeySummary:
    return KeySummary(
        key.key_id,
        key.name,
        key.created_ms,
        key.expires_ms,
        key.revoked_ms,
        key.generation,
        key.previous_until_ms,
        key.credit_cap_total,
        usage.spent,
        usage.held,
        used_on_day(usage, usage_day(usage, now_ms)),
        key.models,
        key.gateways,
        key.limits,
        key.limit_changes,
    )
