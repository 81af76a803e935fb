"""Owns the cache of API keys: who a key belongs to, and what its namespace can probably spend.

Theory of operation. A key is looked up in the ledger once; the gateway then keeps the SHA-256 of
its secret (compared in constant time) and the record for as long as the ledger says (seconds, so
that a revocation is soon in force). A secret that does not match what is cached is looked up like
an unknown one: the ledger decides. Refusals are remembered shortly, by the digest of the whole
key, so that a wrong key in a loop does not reach the ledger every time. The balance is a guess
that the next hold corrects; it only decides whether a hold may overlap the offer. A ledger is not
believed because a bootstrap keeps it: a namespace's grants are looked at before its first job, and
every few minutes; without the mint key's signature behind the credit, nothing is served from it.

A bootstrap gossips the marks of keys that were changed: their records are forgotten at once, and an
answer that was under way then is not kept. Where a lease pays (`gateway.peer.leases`), the record
is renewed ahead of its end, beside the jobs; if the ledger cannot be reached, it serves on for as
long as a lease does.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from gateway.errors import AuthenticationError, GatewayError, LedgerUnavailableError
from gateway.limits import (
    DISBELIEF_CACHE_S,
    GRANTS_CHECK_INTERVAL_S,
    HOLD_OVERLAP_FACTOR,
    KEY_REFUSAL_CACHE_S,
    KEYS_CACHED_MAX,
)
from gateway.peer.ledger_port import (
    BAD_KEY_MESSAGE,
    UNBELIEVED_MESSAGE,
    LedgerPort,
    as_client_error,
)
from p2p.api_keys import ApiKey, same
from p2p.clock import Clock
from p2p.errors import P2PError, UntrustedError
from p2p.lease_messages import key_mark
from p2p.ledger_messages import KeyRecord
from p2p.types import AccountId

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Balance:
    """What a namespace has available, as far as this gateway knows (microcredits)."""

    available: int = 0


@dataclass(slots=True)
class _Entry:
    secret_hash: bytes
    record: KeyRecord
    until_s: float
    renew_s: float
    balance: Balance


@dataclass(frozen=True, slots=True)
class Payer:
    """Whoever pays for a job: the key, its record and the guess at its namespace's balance."""

    key: ApiKey
    record: KeyRecord
    balance: Balance

    def covers(self, maximum: int) -> bool:
        """Whether the balance is high enough for the hold to overlap the offer."""
        return self.balance.available >= HOLD_OVERLAP_FACTOR * maximum


@dataclass(frozen=True, slots=True)
class _Refusal:
    until_s: float
    error: Callable[[], GatewayError]


def _bad_key() -> GatewayError:
    return AuthenticationError(BAD_KEY_MESSAGE)


def _unbelieved() -> GatewayError:
    return LedgerUnavailableError(UNBELIEVED_MESSAGE, retry_after_s=DISBELIEF_CACHE_S)


class KeyCache:
    """Checks API keys."""

    def __init__(self, ledger: LedgerPort, *, now_s: Callable[[], float], clock_ms: Clock) -> None:
        """Ask `ledger` for what is not cached; `now_s` is monotonic."""
        self._ledger = ledger
        self._now_s = now_s
        self._clock_ms = clock_ms
        self._entries: OrderedDict[str, tuple[_Entry, ...]] = OrderedDict()
        self._refused: OrderedDict[bytes, _Refusal] = OrderedDict()
        self._balances: OrderedDict[tuple[str, str], Balance] = OrderedDict()
        self._believed_until: OrderedDict[tuple[AccountId, str], float] = OrderedDict()
        self._key_ids: dict[bytes, str] = {}
        """The cached keys by their marks in gossip."""
        self._changes = 0
        """How many notices of changed keys came: an answer asked for before one is not kept."""

    def cached(self, key: ApiKey) -> Payer | None:
        """The payer if the key is cached and good now. Raises: AuthenticationError (expired)."""
        entry = self._entry(key)
        if entry is None or entry.until_s <= self._now_s():
            return None
        return self._payer(key, entry)

    def stale(self, key: ApiKey, for_s: float) -> Payer | None:
        """The payer by a record that has run out and is not known to be wrong; it counts `for_s`
        longer. Raises: AuthenticationError (expired)."""
        entry = self._entry(key)
        if entry is None:
            return None
        now_s = self._now_s()
        entry.until_s = max(entry.until_s, now_s + for_s)
        entry.renew_s = now_s + for_s / 2
        return self._payer(key, entry)

    def wants_renewal(self, key: ApiKey) -> bool:
        """Whether half of a record's time is over; says so once, for `renew` to be called."""
        entry = self._entry(key)
        if entry is None or entry.renew_s > self._now_s():
            return False
        entry.renew_s = float("inf")
        return True

    def _entry(self, key: ApiKey) -> _Entry | None:
        entries = self._entries.get(key.key_id)
        if entries is None:
            return None
        secret_hash = hashlib.sha256(key.secret).digest()
        return next((e for e in entries if same(e.secret_hash, secret_hash)), None)

    def _payer(self, key: ApiKey, entry: _Entry) -> Payer:
        if 0 < entry.record.expires_ms <= self._clock_ms():
            raise AuthenticationError(BAD_KEY_MESSAGE)
        return Payer(key, entry.record, entry.balance)

    async def check(self, key: ApiKey) -> Payer:
        """Say who pays. Raises: AuthenticationError, LedgerUnavailableError."""
        return self.cached(key) or await self.renew(key)

    async def renew(self, key: ApiKey) -> Payer:
        """Look a key up in the ledger. Raises: as `check`."""
        digest = hashlib.sha256(key.key_id.encode() + key.secret).digest()
        refused = self._refused.get(digest)
        if refused is not None and refused.until_s > self._now_s():
            raise refused.error()
        changes = self._changes
        try:
            record = await self._ledger.key_lookup(key)
            await self._believe(key, record)
        except UntrustedError as error:
            log.error("the books that the bootstrap shows are not acceptable: %s", error)
            self.forget(key)
            raise self._refuse(digest, _unbelieved, DISBELIEF_CACHE_S) from error
        except P2PError as error:
            refusal = as_client_error(error)
            if isinstance(refusal, AuthenticationError):
                self._refuse(digest, _bad_key, KEY_REFUSAL_CACHE_S)
                self._forget_secret(key)
            raise refusal from error
        return self._remember(key, record, keep=changes == self._changes)

    async def _believe(self, key: ApiKey, record: KeyRecord) -> None:
        """Make sure, now and then, that signed grants stand behind a namespace's balance.

        Raises: UntrustedError (a grant that no mint key signed, or more credit than was granted).
        """
        namespace = (record.account_id, record.namespace)
        if self._believed_until.get(namespace, 0.0) > self._now_s():
            return
        statement = await self._ledger.statement(key, *namespace)
        if record.available > statement.granted:
            raise UntrustedError("a balance above all grants")
        self._believed_until[namespace] = self._now_s() + GRANTS_CHECK_INTERVAL_S
        if len(self._believed_until) > KEYS_CACHED_MAX:
            self._believed_until.popitem(last=False)

    def forget(self, key: ApiKey) -> None:
        """Look this key up again at its next use (the ledger refused something about it)."""
        self._drop(key.key_id)

    def forget_marked(self, marks: Collection[bytes]) -> None:
        """Look the keys with these marks up again: something about them was changed."""
        self._changes += 1
        for mark in marks:
            key_id = self._key_ids.get(mark)
            if key_id is not None:
                self._drop(key_id)

    def _forget_secret(self, key: ApiKey) -> None:
        """One secret of a key is not good any more (another one may be)."""
        entry = self._entry(key)
        if entry is not None:
            others = tuple(e for e in self._entries[key.key_id] if e is not entry)
            self._entries[key.key_id] = others

    def _drop(self, key_id: str) -> None:
        self._entries.pop(key_id, None)
        self._key_ids.pop(key_mark(key_id), None)

    def _refuse(
        self, digest: bytes, error: Callable[[], GatewayError], for_s: float
    ) -> GatewayError:
        """Remember a refusal for a while; gives the error to raise."""
        self._refused[digest] = _Refusal(self._now_s() + for_s, error)
        if len(self._refused) > KEYS_CACHED_MAX:
            self._refused.popitem(last=False)
        return error()

    def _remember(self, key: ApiKey, record: KeyRecord, *, keep: bool) -> Payer:
        balance = self._balances.setdefault((record.account_id, record.namespace), Balance())
        balance.available = record.available
        if not keep:
            return Payer(key, record, balance)
        now_s = self._now_s()
        cache_s = max(0.0, min(record.cache_s, 3600.0))
        secret_hash = hashlib.sha256(key.secret).digest()
        entry = _Entry(secret_hash, record, now_s + cache_s, now_s + cache_s / 2, balance)
        # A key that is being rotated has two secrets for a while.
        others = [e for e in self._entries.get(key.key_id, ()) if e.secret_hash != secret_hash]
        self._entries[key.key_id] = (entry, *others[:1])
        self._entries.move_to_end(key.key_id)
        self._key_ids[key_mark(key.key_id)] = key.key_id
        if len(self._entries) > KEYS_CACHED_MAX:
            self._drop(next(iter(self._entries)))
        if len(self._balances) > KEYS_CACHED_MAX:
            self._balances.popitem(last=False)
        return Payer(key, record, balance)
