"""Owns where the uses of invites are counted: one transaction of the bootstraps' database each."""

from __future__ import annotations

from collections.abc import Callable

from ledger.ledger import Ledger
from ledger.store.directory_invites import use_and_keep
from p2p.subclouds.invites import VerifiedUse


class LedgerInviteUses:
    """Counts beside the ledger; what was answered is also found where certificates are asked for,
    by its node and by delegates."""

    def __init__(self, ledger: Ledger) -> None:
        """Count in this ledger's database."""
        self._ledger = ledger

    async def use_invite(
        self, use: VerifiedUse, make: Callable[[int], bytes], now_ms: int
    ) -> bytes | None:
        """Count a use and keep its answer; None if all are taken. Raises: LedgerError."""
        invite = use.invite
        place = (invite.subcloud_id, use.peer_id)
        times_ms = (now_ms, now_ms + invite.membership_s * 1000)
        answer = await self._ledger.change_beside(
            lambda c: use_and_keep(c, use.invite_id, invite.uses, make, place, times_ms)
        )
        return answer or None
