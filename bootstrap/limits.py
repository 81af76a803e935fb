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

OWN_GATEWAYS_PER_ACCOUNT_MAX = 16
"""Each is a member of the mesh that costs its account nothing."""

# --- the subclouds' directory ------------------------------------------------------------------
SUBCLOUD_WRITES_PER_SECOND_PER_PEER = 2.0
SUBCLOUD_WRITES_BURST_PER_PEER = 200.0
"""A gateway carries for many people; a peer that greets hands over 64 records at most."""
POLICIES_PER_SECOND_PER_SUBCLOUD = 1 / 30
POLICIES_BURST_PER_SUBCLOUD = 30.0
"""Each version goes to every peer, and is kept: a policy is changed now and then, not always."""
REVOCATION_LISTS_PER_SECOND_PER_SUBCLOUD = 0.2
REVOCATION_LISTS_BURST_PER_SUBCLOUD = 30.0
"""A steward signs lists anew to keep them young: the shortest age that a policy may ask for is half
a minute."""
SUBCLOUDS_FOUNDED_PER_OWNER_AND_DAY_MAX = 32
SUBCLOUD_DATABASE_POLL_INTERVAL_S = 2.0
"""What another bootstrap on the same database took; gossip is faster, and may be lost."""
SUBCLOUDS_PER_DATABASE_READ = 200
SUBCLOUD_DHT_INTERVAL_S = 12 * 3600.0
"""DHT records live for up to two days."""
SUBCLOUD_DHT_PAUSE_S = 0.5
SUBCLOUD_TELL_QUEUE_MAX = 10_000
"""Changes that are not gossiped yet; peers that miss one ask."""
JOIN_REQUESTS_PER_NODE_MAX = 24
"""As many as a node can be a member of."""
JOIN_REQUESTS_PER_SUBCLOUD_MAX = 5_000
SUBCLOUD_MEMBERS_MAX = 20_000
"""Rows of members, present and past, of one subcloud."""
MEMBER_NOTE_DELAY_S = 0.25
"""What nodes say within it is compared in one transaction."""
MEMBER_FORGET_AFTER_MS = 120 * 86_400_000
"""Longer than the longest cooldown."""
MEMBER_FORGET_INTERVAL_S = 3600.0
