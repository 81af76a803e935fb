"""Owns the error tree of the ledger. Each leaf has a stable `code` that is told to the caller.

LedgerError
├── RequestError              the request breaks a rule: repeating it as it is will not help
│   ├── InsufficientFundsError    insufficient_funds
│   ├── ConflictError             id_conflict
│   ├── AccountUnknownError       account_unknown
│   ├── NamespaceUnknownError     namespace_unknown
│   ├── NotAuthorizedError        not_authorized
│   ├── ValueRefusedError         value_refused
│   ├── LimitError                limit_reached
│   ├── OperationOrderError       operation_order
│   ├── GrantCapError             grant_cap
│   ├── OpeningLimitError         opening_limit    (these three: `ledger.opening_errors`)
│   ├── InviteError               invite_refused
│   ├── ReferralError             referral_refused
│   ├── CallerNotAllowedError     caller_not_allowed  (these three: `ledger.subcloud_errors`)
│   ├── CallerTokenError          caller_token
│   ├── ForeignNamespaceError     gateway_private
│   ├── StakeExistsError          stake_exists     (these three: `ledger.stake_errors`)
│   ├── StakeUnknownError         stake_unknown
│   ├── StakeInUseError           stake_in_use
│   ├── ApiKeyError               everything about one API key
│   │   ├── KeyUnknownError           key_unknown
│   │   ├── KeyProofError             key_proof
│   │   ├── KeyRevokedError           key_revoked
│   │   ├── KeyExpiredError           key_expired
│   │   ├── KeyCapError               key_cap
│   │   ├── KeyDayCapError            key_day_cap
│   │   └── KeyNotAllowedError        key_not_allowed
│   ├── HoldError                 everything about one hold
│   │   ├── HoldUnknownError          hold_unknown
│   │   ├── HoldEndedError            hold_ended
│   │   ├── HoldExpiredError          hold_expired
│   │   ├── HoldForeignError          hold_foreign
│   │   └── HoldClaimedError          hold_claimed
│   ├── ReceiptError              receipt_invalid
│   ├── LeaseExhaustedError       lease_exhausted
│   ├── CreditLeasedError         credit_leased
│   ├── GatewayExposureError      gateway_exposure
│   ├── ChargeUnknownError        charge_unknown
│   ├── DisputeUnknownError       dispute_unknown
│   ├── DisputeExistsError        dispute_exists
│   ├── DisputeLateError          dispute_late
│   ├── DisputeEndedError         dispute_ended
│   ├── DisputesOffError          disputes_off
│   └── ChargeError               charge_above_hold
├── LedgerBusyError           ledger_busy: too much is waiting, retry later
├── StorageError              ledger_storage: the outcome is unknown, repeat with the same ID
└── IntegrityError            ledger_integrity: the database breaks a rule, no start
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar


class LedgerError(Exception):
    """Anything that the ledger reports. `retry_after_s` is None if repeating does not help."""

    code: ClassVar[str] = "ledger"
    retry_after_s: float | None = None


class RequestError(LedgerError):
    """The request breaks a rule."""


class InsufficientFundsError(RequestError):
    """The namespace has less than what is needed (both in microcredits)."""

    code = "insufficient_funds"

    def __init__(self, available: int, needed: int) -> None:
        super().__init__(f"{needed} microcredits are needed, {available} are available")
        self.available = available
        self.needed = needed


class ConflictError(RequestError):
    """The ID was used before with other content."""

    code = "id_conflict"


class AccountUnknownError(RequestError):
    """No such account."""

    code = "account_unknown"


class NamespaceUnknownError(RequestError):
    """No such namespace."""

    code = "namespace_unknown"


class NotAuthorizedError(RequestError):
    """Whoever signed this may not do it."""

    code = "not_authorized"


class ValueRefusedError(RequestError):
    """A value in the request is out of its bounds."""

    code = "value_refused"


class LimitError(RequestError):
    """Something is full (the message names the limit)."""

    code = "limit_reached"


class OperationOrderError(RequestError):
    """A numbered operation is not the next one: it was taken before, or one is missing."""

    code = "operation_order"

    def __init__(self, what: str, number: int, following: int) -> None:
        super().__init__(f"the next {what} has the number {following}, not {number}")
        self.following = following


class GrantCapError(RequestError):
    """A mint key's grants of this epoch would go above the cap (microcredits)."""

    code = "grant_cap"

    def __init__(self, granted: int, amount: int, cap: int, resets_ms: int, now_ms: int) -> None:
        super().__init__(
            f"this mint key granted {granted} of at most {cap} microcredits today, "
            f"{amount} more are too many; that resets at {utc_text(resets_ms)}"
        )
        self.retry_after_s = max(0.0, (resets_ms - now_ms) / 1000)
        self.granted = granted
        self.amount = amount
        self.cap = cap


class ApiKeyError(RequestError):
    """Something about one API key."""


class KeyUnknownError(ApiKeyError):
    """No such API key."""

    code = "key_unknown"


class KeyProofError(ApiKeyError):
    """The MAC does not prove possession of the key."""

    code = "key_proof"


class KeyRevokedError(ApiKeyError):
    """The key was revoked."""

    code = "key_revoked"


class KeyExpiredError(ApiKeyError):
    """The key's time is over."""

    code = "key_expired"


class KeyCapError(ApiKeyError):
    """The key's credit cap in total would be broken (microcredits)."""

    code = "key_cap"

    def __init__(self, used: int, needed: int, cap: int) -> None:
        super().__init__(
            f"this key's total credit cap is {cap} microcredits: {used} are spent or held, "
            f"{needed} more are needed"
        )
        self.used = used
        self.needed = needed
        self.cap = cap


class KeyDayCapError(ApiKeyError):
    """The key's credit cap of a day (UTC) would be broken (microcredits)."""

    code = "key_day_cap"

    def __init__(self, used: int, needed: int, cap: int, resets_ms: int, now_ms: int) -> None:
        super().__init__(
            f"this key's credit cap of a day is {cap} microcredits: {used} are spent or held "
            f"today, {needed} more are needed; it resets at {utc_text(resets_ms)}"
        )
        self.used = used
        self.needed = needed
        self.cap = cap
        self.retry_after_s = max(0.0, (resets_ms - now_ms) / 1000)


class KeyNotAllowedError(ApiKeyError):
    """The key does not allow this model, gateway, source network or subcloud."""

    code = "key_not_allowed"


class HoldError(RequestError):
    """Something about one hold."""


class HoldUnknownError(HoldError):
    """No such hold."""

    code = "hold_unknown"


class HoldEndedError(HoldError):
    """The hold has ended already; `state` says how."""

    code = "hold_ended"

    def __init__(self, state: str) -> None:
        super().__init__(f"this hold has ended already: {state}")
        self.state = state


class HoldExpiredError(HoldError):
    """The hold's time is over, or it would live too long or not at all."""

    code = "hold_expired"


class HoldForeignError(HoldError):
    """The hold belongs to another gateway."""

    code = "hold_foreign"


class HoldClaimedError(HoldError):
    """Nodes have claimed their pay from this hold: what is claimed cannot be given back."""

    code = "hold_claimed"

    def __init__(self, claims: int) -> None:
        super().__init__(
            f"{claims} claims of nodes are open on this hold: capture it with their receipts, or "
            "it is settled by them at its end"
        )


class ReceiptError(RequestError):
    """A receipt or delivery count cannot be paid on."""

    code = "receipt_invalid"


class ChargeError(RequestError):
    """The charge is higher than what was held (microcredits)."""

    code = "charge_above_hold"

    def __init__(self, charge: int, maximum: int) -> None:
        super().__init__(f"the charge of {charge} microcredits is above the hold of {maximum}")
        self.charge = charge
        self.maximum = maximum


class LeaseExhaustedError(RequestError):
    """A lease has less left than what is charged or given back (microcredits)."""

    code = "lease_exhausted"

    def __init__(self, amount: int, left: int) -> None:
        super().__init__(f"this lease has {left} microcredits left, {amount} are too many")
        self.amount = amount
        self.left = left


class CreditLeasedError(RequestError):
    """What is needed is there, but leased to gateways, who are being asked to give it back."""

    code = "credit_leased"
    retry_after_s = 1.0

    def __init__(self, shortage: RequestError, leased: int, back_ms: int) -> None:
        super().__init__(
            f"{shortage}; {leased} microcredits are leased to gateways, which are being asked for "
            f"them, and back by {utc_text(back_ms)} at the latest"
        )
        self.leased = leased
        self.back_ms = back_ms


class ChargeUnknownError(RequestError):
    """No such charge, or it is another account's."""

    code = "charge_unknown"


class DisputeUnknownError(RequestError):
    """No such dispute, or it is none of the asking one's business."""

    code = "dispute_unknown"


class DisputeExistsError(RequestError):
    """There is one dispute for each charge, and one answer of each account to it."""

    code = "dispute_exists"


class DisputeLateError(RequestError):
    """The time to dispute a charge is over."""

    code = "dispute_late"

    def __init__(self, charged_ms: int, window_ms: int) -> None:
        super().__init__(
            f"this charge is of {utc_text(charged_ms)} and could be disputed until "
            f"{utc_text(charged_ms + window_ms)}"
        )


class DisputeEndedError(RequestError):
    """The dispute is decided."""

    code = "dispute_ended"


class DisputesOffError(RequestError):
    """The network names nobody who decides disputes."""

    code = "disputes_off"


class GatewayExposureError(RequestError):
    """A gateway would have more credit in its hands than the network allows (microcredits)."""

    code = "gateway_exposure"

    def __init__(
        self, held: int, charged: int, needed: int, cap: int, resets_ms: int, retry_after_s: float
    ) -> None:
        super().__init__(
            f"this gateway may hold and charge {cap} microcredits a day: {held} are held, "
            f"{charged} were charged today, {needed} more are needed; what was charged resets at "
            f"{utc_text(resets_ms)}"
        )
        self.retry_after_s = retry_after_s
        self.held = held
        self.charged = charged
        self.needed = needed
        self.cap = cap


class LedgerBusyError(LedgerError):
    """Too many operations are waiting."""

    code = "ledger_busy"
    retry_after_s = 1.0


class StorageError(LedgerError):
    """The database failed: nothing was acknowledged; repeat with the same ID."""

    code = "ledger_storage"
    retry_after_s = 1.0


class IntegrityError(LedgerError):
    """The database breaks a rule that always holds. Nothing is written until it is repaired."""

    code = "ledger_integrity"


def utc_text(at_ms: int) -> str:
    """Show a time (milliseconds since 1970) in UTC, to the second; as a number beyond the years 1
    to 9999 (documents of others may say anything)."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms after 1970"
