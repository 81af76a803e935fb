"""Owns the bounds of the ledger, each with its reason."""

from __future__ import annotations

# --- the writer -------------------------------------------------------------------------------
GROUP_OPERATIONS_MAX = 256
"""Operations in one transaction: more gain little, and the last of them wait long."""
QUEUE_OPERATIONS_MAX = 8192
"""Waiting operations: a second of work at 8,000 a second; more would only miss deadlines."""
GROUP_ATTEMPTS_MAX = 8
"""PostgreSQL may abort a group (deadlock, racing insert); a new attempt sees the winner's rows."""
BUSY_TIMEOUT_S = 10.0
"""How long SQLite waits for another process that writes to the same file."""
READERS_MAX = 4
"""Threads (and connections) for reads beside the writer."""

# --- holds ------------------------------------------------------------------------------------
SWEEP_INTERVAL_S = 5.0
SWEEP_HOLDS_MAX = 512
"""Expired holds ended by one step of the sweep, so that it never blocks others for long."""

# --- accounts ---------------------------------------------------------------------------------
BALANCE_MICROCREDITS_MAX = 2**62
"""What a message may carry as a balance; the sum of a namespace's grants stays below it."""
GRANTS_PER_NAMESPACE_MAX = 1000
MEMO_BYTES_MAX = 256
"""A statement carries all grants of a namespace: 1000 of at most 0.6 kB fit into one frame."""
GRANT_EPOCH_MS = 86_400_000
"""A mint key's cap counts the grants of one UTC day."""
KEYS_PER_NAMESPACE_MAX = 1000
NAMESPACES_PER_ACCOUNT_MAX = 1000
"""Both keep one account from filling the tables."""

# --- service ----------------------------------------------------------------------------------
KEY_CACHE_S = 5.0
"""How long a gateway may serve a key without asking again: a revocation is in force after this."""
TERMS_GRACE_MS = 60_000
"""How long holds under the previous configuration's prices are taken after a new one came."""
LOOKUP_AGE_MS_MAX = 60_000
"""A signed question older than this is not answered."""
