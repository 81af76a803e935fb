"""Owns usage as the owner of a subcloud sees it: by namespace, not by API key. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ledger.usage import Counts, UsageKey


class SubcloudKey(NamedTuple):
    """What usage in subclouds is counted for; the namespace is only ever told as a count."""

    subcloud_id: str
    day: int
    model: str
    namespace: str


def usage_by_subcloud(usage: Mapping[UsageKey, Counts]) -> dict[SubcloudKey, Counts]:
    """Add up over API keys; jobs of the global pool are left out."""
    found: dict[SubcloudKey, Counts] = {}
    for key, counts in usage.items():
        if key.subcloud_id:
            own = SubcloudKey(key.subcloud_id, key.day, key.model, key.namespace)
            before = found.get(own)
            found[own] = counts if before is None else before.plus(counts)
    return found
