"""Owns the way from a verified payment to a durable grant, and what is said if there is none yet.

The ledger's answer decides everything: a grant that it has (now or before) is a success, a grant ID
that it has with another content is a conflict, and whenever it cannot be known whether it took the
grant, the provider is told to send the webhook again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from p2p.ledger_messages import Grant, TransferResult
from p2p.signing import KeyPair, Signed
from p2p.types import NetworkId
from resultity.errors import GatewayCallError
from resultity.payments.errors import (
    AmountCapError,
    EventConflictError,
    GrantDelayedError,
    GrantRefusedError,
    PaymentError,
)
from resultity.payments.journal import EXISTS, GRANTED, REFUSED, PaymentJournal
from resultity.payments.port import Payment

log = logging.getLogger(__name__)

_NEVER = {"value_refused", "malformed"}
"""Refusals that no repetition changes. All others wait for somebody: an account that is registered
later, a cap that resets, a mint key that the next configuration names."""


class LedgerDoor(Protocol):
    """Carries signed documents to the ledger (`resultity.courier.Courier`)."""

    def operation(self, document: Signed) -> TransferResult:
        """Have a document carried out, durably. Raises: GatewayCallError."""
        ...


@dataclass(frozen=True, slots=True)
class Granted:
    """A payment that the ledger has; `exists`: it had it before."""

    payment: Payment
    exists: bool


class Granter:
    """Makes grants of payments, signed by a mint key. Thread-safe."""

    def __init__(
        self,
        mint: KeyPair,
        network: NetworkId,
        ledger: LedgerDoor,
        journal: PaymentJournal,
        *,
        event_cap: int,
        clock_ms: Callable[[], int],
    ) -> None:
        """Grant in a network; `event_cap`: the most that one event may grant (microcredits)."""
        self._mint = mint
        self._network = network
        self._ledger = ledger
        self._journal = journal
        self._event_cap = event_cap
        self._clock_ms = clock_ms

    def grant(self, payment: Payment) -> Granted:
        """Have the ledger take a payment; returns when it is durable there.

        Raises: AmountCapError, DayCapError, EventConflictError, GrantRefusedError,
        GrantDelayedError (not known to be granted: send it again).
        """
        if payment.amount > self._event_cap:
            raise AmountCapError(
                f"event {payment.event_id} is for {payment.amount} microcredits, and one event may "
                f"grant {self._event_cap} (--event-cap)"
            )
        now_ms = self._clock_ms()
        self._journal.ask(payment, now_ms // 1000)
        document = Grant(
            payment.grant_id,
            payment.account_id,
            payment.namespace,
            payment.amount,
            payment.memo,
            now_ms,
        )
        try:
            result = self._ledger.operation(self._mint.sign(self._network, document))
        except GatewayCallError as error:
            failure = _failure(error, payment)
            if 400 <= error.status < 500 and error.code:
                self._journal.note(payment, REFUSED, now_ms // 1000)
            raise failure from error
        if (result.transfer_id, result.amount) != (payment.grant_id, payment.amount):
            raise GrantDelayedError("the gateway answered with another transfer's result")
        self._journal.note(payment, EXISTS if result.exists else GRANTED, now_ms // 1000)
        log.info(
            "%s event %s: %d microcredits for %s/%s%s",
            payment.provider,
            payment.event_id,
            payment.amount,
            payment.account_id,
            payment.namespace,
            " (repeated)" if result.exists else "",
        )
        return Granted(payment, result.exists)


def _failure(error: GatewayCallError, payment: Payment) -> PaymentError:
    if error.code == "id_conflict":
        return EventConflictError(
            f"event {payment.event_id} of {payment.provider} was granted with other content: "
            "nothing was changed"
        )
    if error.code in _NEVER:
        return GrantRefusedError(f"the ledger refuses this: {error}", error.code)
    return GrantDelayedError(f"not granted yet: {error}", error.code)
