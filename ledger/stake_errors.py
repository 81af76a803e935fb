"""Owns the refusals of stakes for subclouds (leaves of the tree in `ledger.errors`)."""

from __future__ import annotations

from ledger.errors import RequestError


class StakeExistsError(RequestError):
    """The subcloud has a stake already."""

    code = "stake_exists"


class StakeUnknownError(RequestError):
    """The subcloud has no stake to be given back."""

    code = "stake_unknown"


class StakeInUseError(RequestError):
    """The subcloud has not ended."""

    code = "stake_in_use"
