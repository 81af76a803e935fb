"""Owns taking over a frozen epoch of contribution points: its uptime first, then the epoch."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from ledger.errors import IntegrityError
from ledger.operations import FreezeEpoch, KeepUptime
from ledger.store.rcp_queries import score_from_row
from ledger.store.usage_tables import RCP_SCORES, UPTIME
from p2p.certificates import verify_chain
from p2p.codec import decode_message
from p2p.signing import Signed, open_signed
from p2p.types import NetworkId, Role
from p2p.usage_messages import RcpEpoch, UptimeRecord


def epoch_operations(
    given: Connection, row: Any, network: NetworkId
) -> list[KeepUptime | FreezeEpoch]:
    """Make the operations again that an epoch's rows come from; all signatures are checked.

    Raises: P2PError, IntegrityError.
    """
    signed = decode_message(row.signed, Signed)
    epoch = open_signed(signed, RcpEpoch, network)
    certificate = verify_chain(epoch.chain, network, signed.peer_id, epoch.issued_ms)
    if certificate.role is not Role.BOOTSTRAP:
        raise IntegrityError("an epoch is frozen by a bootstrap")
    last_day = epoch.first_day + epoch.days - 1
    found: list[KeepUptime | FreezeEpoch] = []
    for kept in given.execute(
        select(UPTIME).where(UPTIME.c.day.between(epoch.first_day, last_day))
    ):
        record = decode_message(kept.signed, Signed)
        document = open_signed(record, UptimeRecord, network)
        if (kept.day, kept.bootstrap_id, kept.part) != (
            document.day,
            record.peer_id,
            document.part,
        ):
            raise IntegrityError("an uptime record stands under another name than its own")
        found.append(KeepUptime(record, document, record.peer_id))
    rows = given.execute(
        select(RCP_SCORES)
        .where(RCP_SCORES.c.first_day == epoch.first_day)
        .order_by(RCP_SCORES.c.place)
    )
    found.append(FreezeEpoch(signed, epoch, tuple(score_from_row(row) for row in rows)))
    return found
