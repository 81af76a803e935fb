"""Owns the bounds of the bootstrap, each with its reason."""

from __future__ import annotations

CONFIGURATION_POLL_INTERVAL_S = 1.0
"""One stat call: a change by the operator is in force everywhere within a few seconds."""
CONFIGURATION_GOSSIP_INTERVAL_S = 60.0
"""Peers fetch it when they connect; gossip only repairs a message that was lost."""
ADVERTS_PRUNE_INTERVAL_S = 10.0
ADVERTS_REPLY_BYTES_MAX = 900 * 1024
"""Fits one frame; a newcomer learns the rest by gossip within a heartbeat."""
HOLD_SWEEP_INTERVAL_S = 5.0
UPTIME_SAMPLE_INTERVAL_S = 20.0
"""Three looks a minute: none is missed, however the sleeps drift."""
UPTIME_RECORD_INTERVAL_S = 300.0
"""What a bootstrap that is killed forgets at most."""
EPOCH_GRACE_MS = 15 * 60_000
"""After an epoch's end: the last uptime records of all bootstraps, and clocks that are behind."""
EPOCHS_PER_ROUND_MAX = 32
"""Epochs that are frozen at once after a long pause, so that others get their turn."""
CHECKPOINT_GOSSIP_INTERVAL_S = 10.0
"""A gossip message costs about 2.5 CPU-ms at every peer; who wants to know at once asks."""
CERTIFICATE_WARNING_S = 7 * 86_400.0
"""Certificates are renewed by hand, with the offline authority key: warn a week ahead."""
ADMISSIONS_PER_SECOND_PER_PEER = 1.0
ADMISSIONS_BURST_PER_PEER = 20.0
