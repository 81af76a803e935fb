"""Owns the bounds of the ledger, each with its reason."""

from __future__ import annotations

# --- the writer -------------------------------------------------------------------------------
GROUP_OPERATIONS_MAX = 512
"""Operations in one transaction. Groups get as large only if as many wait: 512 instead of 256 saves
a tenth of the time of each (measured); more gain little, and hold PostgreSQL's row locks long."""
QUEUE_OPERATIONS_MAX = 8192
"""Waiting operations: a second of work at 8,000 a second; more would only miss deadlines."""
GROUP_ATTEMPTS_MAX = 8
"""PostgreSQL may abort a group (deadlock, racing insert); a new attempt sees the winner's rows."""
BUSY_TIMEOUT_S = 10.0
"""How long SQLite waits for another process that writes to the same file."""
READERS_MAX = 4
"""Threads (and connections) for reads beside the writer."""

# --- the watch over the database ---------------------------------------------------------------
TAIL_INTERVAL_S = 60.0
"""Between two checks of what is new: 64 ms of reading for 10,000 transfers (measured)."""
SCRUB_INTERVAL_S = 3600.0
"""Between two checks of the whole database: about 10 s of reading for a million transfers."""
SCRUB_PAUSE_S = 0.5
"""Between two rules of such a check, so that the readers of the service have their turn."""

# --- refused captures -------------------------------------------------------------------------
REFUSAL_WRITE_INTERVAL_S = 2.0
REFUSALS_WAITING_MAX = 1000
"""Peers and reasons noted between two writes; beyond it a flood of them says enough."""
REFUSAL_REASON_CHARACTERS_MAX = 300
REFUSAL_EVIDENCE_BYTES_MAX = 16_384
"""A capture of several legs has about 1 kB for each."""

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
ACCOUNT_KEYS_EVER_MAX = 64
"""Removed keys are remembered for ever; beyond this only the recovery key adds more."""
REFERRAL_CHAIN_MAX = 64
"""Referrals above an account: the walk that looks for loops stays short."""
KEYS_PER_NAMESPACE_MAX = 1000
NAMESPACES_PER_ACCOUNT_MAX = 1000
"""Both keep one account from filling the tables."""

# --- disputes ---------------------------------------------------------------------------------
DISPUTES_OPEN_PER_ACCOUNT_MAX = 100
"""Each carries up to 44 kB of evidence, and people decide them."""
EVIDENCE_KEPT_MS = 30 * 86_400_000
"""After the decision; the hash stays for ever."""

# --- claims -----------------------------------------------------------------------------------
CLAIMS_PER_LEASE_MAX = 256
"""Claims are for gateways that are gone: a lease has at most so many jobs at one moment."""
CLAIMS_PER_STEP_MAX = 256
"""Claims settled or judged by one step of the sweep, so that it never blocks others for long."""

# --- the transparency log --------------------------------------------------------------------
LOG_INTERVAL_S = 0.5
"""Between two looks at the outbox: with the time of a batch, within the merge delay of a second."""
LOG_BATCH_SOURCES_MAX = 2048
"""Sources in one batch: about 0.3 s of work, and a transaction that delays others little."""
LOG_RETRY_S = 5.0
"""After a failure that repeats itself at once."""
LOG_LEAVES_MAX = 8192
"""Leaves in one answer: 256 KB, well within a frame."""

# --- service ----------------------------------------------------------------------------------
KEY_CACHE_S = 5.0
"""How long a gateway may serve a key without asking again: a revocation is in force after this."""
LOOKUP_AGE_MS_MAX = 60_000
"""A signed question older than this is not answered."""

# --- the subclouds' directory ------------------------------------------------------------------
SUBCLOUD_EVIDENCE_ROWS_MAX = 2_000
"""Of forks, and of the rest: each has at most 300 kB, most have 5."""
SUBCLOUD_EVIDENCE_ROWS_PER_SUBCLOUD_MAX = 8
POLICY_VERSIONS_KEPT_MAX = 1_000
"""Of one subcloud, the newest: two a day for a year and more."""
JOIN_LOG_ROWS_PER_SUBCLOUD_MAX = 10_000
"""The newest: thirty changes a day for a year."""
