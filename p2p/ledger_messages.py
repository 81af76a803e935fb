"""Owns the messages of money: accounts, API keys, grants, holds, vouchers, captures and receipts.

Amounts are microcredits, times milliseconds since 1970, IDs are 16 random bytes made by whoever
asks first: they are the idempotency keys of their transfers.

The hold proves possession of the API key without showing it: `mac` is HMAC-SHA-256, by the hold key
that is derived from the key's secret (`p2p.api_keys`), over hold ID, gateway, maximum and expiry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.conduct_messages import FAILURES_PER_CAPTURE_MAX, FailedAttempt, LegObservation
from p2p.job_messages import Amount, Digest, Id, Peer, Tokens
from p2p.key_limits import NO_LIMITS, KeyLimits, SourceNetwork
from p2p.limits import LEGS_PER_CAPTURE_MAX, NAME_CHARACTERS_MAX, TEXT_CHARACTERS_MAX
from p2p.prices import PriceTerms
from p2p.signing import Document, Signed
from p2p.types import AccountId

EARNINGS = "ledger.earnings"
"""The call that an EarningsRequest goes to (the others are in ledger/methods.py)."""
Name = Annotated[str, Limit(NAME_CHARACTERS_MAX)]
Account = Annotated[AccountId, Limit(NAME_CHARACTERS_MAX)]
PublicKey = Annotated[bytes, Limit(32, 32)]
Outcome = Annotated[str, Limit(32)]
"""How a job ended, for the statistics of usage only: complete, client_left, failed or nothing."""


# --- accounts: signed by an account's key, or by a mint key --------------------------------------
@message(50)
@dataclass(frozen=True, slots=True)
class AccountFounding(Document):
    """Opens an account; the account's ID is the hash of these bytes. Signed by `signing_key`."""

    PURPOSE: ClassVar[str] = "account-founding"
    signing_key: PublicKey
    recovery_key: PublicKey
    created_ms: int
    nonce: Id


@message(51)
@dataclass(frozen=True, slots=True)
class NamespaceOpening(Document):
    """Opens a namespace (separate balance, keys, usage) of an account. Signed by its key."""

    PURPOSE: ClassVar[str] = "namespace-opening"
    account_id: Account
    namespace: Name
    issued_ms: int


@message(52)
@dataclass(frozen=True, slots=True)
class KeyCreation(Document):
    """Registers an API key of a namespace. Signed by the account's key.

    Only what is derived from the secret is sent: `hold_key` verifies the MAC of holds. 0 as
    `expires_ms` means never. Caps are microcredits; 0 means no cap.
    """

    PURPOSE: ClassVar[str] = "key-creation"
    account_id: Account
    namespace: Name
    key_id: Annotated[str, Limit(32, 8)]
    hold_key: Annotated[bytes, Limit(32, 32)]
    name: Name
    issued_ms: int
    expires_ms: int = 0
    credit_cap_total: Amount = 0
    models: Annotated[tuple[str, ...], Limit(64)] = ()
    gateways: Annotated[tuple[str, ...], Limit(64)] = ()
    limits: KeyLimits = NO_LIMITS


@message(53)
@dataclass(frozen=True, slots=True)
class KeyRevocation(Document):
    """Ends an API key at once. Signed by the account's key."""

    PURPOSE: ClassVar[str] = "key-revocation"
    account_id: Account
    key_id: Annotated[str, Limit(32, 8)]
    issued_ms: int


@message(54)
@dataclass(frozen=True, slots=True)
class Grant(Document):
    """Makes credit for a namespace. Signed by a mint key that the network configuration names."""

    PURPOSE: ClassVar[str] = "grant"
    grant_id: Id
    account_id: Account
    namespace: Name
    amount: Amount
    memo: Annotated[str, Limit(TEXT_CHARACTERS_MAX)]
    issued_ms: int


# --- the path of a job ---------------------------------------------------------------------------
@message(60)
@dataclass(frozen=True, slots=True)
class HoldRequest(Document):
    """Asks the ledger to hold a job's maximum. Signed by the gateway.

    `source_network`: in which of the key's networks the client is, if the key is limited to some;
    `caller_network`: the same of the subcloud's, if its policy names some. `caller_token`: what the
    client shows to be let into the subcloud (a CallerToken, signed by one of its delegates).
    """

    PURPOSE: ClassVar[str] = "hold-request"
    TRIMMED: ClassVar[int] = 2
    hold_id: Id
    job_id: Id
    key_id: Annotated[str, Limit(32, 8)]
    maximum: Amount
    terms: PriceTerms
    issued_ms: int
    expires_ms: int
    mac: Annotated[bytes, Limit(32, 32)]
    source_network: SourceNetwork = ""
    caller_token: Signed | None = None
    caller_network: SourceNetwork = ""


@message(61)
@dataclass(frozen=True, slots=True)
class Voucher(Document):
    """The ledger's promise to a node: this much is held for this job. Signed by a bootstrap."""

    PURPOSE: ClassVar[str] = "voucher"
    hold_id: Id
    job_id: Id
    gateway_id: Peer
    maximum: Amount
    terms: PriceTerms
    issued_ms: int
    expires_ms: int


@message(62)
@dataclass(frozen=True, slots=True)
class CaptureLeg(Message):
    """One node's part of a job: its receipt and what the gateway says was delivered of it."""

    receipt: Signed
    delivery: Signed


@message(63)
@dataclass(frozen=True, slots=True)
class CaptureRequest(Document):
    """Settles a hold: pays each leg and the fees, gives the rest back. Signed by the gateway.

    `observed` (one for each leg, or none) and `failures` move no money: `p2p.conduct_messages`.
    """

    PURPOSE: ClassVar[str] = "capture-request"
    TRIMMED: ClassVar[int] = 2
    capture_id: Id
    hold_id: Id
    legs: Annotated[tuple[CaptureLeg, ...], Limit(LEGS_PER_CAPTURE_MAX, 1)]
    issued_ms: int
    outcome: Outcome = ""
    observed: Annotated[tuple[LegObservation, ...], Limit(LEGS_PER_CAPTURE_MAX)] = ()
    failures: Annotated[tuple[FailedAttempt, ...], Limit(FAILURES_PER_CAPTURE_MAX)] = ()


@message(64)
@dataclass(frozen=True, slots=True)
class ReleaseRequest(Document):
    """Gives a whole hold back. Signed by the gateway that holds it."""

    PURPOSE: ClassVar[str] = "release-request"
    release_id: Id
    hold_id: Id
    issued_ms: int
    outcome: Outcome = ""


@message(65)
@dataclass(frozen=True, slots=True)
class TransferResult(Message):
    """What a transfer did; a repeat gives the first result again with `exists` true."""

    transfer_id: Id
    amount: Amount
    available: Annotated[int, Range(-(2**62), 2**62)]
    exists: bool


@message(66)
@dataclass(frozen=True, slots=True)
class HoldResult(Message):
    """A granted hold: its voucher and what is still available in the namespace."""

    voucher: Signed
    available: Annotated[int, Range(0, 2**62)]
    exists: bool


@message(67)
@dataclass(frozen=True, slots=True)
class KeyLookup(Document):
    """A gateway asks for an API key's record and proves that it holds the key. Signed by it."""

    PURPOSE: ClassVar[str] = "key-lookup"
    key_id: Annotated[str, Limit(32, 8)]
    nonce: Id
    issued_ms: int
    mac: Annotated[bytes, Limit(32, 32)]


@message(68)
@dataclass(frozen=True, slots=True)
class KeyRecord(Message):
    """What a gateway needs to know of a key to serve it, valid for `cache_s` seconds."""

    key_id: Annotated[str, Limit(32, 8)]
    account_id: Account
    namespace: Name
    name: Name
    expires_ms: int
    models: Annotated[tuple[str, ...], Limit(64)]
    available: Annotated[int, Range(0, 2**62)]
    cache_s: float
    limits: KeyLimits = NO_LIMITS


@message(69)
@dataclass(frozen=True, slots=True)
class StatementRequest(Document):
    """Asks for a namespace's balance and its grants.

    Signed by the account's key, or by a gateway that proves possession of one of the namespace's
    API keys (`mac` as in KeyLookup).
    """

    PURPOSE: ClassVar[str] = "statement-request"
    account_id: Account
    namespace: Name
    nonce: Id
    issued_ms: int
    key_id: Annotated[str, Limit(32)] = ""
    mac: Annotated[bytes, Limit(32)] = b""


@message(70)
@dataclass(frozen=True, slots=True)
class Statement(Message):
    """A namespace's balance with its signed grants: `available + held + spent = granted`.

    `spent` is net of what decisions of disputes gave back, which `credited` adds up. `leased`
    is the part of `held` that gateways may spend by themselves, `staked` the part of `spent` that
    is set aside for subclouds and comes back.
    """

    available: Annotated[int, Range(0, 2**62)]
    held: Annotated[int, Range(0, 2**62)]
    spent: Annotated[int, Range(0, 2**62)]
    granted: Annotated[int, Range(0, 2**62)]
    grants: Annotated[tuple[Signed, ...], Limit(1024)]
    credited: Annotated[int, Range(0, 2**62)] = 0
    leased: Annotated[int, Range(0, 2**62)] = 0
    staked: Annotated[int, Range(0, 2**62)] = 0


@message(71)
@dataclass(frozen=True, slots=True)
class ConsumerReceipt(Document):
    """The gateway's signed bill for one answer, given to the consumer.

    `request_hash` is the SHA-256 of the HTTP body as it came, `output_hash` of the answer's text
    (UTF-8, all choices' contents in order). `commitment` is SHA-256(salt || node receipt digests):
    it binds the answer to the node receipts without naming a node. `hold_id` names the job's hold
    in the ledger and in its log.
    """

    PURPOSE: ClassVar[str] = "consumer-receipt"
    receipt_id: Id
    account_id: Account
    namespace: Name
    key_id: Annotated[str, Limit(32, 8)]
    request_hash: Digest
    output_hash: Digest
    terms: PriceTerms
    input_tokens: Tokens
    output_tokens: Tokens
    charged: Amount
    outcome: Annotated[str, Limit(32)]
    commitment: Digest
    at_ms: int
    hold_id: Annotated[bytes, Limit(16)] = b""
    cached_input_tokens: Tokens = 0


@message(72)
@dataclass(frozen=True, slots=True)
class EarningsRequest(Document):
    """Asks what an account earned. Signed by its key, or by a peer certified for that account."""

    PURPOSE: ClassVar[str] = "earnings-request"
    account_id: Account
    nonce: Id
    issued_ms: int


@message(73)
@dataclass(frozen=True, slots=True)
class EarningsStatement(Message):
    """What an account's nodes earned with `legs` attempts, its gateways and its subclouds in fees.

    The unmatured parts are in the sums: a correction may still take them back. `mature_after_s`:
    how long that is possible, and longer for the disputed parts (which are in the unmatured).
    """

    TRIMMED: ClassVar[int] = 3
    earned: Annotated[int, Range(0, 2**62)]
    fees: Annotated[int, Range(0, 2**62)]
    legs: Annotated[int, Range(0, 2**62)]
    unmatured_earned: Annotated[int, Range(0, 2**62)] = 0
    unmatured_fees: Annotated[int, Range(0, 2**62)] = 0
    mature_after_s: Annotated[int, Range(0, 2**40)] = 0
    disputed_earned: Annotated[int, Range(0, 2**62)] = 0
    disputed_fees: Annotated[int, Range(0, 2**62)] = 0
    owner_fees: Annotated[int, Range(0, 2**62)] = 0
    unmatured_owner_fees: Annotated[int, Range(0, 2**62)] = 0
    disputed_owner_fees: Annotated[int, Range(0, 2**62)] = 0
