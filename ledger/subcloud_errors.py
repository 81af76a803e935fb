"""Owns the refusals of callers of subclouds (leaves of the tree in `ledger.errors`)."""

from __future__ import annotations

from ledger.errors import RequestError


class CallerNotAllowedError(RequestError):
    """The subcloud's policy does not let this caller in."""

    code = "caller_not_allowed"


class CallerTokenError(RequestError):
    """The token is not good for this job: used up, or somebody else's."""

    code = "caller_token"


class ForeignNamespaceError(RequestError):
    """The gateway serves its own account's namespaces, and this is another account's."""

    code = "gateway_private"
