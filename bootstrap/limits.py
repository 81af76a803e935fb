"""Owns the bounds of the bootstrap, each with its reason."""

from __future__ import annotations

CONFIGURATION_POLL_INTERVAL_S = 1.0
"""One stat call: a change by the operator is in force everywhere within a few seconds."""
CONFIGURATION_GOSSIP_INTERVAL_S = 60.0
"""Peers fetch it when they connect; gossip only repairs a message that was lost."""
ADVERTS_PRUNE_INTERVAL_S = 10.0
ADVERTS_REPLY_BYTES_MAX = 900 * 1024
"""Fits one frame; a newcomer learns the rest by gossip within a heartbeat."""
GATEWAYS_REPLY_BYTES_MAX = 64 * 1024
"""Some eighty gateways: a node dials fewer."""
REACH_PER_SECOND_PER_PEER = 1 / 30
REACH_BURST_PER_PEER = 4.0
REACH_CHECKS_AT_ONCE = 32
"""Each waits up to three seconds for a router that drops packets."""
REACH_PORTS_MAX = 2
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
NOTICE_DELAY_S = 0.1
"""What is named within it goes into one notice; a revocation is in force within 5 s anyway."""
WANTED_NOTICE_INTERVAL_S = 1.0
"""Gateways that are short of credit ask again after a second."""
CERTIFICATE_WARNING_S = 7 * 86_400.0
"""Certificates are renewed by hand, with the offline authority key: warn a week ahead."""
OPENING_NETWORKS_MAX = 10_000
"""Client networks whose openings are counted; beyond it the bound on all openings still holds."""
ADMISSIONS_PER_SECOND_PER_PEER = 1.0
ADMISSIONS_BURST_PER_PEER = 20.0

# --- mirrors and the watch over the log --------------------------------------------------------
MIRROR_INTERVAL_S = 0.5
"""Between two questions of a mirror that has everything: it lags about as much as the log does."""
MIRROR_RETRY_S = 2.0
MIRROR_ALARM_PAUSE_S = 30.0
"""Before a mirror looks again at a batch that was wrong."""
MIRROR_WAITING_S_MAX = 30.0
"""How long an operation may wait for what it needs when the log names nothing more."""
EPOCH_CHECK_INTERVAL_S = 60.0
EPOCH_CHECK_AFTER_MS = 120_000
"""All that an epoch is computed from is in the log a few seconds after it was frozen."""
ALARM_GOSSIP_INTERVAL_S = 30.0
"""An alarm is told again for as long as it is kept: who was away must hear of it."""
ALARMS_PER_GOSSIP_MAX = 16
ALARMS_REPLY_BYTES_MAX = 900 * 1024
