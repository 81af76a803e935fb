"""Owns what the gateway asks of the ledger, and how its refusals become answers to a client.

The port is implemented by `RemoteLedger` over the uplink, and by a fake in tests.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import (
    AuthenticationError,
    CallerNotAllowedError,
    CallerTokenError,
    CreditLeasedError,
    GatewayError,
    GatewayFullError,
    GatewayNotAdmittedError,
    GatewayPrivateError,
    InsufficientQuotaError,
    InternalError,
    LedgerUnavailableError,
    ModelUnknownError,
    NotAllowedError,
    SubcloudClosedError,
    SubcloudPriceError,
    SubcloudUnavailableError,
)
from gateway.limits import RETRY_AFTER_S
from ledger.client import LedgerClient
from ledger.lease_client import LeaseClient
from p2p.api_keys import ApiKey
from p2p.errors import P2PError, RefusedError
from p2p.lease_messages import CaptureOutcome, LeaseResult
from p2p.ledger_messages import HoldResult, KeyRecord, Statement, TransferResult
from p2p.prices import PriceTerms
from p2p.signing import Signed
from p2p.types import AccountId
from p2p.usage_messages import UsageReport, UsageRow

BAD_KEY_MESSAGE = (
    "Incorrect API key provided. Keys have the form rk_<id>_<secret>; pass yours as "
    "`Authorization: Bearer <key>`."
)
_KEY_CODES = {"key_unknown", "key_proof", "key_revoked", "key_expired"}
PASSING_CODES = {
    "internal",
    "ledger_busy",
    "ledger_integrity",
    "ledger_storage",
    "mirror_reads_only",
    "not_entitled",
    "rate_limited",
    "terms",
    "unavailable",
}
"""Refusals that say nothing about the request: the same request may succeed later (a bootstrap that
is busy, a certificate that is being renewed, a configuration that has not reached everybody, a
ledger whose writes are halted until its operator has repaired it)."""
_UNSETTLED_CODES = {"subcloud_unknown", "subcloud_policy"}
"""A policy that is on its way between us and the bootstrap."""
_NOT_ALLOWED: dict[str, type[NotAllowedError]] = {
    "key_not_allowed": NotAllowedError,
    "caller_not_allowed": CallerNotAllowedError,
    "caller_token": CallerTokenError,
    "gateway_not_admitted": GatewayNotAdmittedError,
    "gateway_private": GatewayPrivateError,
    "subcloud_closed": SubcloudClosedError,
    "subcloud_price": SubcloudPriceError,
}
_RESET_TIME = re.compile(r"resets at ([0-9TZ:.+-]{10,32})$")
UNBELIEVED_MESSAGE = (
    "The credit of this account cannot be verified: the network's ledger shows grants that no mint "
    "key signed. Nothing was charged; tell the network's operator."
)


@dataclass(frozen=True, slots=True)
class ReturnedLease:
    """What goes back of a lease: `amount`, or (`final`) all that it has left.

    `failed` and `client_left` count the jobs in it that cost nothing and were not told before.
    """

    return_id: bytes
    lease_id: bytes
    amount: int
    final: bool
    failed: int = 0
    client_left: int = 0


class LedgerPort(Protocol):
    """The ledger as a gateway sees it. All raise P2PError: RefusedError with the ledger's code."""

    async def hold(
        self,
        key: ApiKey,
        *,
        hold_id: bytes,
        job_id: bytes,
        maximum: int,
        terms: PriceTerms,
        expires_ms: int,
        source_network: str = "",
        caller_token: Signed | None = None,
        caller_network: str = "",
    ) -> HoldResult:
        """Hold a job's maximum; proves possession of the key."""
        ...

    async def captures(self, batch: Sequence[Signed]) -> Sequence[CaptureOutcome]:
        """Settle holds by signed captures of either kind (idempotent); an outcome for each."""
        ...

    async def lease(
        self,
        key: ApiKey,
        *,
        lease_id: bytes,
        amount: int,
        terms: PriceTerms,
        expires_ms: int,
        source_network: str = "",
        caller_network: str = "",
    ) -> LeaseResult:
        """Set a part of a key's credit aside for this gateway; proves possession of the key."""
        ...

    async def lease_return(self, returned: ReturnedLease) -> TransferResult:
        """Give a part of a lease back, or end it (idempotent by its ID)."""
        ...

    async def release(self, hold_id: bytes, outcome: str = "") -> TransferResult:
        """Give a whole hold back; `outcome` says how the job ended, for the payer's statistics."""
        ...

    async def key_lookup(self, key: ApiKey) -> KeyRecord:
        """Ask for an API key's record; proves possession of the key."""
        ...

    async def statement(self, key: ApiKey, account_id: AccountId, namespace: str) -> Statement:
        """Ask for a namespace's balance; proves possession of one of its keys."""
        ...

    async def usage(
        self, key: ApiKey, record: KeyRecord, first_day: int, last_day: int, after: UsageRow | None
    ) -> UsageReport:
        """Ask for one page of an API key's own usage."""
        ...


def as_client_error(error: P2PError) -> GatewayError:
    """Say to the client what the ledger refused, or that it does not answer."""
    if not isinstance(error, RefusedError) or error.code in PASSING_CODES:
        return LedgerUnavailableError(
            "The ledger does not answer at the moment; nothing was charged.",
            retry_after_s=getattr(error, "retry_after_s", None) or RETRY_AFTER_S,
        )
    if error.code in _KEY_CODES:
        return AuthenticationError(BAD_KEY_MESSAGE)
    if error.code == "insufficient_funds":
        return InsufficientQuotaError(
            f"You exceeded your current quota: {error}. Lower max_tokens or add credit."
        )
    if error.code in ("key_cap", "key_day_cap"):
        return InsufficientQuotaError(
            f"This API key's own limit is reached: {error}.", retry_after_s=error.retry_after_s
        )
    if error.code == "credit_leased":
        return CreditLeasedError(
            f"Credit of this key is set aside for other gateways at the moment: {error}.",
            retry_after_s=error.retry_after_s or RETRY_AFTER_S,
        )
    if error.code == "gateway_exposure":
        # The ledger's text is the gateway's whole business of the day: for its operator's log.
        reset = _RESET_TIME.search(str(error))
        when = f"; it resets at {reset[1]} at the latest" if reset else ""
        return GatewayFullError(
            "This gateway has as much credit in use as the network allows one gateway to have"
            f"{when}. Nothing was charged. Try again later, or use another gateway.",
            retry_after_s=error.retry_after_s or RETRY_AFTER_S,
        )
    if error.code == "subcloud_model":
        return ModelUnknownError(f"{error}.", param="model")
    if error.code in _UNSETTLED_CODES:
        return SubcloudUnavailableError(
            f"The subcloud cannot take jobs at this moment: {error}.",
            retry_after_s=error.retry_after_s or RETRY_AFTER_S,
        )
    if error.code in _NOT_ALLOWED:
        reason = str(error)
        return _NOT_ALLOWED[error.code](f"{reason[:1].upper()}{reason[1:]}.")
    return InternalError(f"the ledger refused the hold: {error.code}")


class RemoteLedger:
    """The ledger of the bootstrap that the uplink is connected to."""

    def __init__(
        self,
        client: LedgerClient,
        leases: LeaseClient,
        captures: LeaseClient,
        mint_keys: Callable[[], Collection[bytes]],
    ) -> None:
        """Ask by these clients; captures go by their own, because nobody waits for them."""
        self._client = client
        self._leases = leases
        self._captures = captures
        self._mint_keys = mint_keys

    async def hold(
        self,
        key: ApiKey,
        *,
        hold_id: bytes,
        job_id: bytes,
        maximum: int,
        terms: PriceTerms,
        expires_ms: int,
        source_network: str = "",
        caller_token: Signed | None = None,
        caller_network: str = "",
    ) -> HoldResult:
        """As `LedgerPort.hold`."""
        return await self._client.hold(
            key.key_id,
            key.hold_key(),
            hold_id=hold_id,
            job_id=job_id,
            maximum=maximum,
            terms=terms,
            expires_ms=expires_ms,
            source_network=source_network,
            caller_token=caller_token,
            caller_network=caller_network,
        )

    async def captures(self, batch: Sequence[Signed]) -> Sequence[CaptureOutcome]:
        """As `LedgerPort.captures`."""
        return await self._captures.captures(batch)

    async def lease(
        self,
        key: ApiKey,
        *,
        lease_id: bytes,
        amount: int,
        terms: PriceTerms,
        expires_ms: int,
        source_network: str = "",
        caller_network: str = "",
    ) -> LeaseResult:
        """As `LedgerPort.lease`."""
        return await self._leases.lease(
            key.key_id,
            key.hold_key(),
            lease_id=lease_id,
            amount=amount,
            terms=terms,
            expires_ms=expires_ms,
            source_network=source_network,
            caller_network=caller_network,
        )

    async def lease_return(self, returned: ReturnedLease) -> TransferResult:
        """As `LedgerPort.lease_return`."""
        return await self._leases.give_back(
            return_id=returned.return_id,
            lease_id=returned.lease_id,
            amount=returned.amount,
            final=returned.final,
            failed=returned.failed,
            client_left=returned.client_left,
        )

    async def release(self, hold_id: bytes, outcome: str = "") -> TransferResult:
        """As `LedgerPort.release`."""
        return await self._client.release(
            release_id=secrets.token_bytes(16), hold_id=hold_id, outcome=outcome
        )

    async def key_lookup(self, key: ApiKey) -> KeyRecord:
        """As `LedgerPort.key_lookup`."""
        return await self._client.key_lookup(key.key_id, key.hold_key())

    async def statement(self, key: ApiKey, account_id: AccountId, namespace: str) -> Statement:
        """As `LedgerPort.statement`."""
        return await self._client.statement(
            account_id,
            namespace,
            mint_keys=self._mint_keys(),
            key_id=key.key_id,
            hold_key=key.hold_key(),
        )

    async def usage(
        self, key: ApiKey, record: KeyRecord, first_day: int, last_day: int, after: UsageRow | None
    ) -> UsageReport:
        """As `LedgerPort.usage`."""
        return await self._client.usage(
            record.account_id,
            record.namespace,
            first_day,
            last_day,
            key_id=key.key_id,
            hold_key=key.hold_key(),
            after=after,
        )
