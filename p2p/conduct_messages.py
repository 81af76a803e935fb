"""Owns what a capture says of how the nodes served, and the messages that give counts of it.

Theory of operation. A gateway measures each attempt that it pays for, and remembers the attempts
that came to nothing through a node's fault. Both travel with the capture of the job (nothing
without a receipt), the ledger adds them up by node, gateway and subcloud, and a bootstrap gives the
counts to gateways (`conduct.get`), which judge members by them (`p2p.subclouds.conduct`). Money
does not depend on any of it.

Times are milliseconds, those of day since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.job_messages import Peer
from p2p.limits import NAME_CHARACTERS_MAX
from p2p.signing import Document, Signed
from p2p.types import AccountId

CONDUCT_GET = "conduct.get"
"""ConductQuery -> encoded Signed of a ConductReport, for certified gateways and bootstraps."""
MEASURED_MS_MAX = 86_400_000
FAILURES_PER_CAPTURE_MAX = 16
"""A job has fewer attempts."""
CONDUCT_NODES_MAX = 500
CONDUCT_ROWS_MAX = 4000
"""A row has at most 0.3 kB: they fit into one frame."""
UPTIME_DAYS_MAX = 8000

Measured = Annotated[int, Range(0, MEASURED_MS_MAX)]
Count = Annotated[int, Range(0, 2**62)]
Account = Annotated[AccountId, Limit(NAME_CHARACTERS_MAX)]
Subcloud = Annotated[str, Limit(NAME_CHARACTERS_MAX)]


@message(157)
@dataclass(frozen=True, slots=True)
class LegObservation(Message):
    """How one leg of a capture was served, as the gateway saw it.

    `first_token_ms`: from the voucher to the first output (0: not measured). `output_ms`: from
    there to the last. `failed`: the attempt did not complete, through the node's fault.
    """

    first_token_ms: Measured
    output_ms: Measured
    failed: bool = False


@message(158)
@dataclass(frozen=True, slots=True)
class FailedAttempt(Message):
    """An attempt of the same job that gave no output that is paid, through the node's fault.

    `code`: `failed`, `lost`, or the node's refusal. `accept`: the node's signed Accept, which
    proves that it had taken the job; without it the failure is only the gateway's word.
    """

    node_id: Peer
    code: Annotated[str, Limit(32)]
    accept: Signed | None = None


@message(116)
@dataclass(frozen=True, slots=True)
class ConductQuery(Message):
    """Asks how nodes conducted themselves from `since_ms` on.

    `subcloud_id`: in its jobs only; empty: in all jobs. `whole`: one row for each node, gateway and
    kind, instead of one for each interval too. `after`: the last row of the answer before (the
    answer's `next`).
    """

    nodes: Annotated[tuple[Peer, ...], Limit(CONDUCT_NODES_MAX, 1)]
    subcloud_id: Subcloud
    since_ms: Count
    whole: bool = False
    after: Count = 0


@message(117)
@dataclass(frozen=True, slots=True)
class ConductCounts(Message):
    """What one gateway saw of one node from `from_ms` until `until_ms`.

    `related`: payer, gateway and node are not three different accounts. `jobs` have a receipt;
    `failed` of them broke off, or came to nothing after the node had accepted; `unproven` failures
    are only the gateway's word, and not in `jobs`. `first_token_ms` is a sum over `first_tokens`
    jobs; `output_tokens` (each job's without the first) were given in `output_ms`.
    """

    node_id: Peer
    gateway_id: Peer
    gateway_account: Account
    related: bool
    from_ms: Count
    until_ms: Count
    jobs: Count
    failed: Count
    unproven: Count
    first_tokens: Count
    first_token_ms: Count
    output_tokens: Count
    output_ms: Count


@message(118)
@dataclass(frozen=True, slots=True)
class UptimeDay(Message):
    """For how many of the minutes of a day (so far) the bootstraps saw a node alive."""

    node_id: Peer
    day: Annotated[int, Range(0, 10_000_000)]
    minutes: Annotated[int, Range(0, 1440)]
    of_minutes: Annotated[int, Range(0, 1440)]


@message(119)
@dataclass(frozen=True, slots=True)
class ConductReport(Document):
    """The answer to a ConductQuery, signed by the bootstrap.

    `next`: where the next page begins (0: this was the last). `uptime` comes with the first page.
    """

    PURPOSE: ClassVar[str] = "conduct-report"
    subcloud_id: Subcloud
    since_ms: Count
    issued_ms: int
    rows: Annotated[tuple[ConductCounts, ...], Limit(CONDUCT_ROWS_MAX)]
    uptime: Annotated[tuple[UptimeDay, ...], Limit(UPTIME_DAYS_MAX)]
    next: Count = 0
