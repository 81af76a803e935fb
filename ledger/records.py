"""Owns the frozen values that the rules work on: what the ledger knows of each thing. Pure.

Times are milliseconds since 1970 (UTC), amounts microcredits.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ledger.accounts import NO_OWNER
from ledger.log.batch import LogBatch
from ledger.stakes import OpenStake
from ledger.usage import UsageEntry, WorkEntry
from p2p.key_limits import NO_LIMITS, KeyLimits
from p2p.ledger_messages import TransferResult
from p2p.prices import FeeRule, PriceTerms
from p2p.types import AccountId, PeerId

if TYPE_CHECKING:
    from ledger.claims import ClaimEntry
    from ledger.disputes import DisputeChange
    from ledger.operations import FreezeEpoch, KeepUptime


class TransferKind(enum.StrEnum):
    """What a transfer does."""

    GRANT = "grant"
    HOLD = "hold"
    CAPTURE = "capture"
    RELEASE = "release"
    EXPIRE = "expire"
    LEASE = "lease"
    LEASED_CAPTURE = "leased_capture"
    LEASE_RETURN = "lease_return"
    CORRECTION = "correction"
    CLAIM = "claim"
    STAKE = "stake"
    STAKE_RETURN = "stake_return"


class HoldState(enum.StrEnum):
    """What became of a hold. Everything but OPEN is final."""

    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    EXPIRED = "expired"
    CLAIMED = "claimed"


class Entry(NamedTuple):
    """One line of a transfer: an account (`ledger.accounts`) and what it gains or loses."""

    account: str
    amount: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """One immutable movement of money; its entries add up to zero.

    `content` names what was asked (`ledger.operations.content_of`), `request` is the signed
    document as it came (empty for an expiry, which nobody asks for).
    """

    transfer_id: bytes
    kind: TransferKind
    namespace: str
    hold_id: bytes | None
    content: bytes
    request: bytes
    entries: tuple[Entry, ...]
    result: TransferResult
    at_ms: int


@dataclass(frozen=True, slots=True)
class PastTransfer:
    """What is needed of an earlier transfer to answer its repetition."""

    content: bytes
    result: TransferResult


@dataclass(frozen=True, slots=True)
class Account:
    """An account: who may sign for it, and how many namespaces it has.

    `retired_keys` never sign again. `key_changes` is the number of the last key change and
    `last_key_change` names its content; `operations` counts everything that was signed for it.
    """

    account_id: AccountId
    signing_keys: frozenset[bytes]
    recovery_keys: frozenset[bytes]
    namespaces: int
    created_ms: int
    retired_keys: frozenset[bytes] = frozenset()
    key_changes: int = 0
    last_key_change: bytes = b""
    operations: int = 0


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace's balance. `path` is `<account>/<name>`; grants and keys are counts."""

    path: str
    account_id: AccountId
    name: str
    available: int
    held: int
    grants: int
    keys: int

    def moved(self, available: int, held: int) -> Namespace:
        """Give the namespace with other balances."""
        return Namespace(
            self.path, self.account_id, self.name, available, held, self.grants, self.keys
        )


@dataclass(frozen=True, slots=True)
class ApiKeyEntry:
    """An API key and its limits. 0 means never, no cap, not revoked.

    `generation` counts rotations; the secret before the last one is good until
    `previous_until_ms`. `limit_changes` counts how often the limits were replaced.
    """

    key_id: str
    namespace: str
    hold_key: bytes
    name: str
    expires_ms: int
    revoked_ms: int
    credit_cap_total: int
    models: tuple[str, ...]
    gateways: tuple[str, ...]
    content: bytes
    limits: KeyLimits = NO_LIMITS
    generation: int = 0
    previous_hold_key: bytes = b""
    previous_until_ms: int = 0
    created_ms: int = 0
    limit_changes: int = 0


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What an API key has spent, what it holds now, and its use of the newest day it was used on.

    `day` counts from 1970 (UTC); `ledger.key_limits` says what `day_used` is.
    """

    key_id: str
    spent: int
    held: int
    day: int = 0
    day_used: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold with all that its capture is judged by (terms and fees as of its start).

    `number` is its transfer's row in the database (0 while it is new). How it ended is a HoldEnd.
    A lease (`is_lease`) pays for many jobs and has no job ID; what became of it is a LeaseUse.
    `owner_account` gets the share of the subcloud's owner (empty: a job of the global pool).
    """

    hold_id: bytes
    job_id: bytes
    key_id: str
    namespace: str
    gateway_id: PeerId
    gateway_account: AccountId
    model_digest: bytes
    maximum: int
    terms: PriceTerms
    fees: FeeRule
    issued_ms: int
    expires_ms: int
    number: int = 0
    usage_day: int = 0
    is_lease: bool = False
    owner_account: AccountId = NO_OWNER


@dataclass(frozen=True, slots=True)
class HoldEnd:
    """How a hold ended, what was charged, and by which transfer (None if that is not loaded)."""

    hold_id: bytes
    state: HoldState
    charged: int
    ended_by: bytes | None


@dataclass(frozen=True, slots=True)
class LeaseUse:
    """What was charged to a lease so far, and what of it was given back (microcredits)."""

    hold_id: bytes
    charged: int = 0
    returned: int = 0


@dataclass(frozen=True, slots=True)
class TokenUse:
    """How often a token let jobs into its subcloud, and whose (`namespace`: a path, empty: none's
    yet). `name`: `ledger.hold_context.token_name`."""

    name: str
    namespace: str = ""
    uses: int = 0


@dataclass(frozen=True, slots=True)
class GrantEntry:
    """A grant: which mint key made how much for whom."""

    grant_id: bytes
    namespace: str
    mint_key: bytes
    amount: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Binding:
    """Whose earnings a node's work pays."""

    peer_id: PeerId
    account_id: AccountId
    bound_ms: int


class ReferralEntry(NamedTuple):
    """Who brought an account here."""

    account_id: AccountId
    referrer: AccountId
    at_ms: int


class InviteUse(NamedTuple):
    """Which invite an account was opened with."""

    account_id: AccountId
    invite_id: bytes
    at_ms: int


class NodeInviteUse(NamedTuple):
    """Which invite a node was admitted with, and for which account."""

    peer_id: PeerId
    account_id: AccountId
    invite_id: bytes
    at_ms: int


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A signed account operation as it came. `subject`: account, namespace path, key or peer ID.

    `operation` is its number among all operations of its account, in the order they were taken.
    """

    digest: bytes
    purpose: str
    subject: str
    signed: bytes
    at_ms: int
    account_id: str = ""
    operation: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What an operation does: its result, and each record as it is afterwards."""

    result: TransferResult
    transfer: Transfer | None = None
    namespace: Namespace | None = None
    usage: KeyUsage | None = None
    hold: Hold | None = None
    end: HoldEnd | None = None
    lease: LeaseUse | None = None
    account: Account | None = None
    key: ApiKeyEntry | None = None
    grant: GrantEntry | None = None
    binding: Binding | None = None
    record: SignedRecord | None = None
    log_batch: LogBatch | None = None
    consumed: UsageEntry | None = None
    worked: tuple[WorkEntry, ...] = ()
    uptime: KeepUptime | None = None
    epoch: FreezeEpoch | None = None
    dispute: DisputeChange | None = None
    claims: tuple[ClaimEntry, ...] = ()
    token_use: TokenUse | None = None
    referral: ReferralEntry | None = None
    invite_use: InviteUse | None = None
    node_invite_use: NodeInviteUse | None = None
    stake: OpenStake | None = None
