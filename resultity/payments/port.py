"""Owns the payment port: what a payment provider is to the rest of the system. Pure.

Theory of operation. A payment provider tells us by a webhook (an HTTP request that it makes) that
somebody has paid. A `PaymentProvider` turns that request into a `Payment`, or refuses it: it alone
knows the provider's signature and form. Everything after that is the same for all providers
(`resultity.payments.granting`): a payment becomes a grant whose ID is derived from the provider's
name and its ID of the event. Providers send a webhook again until it is answered with 200, and in
any order; the ledger takes each grant ID once, so that each event makes credit once, and no record
but the ledger's is needed for that.

To add a provider, write a class with this method and name it in `resultity.payments.serving`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from p2p.types import AccountId

GRANT_ID_BYTES = 16
_GRANT_DOMAIN = b"resultity/payment/1\0"


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment that succeeded, as its provider signed it. `amount` is in microcredits.

    `event_id` is the provider's name of the event: the same in every repetition. `reference` is
    shown to the payer in the statement.
    """

    provider: str
    event_id: str
    account_id: AccountId
    namespace: str
    amount: int
    reference: str

    @property
    def grant_id(self) -> bytes:
        """The ID of the grant that this event makes: by provider and event alone (16 bytes)."""
        provider = self.provider.encode()
        # The length keeps (`ab`, `c`) and (`a`, `bc`) apart.
        name = len(provider).to_bytes(2, "big") + provider + self.event_id.encode()
        return hashlib.sha256(_GRANT_DOMAIN + name).digest()[:GRANT_ID_BYTES]

    @property
    def memo(self) -> str:
        """What the grant says of itself: whatever in the event matters, so that none can change."""
        return f"{self.provider}:{self.event_id} {self.reference}".rstrip()


class PaymentProvider(Protocol):
    """One provider, ready to check its webhooks."""

    @property
    def name(self) -> str:
        """The name in `/webhooks/<name>`; part of every grant's ID, so it never changes."""
        ...

    def verify(self, headers: Mapping[str, str], body: bytes, now_s: int) -> Payment | None:
        """Check a webhook and read it; None if it is genuine and tells of no payment.

        Args:
            headers: with names in lower case.
            body: as it came; nothing of it may be believed before its signature was checked.
            now_s: seconds since 1970.
        Raises: ForgedWebhookError, MalformedEventError.
        """
        ...
