"""Owns the messages by which the owner of a subcloud asks what happened in it.

Amounts are microcredits, days are numbered from 1970-01-01 (UTC). Who paid is told as a number
only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.job_messages import Id
from p2p.limits import NAME_CHARACTERS_MAX
from p2p.signing import Document
from p2p.usage_messages import Count, Day

SUBCLOUD_USAGE_ROWS_MAX = 2000
"""A row has at most 0.4 kB: they fit into one frame."""
BY_MODEL, BY_MEMBER = "model", "member"

Name = Annotated[str, Limit(NAME_CHARACTERS_MAX)]


@message(149)
@dataclass(frozen=True, slots=True)
class SubcloudUsageRequest(Document):
    """Asks for the usage of a subcloud, first and last day included, `by` model or member.

    Signed by a key of the owner's account or by a delegate. `after`: so many rows were told.
    """

    PURPOSE: ClassVar[str] = "subcloud-usage-request"
    subcloud_id: Name
    first_day: Day
    last_day: Day
    by: Annotated[str, Limit(16)]
    nonce: Id
    issued_ms: int
    after: Annotated[int, Range(0, 10**9)] = 0


@message(37)
@dataclass(frozen=True, slots=True)
class SubcloudUsageRow(Message):
    """What happened on one day: with one model, or at one member.

    By model: `jobs` ended, `captured` of them were charged; tokens, `charged`, `income` (the
    owner's share) are sums over those; `credited` is what disputes gave back on this day, of which
    `income` is the less. `consumers` counts the namespaces that paid. By member: `jobs` are those
    that it was paid for, `earned` what it got.
    """

    day: Day
    model: Name = ""
    member: Name = ""
    jobs: Count = 0
    captured: Count = 0
    client_left: Count = 0
    failed: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0
    charged: Count = 0
    duration_ms: Count = 0
    credited: Count = 0
    income: Annotated[int, Range(-(2**62), 2**62)] = 0
    earned: Annotated[int, Range(-(2**62), 2**62)] = 0
    consumers: Count = 0


@message(159)
@dataclass(frozen=True, slots=True)
class SubcloudUsageReport(Message):
    """Rows in the order of day and model or member; `more` tells that there are further ones.

    `consumers`: how many namespaces paid in all these days.
    """

    rows: Annotated[tuple[SubcloudUsageRow, ...], Limit(SUBCLOUD_USAGE_ROWS_MAX)]
    more: bool
    consumers: Count = 0
