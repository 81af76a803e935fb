"""Owns the audit of holds by keys whose limits were changed: some limits that the key had let it.

Records and transfers are two orders: which of a key's limits stood when a hold was placed is only
known by the clocks of the moment, which may have jumped. So a hold must be allowed by any of them,
the newest first.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.errors import ApiKeyError
from ledger.key_limits import check_allowed, usage_after_hold
from ledger.key_proof import check_key_usable
from ledger.operations import OpenLease, Operation, PlaceHold
from ledger.records import ApiKeyEntry
from ledger.store.audit.report import Replay


def note_limits(replay: Replay, key: ApiKeyEntry) -> None:
    """Remember limits that a key got by an operation of its owner."""
    versions = replay.key_limits.setdefault(key.key_id, [])
    if not versions or versions[-1].limit_changes != key.limit_changes:
        versions.append(key)


def use_limits(replay: Replay, operation: Operation, at_ms: int) -> None:
    """Give the key of a hold or lease limits that it had and that allow it, if there are such."""
    if not isinstance(operation, PlaceHold | OpenLease):
        return
    document = operation.document
    versions = replay.key_limits.get(document.key_id, [])
    if len(versions) < 2:
        return
    key = replay.book.keys[document.key_id]
    for version in reversed(versions):
        candidate = replace(
            key,
            expires_ms=version.expires_ms,
            credit_cap_total=version.credit_cap_total,
            models=version.models,
            gateways=version.gateways,
            limits=version.limits,
        )
        if _allows(replay, candidate, operation, at_ms):
            replay.book.keys[key.key_id] = candidate
            return


def _allows(replay: Replay, key: ApiKeyEntry, operation: PlaceHold | OpenLease, at_ms: int) -> bool:
    if isinstance(operation, PlaceHold):
        amount = operation.document.maximum
    else:
        amount = operation.document.amount
    try:
        check_key_usable(key, at_ms)
        check_allowed(key, operation.gateway_id, operation.document)
        usage_after_hold(key, replay.book.usage[key.key_id], amount, at_ms)
    except ApiKeyError:
        return False
    return True
