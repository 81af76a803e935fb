"""Owns the refusals of openings and referrals (leaves of the tree in `ledger.errors`)."""

from __future__ import annotations

from ledger.errors import RequestError, utc_text


class OpeningLimitError(RequestError):
    """The network opens no more accounts at the moment: in all, or from one client network."""

    code = "opening_limit"

    def __init__(self, limit: str, per_hour: int, wait_s: float, now_ms: int) -> None:
        super().__init__(
            f"this network opens {per_hour} accounts an hour {limit}, and those are taken; the "
            f"next one can be opened at {utc_text(now_ms + int(wait_s * 1000) + 999)}"
        )
        self.retry_after_s = wait_s


class InviteError(RequestError):
    """The network opens accounts by invite, and this invite does not do (or there is none)."""

    code = "invite_refused"


class ReferralError(RequestError):
    """This account cannot be referred by that one, or not any more."""

    code = "referral_refused"
