"""Owns the bounds of everything that a peer can send or make us keep, each with its reason."""

from __future__ import annotations

# --- frames -----------------------------------------------------------------------------------
FRAME_HEADER_BYTES = 4
FRAME_BYTES_MAX = 1 << 20
"""One frame. A request with 128k tokens of text is about 600 kB; a step's output is a few kB."""
MESSAGES_PER_FRAME_MAX = 4096
REQUEST_BYTES_MAX = 768 * 1024
"""The rendered request inside an offer; leaves room for the envelope within one frame."""

# --- names and lists --------------------------------------------------------------------------
NAME_CHARACTERS_MAX = 128
TEXT_CHARACTERS_MAX = 1024
ADDRESSES_MAX = 8
MODELS_PER_NODE_MAX = 32
CERTIFICATES_MAX = 3
OUTPUT_TOKENS_PER_MESSAGE_MAX = 4096
LEGS_PER_CAPTURE_MAX = 8
CAPTURES_PER_BATCH_MAX = 32
"""A capture of one leg is about 1.2 kB; 32 of 8 legs still fit one frame."""
NOTICE_MARKS_MAX = 256
HOLDS_PER_QUERY_MAX = 256
"""Of a node that asks for many at once: the answer to each costs a reading of its capture."""
TOKENS_MAX = 10_000_000
"""No model has a context near this; keeps every product of tokens and prices within 63 bits."""
PRICE_MICROCREDITS_MAX = 10**12
"""Per 10**6 tokens: one credit a token. Times TOKENS_MAX / 10**6 this stays below 2**63."""
AMOUNT_MICROCREDITS_MAX = 10**17

# --- gossip and DHT ---------------------------------------------------------------------------
GOSSIP_MESSAGE_BYTES_MAX = 16 * 1024
TOPIC_SHARDS = 16
SUBSCRIPTION_QUEUE_MESSAGES_MAX = 2048
"""Unread messages of one subscription; the oldest are dropped beyond that."""
ADVERT_INTERVAL_S = 10.0
ADVERT_LIFETIME_S = 45.0
"""Four heartbeats: three lost ones do not remove a node, a dead one is gone within a minute."""
ADVERT_LIFETIME_S_MAX = 4 * 3600.0
"""Twice what nodes give their DHT records: who leaves cannot stay in everybody's books for long."""
ADVERTS_KNOWN_MAX = 20_000

# --- time -------------------------------------------------------------------------------------
HELLO_TIMEOUT_S = 2.0
DIAL_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 10.0
UPLINK_WAIT_S = 3.0
"""A call waits this long for a link that is down, one redial's pause and more; then it is told."""
REDIAL_PAUSE_S_MIN = 0.2
REDIAL_PAUSE_S_MAX = 2.0
"""A restarted bootstrap has its peers back well within 10 s."""
CLOCK_SKEW_MS_MAX = 60_000
"""A signed message may come from a clock that runs this much ahead."""
HEARTBEAT_INTERVAL_S = 2.0
SESSION_SILENCE_S_MAX = 8.0
"""Four missed heartbeats; with redialling it keeps a frozen peer noticed well within 15 s."""

# --- sessions and calls -----------------------------------------------------------------------
SESSION_SEND_QUEUE_MESSAGES_MAX = 8192
SEND_DELAY_S = 0.005
"""How long a message that nobody waits for may wait for company; at 200 messages a second it always
finds some."""
SESSION_SEND_TIMEOUT_S = 5.0
"""py-libp2p resets a writer whose window stays full for 5 s; give up together with it."""
CALLS_IN_FLIGHT_PER_PEER_MAX = 1024
CALLS_PER_SECOND_PER_PEER = 2000.0
CALLS_BURST_PER_PEER = 4000.0
REPLAY_WINDOW_ENTRIES_MAX = 100_000

assert REQUEST_BYTES_MAX < FRAME_BYTES_MAX
assert UPLINK_WAIT_S > REDIAL_PAUSE_S_MAX
assert SESSION_SILENCE_S_MAX > 2 * HEARTBEAT_INTERVAL_S
assert TOKENS_MAX * PRICE_MICROCREDITS_MAX // 10**6 < 2**63
