"""Owns the messages that ask for usage and answer it.

Amounts are microcredits, days are numbered from 1970-01-01 (UTC).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.job_messages import Id
from p2p.ledger_messages import Account, Name
from p2p.limits import CERTIFICATES_MAX
from p2p.signing import Document, Signed

DAY_MAX = 10_000_000
Day = Annotated[int, Range(0, DAY_MAX)]
Count = Annotated[int, Range(0, 2**62)]
USAGE_ROWS_MAX = 2000
"""A row has at most 0.4 kB: 2000 fit into one frame."""


@message(160)
@dataclass(frozen=True, slots=True)
class UsageRequest(Document):
    """Asks for the usage of a namespace, first and last day included.

    Signed by the account's key, who sees every API key; or by a gateway that proves possession of
    one API key (`mac` as in KeyLookup), and sees that key only. `after_...` are the last row of the
    answer before (empty for the first).
    """

    PURPOSE: ClassVar[str] = "usage-request"
    account_id: Account
    namespace: Name
    first_day: Day
    last_day: Day
    nonce: Id
    issued_ms: int
    key_id: Annotated[str, Limit(32)] = ""
    mac: Annotated[bytes, Limit(32)] = b""
    after_day: Day = 0
    after_key_id: Annotated[str, Limit(32)] = ""
    after_model: Name = ""


@message(161)
@dataclass(frozen=True, slots=True)
class UsageRow(Message):
    """What one API key did with one model on one day.

    `requests` = complete + `client_left` + `failed`; `captured` of them were charged, and tokens,
    `charged` and `duration_ms` are sums over those. `credited`: what decisions of disputes gave
    back on this day.
    """

    day: Day
    key_id: Annotated[str, Limit(32)]
    model: Name
    requests: Count
    captured: Count
    client_left: Count
    failed: Count
    input_tokens: Count
    output_tokens: Count
    charged: Count
    duration_ms: Count
    credited: Count = 0


@message(162)
@dataclass(frozen=True, slots=True)
class UsageReport(Message):
    """Rows in the order of day, key and model; `more` tells that there are further ones."""

    rows: Annotated[tuple[UsageRow, ...], Limit(USAGE_ROWS_MAX)]
    more: bool


# --- contribution points (RCP) -------------------------------------------------------------------
UPTIME_NODES_MAX = 2000
"""In one record; with 0.2 kB each they fit into one frame."""
SCORES_MAX = 2000
MINUTES_MAX = 1440


@message(163)
@dataclass(frozen=True, slots=True)
class NodeUptime(Message):
    """How many minutes of a day a node was seen, and whose it was."""

    peer_id: Annotated[str, Limit(128)]
    account_id: Account
    minutes: Annotated[int, Range(0, MINUTES_MAX)]


@message(164)
@dataclass(frozen=True, slots=True)
class UptimeRecord(Document):
    """How long a bootstrap saw nodes alive on one day, so far. Signed by that bootstrap.

    `part` numbers the records of a day that has more nodes than one can carry; a record replaces
    the earlier one of the same day and part.
    """

    PURPOSE: ClassVar[str] = "uptime-record"
    day: Day
    part: Annotated[int, Range(0, 1000)]
    nodes: Annotated[tuple[NodeUptime, ...], Limit(UPTIME_NODES_MAX)]
    issued_ms: int


BasisPoints = Annotated[int, Range(0, 10_000)]


@message(165)
@dataclass(frozen=True, slots=True)
class RcpParameters(Message):
    """By what points are given: the pool of an epoch, its shares in 1/10000, and the caps on what
    one payer's money at one node counts, and on what one referred account's fees count
    (microcredits in an epoch)."""

    points: Annotated[int, Range(0, 10**12)]
    work_basis_points: BasisPoints
    uptime_basis_points: BasisPoints
    validation_basis_points: BasisPoints
    referral_basis_points: BasisPoints
    pair_cap_microcredits: Annotated[int, Range(0, 10**17)]
    referral_cap_microcredits: Annotated[int, Range(0, 10**17)] = 0


@message(166)
@dataclass(frozen=True, slots=True)
class RcpScore(Message):
    """An account's part of an epoch: what counted (microcredits, minutes) and its points.

    `referral_fees`: what accounts that it referred paid in fees, as far as that counts.
    """

    account_id: Account
    points: Count
    work: Count
    uptime_minutes: Count
    referral_fees: Count = 0


@message(167)
@dataclass(frozen=True, slots=True)
class RcpEpoch(Document):
    """An epoch as it was frozen. Signed by the bootstrap that froze it.

    `scores_digest` is the SHA-256 over the encoded RcpScores, the highest first, each without
    `referral_fees` where that is 0; `configuration` is
    the version that the parameters are from; `chain` certifies the bootstrap, so that anybody can
    check an epoch for ever.
    """

    PURPOSE: ClassVar[str] = "rcp-epoch"
    first_day: Day
    days: Annotated[int, Range(1, 366)]
    configuration: Annotated[int, Range(1, 2**53)]
    parameters: RcpParameters
    accounts: Count
    scores_digest: Annotated[bytes, Limit(32, 32)]
    issued_ms: int
    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX, 1)]


@message(168)
@dataclass(frozen=True, slots=True)
class RcpQuery(Message):
    """Asks for the frozen epoch that has `day` in it (0: the newest), from place `first` on, or for
    one account's place in it."""

    day: Day = 0
    first: Count = 0
    count: Annotated[int, Range(1, SCORES_MAX)] = 100
    account_id: Annotated[str, Limit(128)] = ""


@message(169)
@dataclass(frozen=True, slots=True)
class RcpReport(Message):
    """A frozen epoch and some of its scores, the highest first; `first`: the first one's place."""

    epoch: Signed
    first: Count
    scores: Annotated[tuple[RcpScore, ...], Limit(SCORES_MAX)]
