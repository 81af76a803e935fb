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
PRE_SHARED_KEY_BYTES = 32
ADDRESSES_MAX = 8
MODELS_PER_NODE_MAX = 32
GPUS_PER_NODE_MAX = 16
CERTIFICATES_MAX = 12
"""Two certificates; an account's own gateway shows its binding, the founding and 8 key changes."""
OUTPUT_TOKENS_PER_MESSAGE_MAX = 4096
CHOICES_MAX = 8
"""Answers to one request: each takes a slot of its node."""
TOP_LOGPROBS_MAX = 20
"""OpenAI's own limit."""
TOKEN_BYTES_MAX = 512
"""No vocabulary has longer tokens."""
EMBEDDING_INPUTS_MAX = 2048
"""OpenAI's own limit of texts in one embeddings request."""
EMBEDDING_DIMENSIONS_MAX = 16_384
"""Four times the longest vectors of published models; one vector is 88 kB of text."""
EMBEDDING_TEXT_BYTES_MAX = 16 << 20
"""All vectors of one answer: 2,048 of 1,536 numbers. A gateway keeps the whole answer."""
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

# --- subclouds --------------------------------------------------------------------------------
MEMBERSHIPS_PER_NODE_MAX = 24
"""A membership with its certificate has about 500 bytes: the statement stays below one gossip
message."""
MEMBERSHIP_INTERVAL_S = 60.0
MEMBERSHIP_LIFETIME_S = 300.0
"""Changes are told at once; the heartbeat is for those who come late."""
MEMBERSHIP_LIFETIME_S_MAX = 3600.0
MEMBERSHIPS_KNOWN_MAX = ADVERTS_KNOWN_MAX
STATEMENTS_PER_SECOND_PER_NODE, STATEMENTS_BURST_PER_NODE = 1.0, 20.0
"""Of membership statements by gossip: one costs up to some milliseconds to verify and judge."""
REVOKED_PER_LIST_MAX = 1000
"""Of each kind; a revocation list travels in a record of its own when it outgrows gossip."""
SUBCLOUDS_KNOWN_MAX = 10_000
SUBCLOUDS_PER_OWNER_MAX = 256
"""One account, which costs nothing, must not fill everybody's book."""
POLICIES_BYTES_MAX = 512 << 20
"""Of all records in a book: 50 kB each at 10,000 subclouds; most have 2 kB."""
POLICY_GRACE_S = 60.0
"""While a new version spreads, what was agreed under the one before still counts."""
POLICY_EVIDENCE_MAX = 256
POLICY_EVIDENCE_PER_SUBCLOUD_MAX = 4
"""Two forks prove all that more would; the newest of each kind is kept."""
POLICY_EVIDENCE_REPLACED_AFTER_MS = 60_000
POLICY_EVIDENCE_PUSHED_OUT_AFTER_MS = 1_000
"""Since the newest of its subcloud and kind, or of all, was kept: each is a file and a line in the
log, and anybody can sign any number of them."""
SUBCLOUDS_PER_PAGE_MAX = 1000
"""A summary has about 200 bytes."""
SUBCLOUD_REPLY_BYTES_MAX = 700 * 1024
"""Of an answer with many records: it fits one frame."""
SUBCLOUD_POLL_INTERVAL_S = 5.0
"""Gossip brings changes within a second; the question repairs a lost message: a revocation is known
within 10 s wherever a bootstrap is in contact."""
SUBCLOUD_FETCHES_AT_ONCE = 16
SUBCLOUD_HINTS_MAX = 64
SUBCLOUD_HINTS_PER_SECOND = 2.0
"""Subclouds that gossip named and that a bootstrap is asked about at once. Anybody can make names
up, and every peer would ask for each; the poll finds what is left out."""
SUBCLOUD_GOSSIP_PER_SECOND_PER_AUTHOR, SUBCLOUD_GOSSIP_BURST_PER_AUTHOR = 50.0, 500.0
SUBCLOUD_GOSSIP_PER_SECOND, SUBCLOUD_GOSSIP_BURST = 200.0, 2000.0
"""Policies and lists that are judged, about 1 ms each; the poll repairs what is left out."""
SUBCLOUD_GOSSIP_REFUSED_MAX = 4096
SUBCLOUDS_HANDED_OVER_MAX = 64
"""Newer records that a peer hands a bootstrap at one greeting."""
JOIN_REQUEST_LIFETIME_S_MAX = 30 * 86_400

# --- evidence about nodes -----------------------------------------------------------------------
LANDMARK_LIFETIME_S = 3600.0
LANDMARK_LIFETIME_S_MAX = 2 * 3600.0
"""A machine does not move within the hour; who takes over its key elsewhere is found out soon."""
LANDMARK_ROUNDS = 6
"""The best of so many round trips: one that met a busy moment says nothing about the distance."""
LANDMARK_PER_HOUR_PER_PEER = 12.0
LANDMARK_BURST_PER_PEER = 6.0
LANDMARK_AT_ONCE_MAX = 16
"""Measured at once by one landmark: more would make each other slow."""
LANDMARK_MEASURE_TIMEOUT_S = 3.0
"""Of all rounds: who is slower is nowhere near, and takes the place of others."""
LANDMARK_ANSWER_TIMEOUT_S = 2.0
"""Around the earth and back is 0.3 s."""
ATTESTATION_LIFETIME_S_MAX = 400 * 86_400.0
BENCHMARK_LIFETIME_S = 86_400.0
BENCHMARK_LIFETIME_S_MAX = 7 * 86_400.0
BENCHMARK_PER_HOUR_PER_PEER = 4.0
BENCHMARK_PER_HOUR = 12.0
"""Of a node: unpaid work of some seconds each."""
BENCHMARK_TOKENS = 128
BENCHMARK_TOKENS_MIN = 16
"""Fewer are an answer that ended by itself: they measure the first token more than the speed."""
BENCHMARK_TIMEOUT_S = 60.0
EVIDENCE_BYTES_MAX = 5 * 1024
"""Of all documents that a node shows: its statement must fit a gossip message."""

# --- reaching hidden nodes --------------------------------------------------------------------
GATEWAY_STATEMENT_INTERVAL_S = 30.0
GATEWAY_STATEMENT_LIFETIME_S = 120.0
"""Four statements: a gateway that is gone stops being dialled two minutes later."""
GATEWAYS_KNOWN_MAX = 1024
"""A statement has about 700 bytes, and each gateway has a certificate of the authority."""
REACH_TIMEOUT_S = 3.0
"""Of one dial back: a home router that drops packets never answers."""
RELAY_ANSWER_TIMEOUT_S = 5.0
RELAY_RESERVATIONS_MAX = 256
RELAY_CIRCUITS_MAX = 256
RELAY_CIRCUITS_PER_NODE_MAX = 16
"""A node has one circuit from each gateway that cannot be dialled."""
RELAY_CIRCUITS_PER_PAIR_MAX = 2
"""The second replaces one that is lost and not noticed yet; more would take those of others."""
RELAY_CIRCUIT_BYTES_MAX = 256 << 20
RELAY_CIRCUIT_S_MAX = 4 * 3600.0
"""A circuit that is cut is made again; its jobs are resumed."""
RELAY_BYTES_PER_DAY_MAX = 64 << 30
"""About 400,000 answers of 500 tokens."""
RELAY_NODE_SHARE = 4
"""One node may use up at most this part of a day's bytes, the nodes of one /24 (IPv6: /48) of the
internet this part of the reservations: a node's identity costs nothing."""
RELAY_NODES_PER_DAY_MAX = 10_000
"""Nodes whose bytes are counted apart; more are not relayed that day."""

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
