"""Owns the opening of accounts: by anybody, but only as many an hour as the network allows."""

from __future__ import annotations

from collections.abc import Callable

from ledger.errors import LimitError, NotAuthorizedError
from ledger.ledger import Ledger
from ledger.operations import FoundAccount
from ledger.store.queries import account_view
from p2p.clock import Clock
from p2p.ledger_messages import AccountFounding, TransferResult
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import Signed
from p2p.token_bucket import TokenBucket
from p2p.types import AccountId, account_id_from_founding

HOUR_S = 3600.0


class AccountDoor:
    """Lets new accounts in, at the rate of the network configuration."""

    def __init__(
        self,
        ledger: Ledger,
        configuration: Callable[[], NetworkConfiguration],
        clock_ms: Clock,
    ) -> None:
        """Open accounts in this ledger; a change of the rate begins with a full hour."""
        self._ledger = ledger
        self._configuration = configuration
        self._clock_ms = clock_ms
        self._per_hour = 0
        self._bucket = TokenBucket(1.0, 1.0, 0.0)

    async def open(self, signed: Signed, document: AccountFounding) -> TransferResult:
        """Open the account of a verified founding document (again and again has no effect).

        Raises: LimitError if the network opens no more accounts at the moment, StorageError.
        """
        account_id = account_id_from_founding(signed.body)
        known = await self._ledger.read(lambda c: account_view(c, account_id)) is not None
        if not known and not self._take():
            raise LimitError(
                f"this network opens {self._per_hour} accounts an hour, and those are taken: "
                "try again later"
            )
        return await self._ledger.submit(FoundAccount(signed, document))

    async def require_key(self, account_id: AccountId, public_key: bytes) -> None:
        """See that a key may sign for an account now. Raises: NotAuthorizedError, StorageError."""
        account = await self._ledger.read(lambda c: account_view(c, account_id))
        if account is None or public_key not in account.signing_keys:
            raise NotAuthorizedError(f"this is not signed by a key of {account_id}")

    def _take(self) -> bool:
        now_s = self._clock_ms() / 1000
        per_hour = self._configuration().participation.accounts_opened_per_hour_max
        if per_hour != self._per_hour:
            self._per_hour = per_hour
            self._bucket = TokenBucket(per_hour / HOUR_S, per_hour, now_s)
        return self._bucket.take(now_s)
