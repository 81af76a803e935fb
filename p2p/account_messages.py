"""Owns the messages by which an account's owner manages keys: changes, rotations, and views.

Three counters keep old documents from being replayed. An **account key change** carries the number
of the change (1, 2, 3, ...): the ledger takes exactly the next one. An **API key rotation** carries
the generation of the secret (1 is the first rotation), a **change of its limits** the number of
that change. What the ledger has taken before is answered as a repetition; anything else out of
order is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.job_messages import Amount, Id
from p2p.key_limits import NO_LIMITS, KeyLimits
from p2p.ledger_messages import Account, Name, PublicKey
from p2p.signing import Document, Signed

ACCOUNT_KEYS_MAX = 8
"""Signing keys of one account: a few people and machines; more than that is another account."""
KEYS_PER_ANSWER_MAX = 200
NAMESPACES_PER_ANSWER_MAX = 1000
KEY_CHANGES_MAX = 32
"""In a proof of an account's keys: a few a year for a decade."""
GRACE_MS_MAX = 30 * 86_400_000

KeyId = Annotated[str, Limit(32, 8)]
Count = Annotated[int, Range(0, 2**62)]
Keys = Annotated[tuple[PublicKey, ...], Limit(ACCOUNT_KEYS_MAX)]


@message(131)
@dataclass(frozen=True, slots=True)
class AccountKeyChange(Document):
    """Adds and removes signing keys of an account, as one step.

    Signed by one of the account's signing keys, or by its recovery key, which alone may also put
    `recovery_key` in its own place (empty: unchanged). A removed key never comes back.
    """

    PURPOSE: ClassVar[str] = "account-key-change"
    account_id: Account
    number: Annotated[int, Range(1, 2**53)]
    added: Keys
    removed: Keys
    issued_ms: int
    recovery_key: Annotated[bytes, Limit(32)] = b""


@message(132)
@dataclass(frozen=True, slots=True)
class ApiKeyRotation(Document):
    """Gives an API key a new secret; the old one is good for `grace_ms`. Signed by the account.

    A rotation within the grace of another ends the oldest secret at once.
    """

    PURPOSE: ClassVar[str] = "api-key-rotation"
    account_id: Account
    key_id: KeyId
    generation: Annotated[int, Range(1, 2**53)]
    hold_key: Annotated[bytes, Limit(32, 32)]
    grace_ms: Annotated[int, Range(0, GRACE_MS_MAX)]
    issued_ms: int


@message(99)
@dataclass(frozen=True, slots=True)
class KeyLimitsChange(Document):
    """Replaces all limits of an API key; the secret and what was used stay. Signed by the account.

    `number` counts the changes of this key (1 is the first). 0 and empty lists as in KeyCreation.
    """

    PURPOSE: ClassVar[str] = "key-limits-change"
    account_id: Account
    key_id: KeyId
    number: Annotated[int, Range(1, 2**53)]
    expires_ms: int
    credit_cap_total: Amount
    models: Annotated[tuple[str, ...], Limit(64)]
    gateways: Annotated[tuple[str, ...], Limit(64)]
    limits: KeyLimits
    issued_ms: int


@message(133)
@dataclass(frozen=True, slots=True)
class AccountRequest(Document):
    """Asks for an account's keys and namespaces. Signed by a signing key or the recovery key."""

    PURPOSE: ClassVar[str] = "account-request"
    account_id: Account
    nonce: Id
    issued_ms: int


@message(134)
@dataclass(frozen=True, slots=True)
class NamespaceSummary(Message):
    """A namespace and its balances (microcredits)."""

    name: Name
    available: Count
    held: Count
    api_keys: Count


@message(135)
@dataclass(frozen=True, slots=True)
class AccountStatement(Message):
    """An account's founding, its keys, how many changes they have seen, and its namespaces.

    `changes`: the key changes as they were signed, oldest first: with the founding they prove to
    strangers whose keys these are (`p2p.account_proof`).
    """

    TRIMMED: ClassVar[int] = 1
    signing_keys: Keys
    recovery_keys: Keys
    key_changes: Count
    operations: Count
    namespaces: Annotated[tuple[NamespaceSummary, ...], Limit(NAMESPACES_PER_ANSWER_MAX)]
    founding: Signed
    changes: Annotated[tuple[Signed, ...], Limit(KEY_CHANGES_MAX)] = ()


@message(136)
@dataclass(frozen=True, slots=True)
class KeyListRequest(Document):
    """Asks for the API keys of a namespace, by ID, after `after`. Signed by the account's key."""

    PURPOSE: ClassVar[str] = "key-list-request"
    account_id: Account
    namespace: Name
    nonce: Id
    issued_ms: int
    after: Annotated[str, Limit(32)] = ""


@message(137)
@dataclass(frozen=True, slots=True)
class KeySummary(Message):
    """An API key as its owner sees it: never anything of its secret. Amounts are microcredits.

    `spent_today` counts the holds placed on this UTC day, running ones with their maximum.
    """

    key_id: KeyId
    name: Name
    created_ms: int
    expires_ms: int
    revoked_ms: int
    generation: Count
    previous_until_ms: int
    credit_cap_total: Amount
    spent: Count
    held: Count
    spent_today: Count
    models: Annotated[tuple[str, ...], Limit(64)]
    gateways: Annotated[tuple[str, ...], Limit(64)]
    limits: KeyLimits = NO_LIMITS
    limit_changes: Count = 0


@message(138)
@dataclass(frozen=True, slots=True)
class KeyList(Message):
    """Some API keys in order of their IDs, and whether there are more."""

    keys: Annotated[tuple[KeySummary, ...], Limit(KEYS_PER_ANSWER_MAX)]
    more: bool
