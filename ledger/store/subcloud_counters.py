"""Owns the check of subclouds' usage and work against the transfers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, select

from ledger.store.conduct_tables import SUBCLOUD_USAGE, SUBCLOUD_WORK
from ledger.subcloud_usage import SubcloudKey, usage_by_subcloud
from ledger.usage import Counts, UsageKey, WorkKey
from p2p.types import AccountId, PeerId


def subcloud_problems(
    connection: Connection,
    usage: Mapping[UsageKey, Counts],
    work: Mapping[WorkKey, tuple[int, int]],
) -> Iterator[str]:
    """Compare the counters of subclouds with what the transfers made; a line for each difference.

    Args: usage, work: made from all transfers (`ledger.store.usage_check`).
    """
    found = {
        SubcloudKey(*row[:4]): Counts(*row[4:])
        for row in connection.execute(select(SUBCLOUD_USAGE))
    }
    made = usage_by_subcloud(usage)
    for key in sorted({*found, *made}):
        if found.get(key) != made.get(key):
            yield f"the usage of {key} is not what the transfers say"
    kept = {
        WorkKey(
            row.namespace, row.day, PeerId(row.node_id), AccountId(row.account_id), row.subcloud_id
        ): (row.legs, row.earned)
        for row in connection.execute(select(SUBCLOUD_WORK))
    }
    wanted = {key: value for key, value in work.items() if key.subcloud_id}
    for work_key in sorted({*kept, *wanted}):
        if kept.get(work_key) != wanted.get(work_key):
            yield f"the work of {work_key} in its subcloud is not what the transfers say"
