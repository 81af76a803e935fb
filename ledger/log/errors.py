"""Owns what a log proof can be wrong in."""

from __future__ import annotations

from ledger.errors import RequestError


class ProofError(RequestError):
    """A proof, a checkpoint or an opening does not verify: do not believe who gave it."""

    code = "proof"
