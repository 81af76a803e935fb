"""Owns the error tree of payments. Each error knows its HTTP status and a stable code.

PaymentError (a ResultityError)
├── ForgedWebhookError      401 signature: not from the provider, or too old
├── MalformedEventError     400 malformed: genuine, but not an event that can be granted
├── EventConflictError      409 event_conflict: this event was granted with another content
├── AmountCapError          422 amount_cap: more than one event may grant
├── DayCapError             503 day_cap: the day's grants are used up, retried after midnight (UTC)
├── BodyTooLargeError       413 too_large
├── ProviderUnknownError    404 provider_unknown
├── GrantDelayedError       503 ledger's code: not granted yet, to be sent again
├── GrantRefusedError       422 ledger's code: the ledger never takes this
└── SecretError             the secret of a webhook cannot be used (at the start)
"""

from __future__ import annotations

from typing import ClassVar

from resultity.errors import ResultityError


class PaymentError(ResultityError):
    """Anything that keeps a webhook from becoming a grant."""

    status: ClassVar[int] = 500
    code: str = "internal"
    retry_after_s: int | None = None


class ForgedWebhookError(PaymentError):
    """The signature does not prove that the provider sent this just now."""

    status = 401
    code = "signature"


class MalformedEventError(PaymentError):
    """The provider signed something that is no event in the documented form."""

    status = 400
    code = "malformed"


class EventConflictError(PaymentError):
    """An event with this ID made a grant with another content."""

    status = 409
    code = "event_conflict"


class AmountCapError(PaymentError):
    """One event grants more than the operator allows."""

    status = 422
    code = "amount_cap"


class DayCapError(PaymentError):
    """The events of this UTC day have granted what the operator allows."""

    status = 503
    code = "day_cap"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BodyTooLargeError(PaymentError):
    """The body is larger than any event."""

    status = 413
    code = "too_large"


class ProviderUnknownError(PaymentError):
    """No provider of this name is set up here."""

    status = 404
    code = "provider_unknown"


class GrantDelayedError(PaymentError):
    """The ledger has not taken the grant: the same webhook, sent again, may succeed."""

    status = 503

    def __init__(self, message: str, code: str = "unavailable", retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.code = code or "unavailable"
        self.retry_after_s = retry_after_s


class GrantRefusedError(PaymentError):
    """The ledger will never take this grant."""

    status = 422

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class SecretError(PaymentError):
    """A webhook's secret is missing, weak, or readable by others."""
