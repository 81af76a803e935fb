"""Owns the bounds of payments, each with its reason."""

from __future__ import annotations

TOLERANCE_S = 300
"""Age of a signature, either way: what providers use; repetitions are signed anew."""
BODY_BYTES_MAX = 64 * 1024
BODY_TIMEOUT_S = 10.0
"""An event has about 300 bytes; a provider sends it at once."""
SIGNATURE_HEADER_CHARACTERS_MAX = 2048
SIGNATURES_MAX = 8
"""In one header: a provider that changes its secret sends two."""
SECRETS_MAX = 2
"""In one file: the new one and the one before it, while they are being changed."""
SECRET_BYTES_MIN = 32
SECRET_DISTINCT_MIN = 12
"""A secret of 32 random bytes in hex has less than 12 different digits once in 10^8 times."""
SECRET_FILE_BYTES_MAX = 4096
EVENT_ID_CHARACTERS_MAX = 100
REFERENCE_CHARACTERS_MAX = 100
"""Provider, event ID and reference are the grant's memo, which has at most 256 bytes."""
PROVIDER_CHARACTERS_MAX = 32
REQUESTS_IN_FLIGHT_MAX = 32
"""Beyond it 503: a provider tries again, and the ledger takes hundreds a second."""
KEEP_ALIVE_S = 5
STOP_GRACE_S = 20
"""A grant that is under way at the end may take one call to the gateway (15 s)."""
