"""Owns the error tree of the network layer.

P2PError
├── MalformedError        bytes or values that break the protocol's form (the sender's fault)
├── UntrustedError        a signature, certificate, sequence or time that cannot be accepted
│   ├── WrongNetworkError     the other side belongs to another network
│   ├── ForkError             two signed documents claim the same version
│   └── StaleError            older than what is already known, expired, or replayed
├── RefusedError          the peer understood and said no (its reason is attached)
├── RateLimitedError      too many requests from one peer (retry later)
├── PeerUnavailableError  the peer cannot be reached or has gone (retry elsewhere)
│   └── SessionLostError      an established session broke
└── DeadlineError         no answer in time (retry elsewhere)

Each leaf says who must act. `Invariant` violations are plain assertions: our bug, the process
stops.
"""

from __future__ import annotations


class P2PError(Exception):
    """Anything that the network layer reports to its callers."""


class MalformedError(P2PError):
    """Bytes or values that break the protocol's form: drop the sender."""


class UntrustedError(P2PError):
    """Well formed, but nothing that may be believed."""


class WrongNetworkError(UntrustedError):
    """The other side belongs to another network."""


class ForkError(UntrustedError):
    """Two different signed documents claim the same version: both are evidence."""


class StaleError(UntrustedError):
    """Older than what is known, expired, from the future, or a replay."""


class RefusedError(P2PError):
    """The peer understood and refused.

    Attributes:
        code: a short machine-readable reason, for example `no_certificate`.
        retry_after_s: when it makes sense to ask again, or None.
    """

    def __init__(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class RateLimitedError(P2PError):
    """One peer asks too often: it may retry later."""


class PeerUnavailableError(P2PError):
    """The peer cannot be reached: try another one, or later."""


class SessionLostError(PeerUnavailableError):
    """An established session broke or fell silent."""


class DeadlineError(P2PError):
    """No answer within the time that was allowed."""
