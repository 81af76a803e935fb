"""Owns the bounds and intervals of a node's memberships, each with its reason."""

from __future__ import annotations

WISHES_LOOK_INTERVAL_S = 1.0
"""A command is noticed as soon as the status that answers it is written."""
UNMET_GRACE_S = 600.0
"""A member that does not meet its policy takes no jobs there; a model that loads again or a late
certificate within this time does not cost the membership (and the cooldown)."""
CERTIFICATE_POLL_S = 5.0
"""While a request waits: within 10 s of the approval, the node shows it."""
FRESH_POLL_S = 1.0
FRESH_REQUEST_MS = 30_000
"""Right after it asked: a steward answers within seconds."""
REQUEST_INTERVAL_S = 3600.0
"""A request that waits is put again, should the bootstraps have forgotten it."""
REQUEST_RETRY_S = 15.0
RENEW_LEFT_SHARE = 3
"""A certificate is asked for again when a third of its life is left."""
FETCH_PAUSE_S = 2.0
"""Offers may name any policy: one subcloud's is not fetched more often."""
MATCHED_MAX = 256
"""Subclouds that patterns stand for and that are judged: ten times the memberships of a node."""
LOG_LINES_MAX = 2000
LOG_READ_BYTES_MAX = 1 << 20
WISHES_MAX = 100
FILE_BYTES_MAX = 1 << 20
SHOWN_MAX = 64
"""Subclouds in a node's status: its memberships, and what keeps it out of others."""
REASON_CHARACTERS_MAX = 300
RECHECK_S_MAX = 30.0
"""Facts that nobody reports (GPUs found by a runtime) are looked at this often."""
