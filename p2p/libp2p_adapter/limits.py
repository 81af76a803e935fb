"""Owns the settings and bounds of the libp2p adapter, each with its reason."""

from __future__ import annotations

# --- multiplexer ------------------------------------------------------------------------------
STREAM_WINDOW_BYTES = 256 * 1024
"""A stream's first receive window: fixed by the yamux specification."""
STREAM_WINDOW_BYTES_MAX = 4 * 1024 * 1024
"""Where the window of a fast stream stops growing: 80 MB/s at 50 ms, and what a reader can owe."""
WINDOW_GROWS_WITHIN_S = 0.5
"""A window that is used up faster than this is doubled."""
MUXER_FRAME_BYTES_MAX = 65_507
"""Payload of a data frame: with its 12-byte header it fills one Noise message (65,519 bytes)."""
RECEIVE_BYTES_MAX = 64 * 1024
"""What one `receive_some` gives at most."""
OUTBOX_BYTES_MAX = 256 * 1024
"""Bytes of one connection that wait for the socket before senders wait too."""
OUTBOX_BYTES_FATAL = 4 * 1024 * 1024
"""Answers (pongs, acknowledgements) do not wait; a peer that makes us owe this much is dropped."""
STREAMS_OPEN_MAX = 4096
"""Streams that we have open on one connection; the library's 256 stop a busy gateway silently."""
STREAMS_ACCEPTED_MAX = 2048
"""Streams that one peer may have open at us on one connection; more are reset."""
WRITE_STALL_S_MAX = 20.0
"""A socket that takes nothing for this long belongs to a peer that is gone."""
STREAM_STALL_S_MAX = 5.0
"""A reader that leaves its window full for this long loses the stream (as py-libp2p does)."""
PING_INTERVAL_S = 15.0
CONNECTION_SILENCE_S_MAX = 40.0
"""No byte, not even a pong, for two and a half pings: the peer is unplugged."""
STREAM_LINGER_S = 60.0
"""How long a stream that we closed may stay half open before it is reset."""
CLOSE_FLUSH_S = 0.25
"""How long closing a connection waits for what is queued."""

# --- connections ------------------------------------------------------------------------------
CONNECTIONS_MAX = 1000
CONNECTIONS_PER_PEER_MAX = 4
"""Both sides may dial at once, and again while the old connections are still being noticed dead."""
CONNECTIONS_GREETING_MAX = 128
"""Inbound connections whose hello is not done; more are closed at once."""
STREAMS_WAITING_PER_CONNECTION_MAX = 64
"""Streams that arrive before the hello is done wait for it, this many."""
NEGOTIATION_TIMEOUT_S = 5.0
REFUSAL_LINGER_S = 0.5
"""A refused peer gets this long to read why before the connection is closed."""
PROTOCOL_NAME_BYTES_MAX = 256

# --- gossip -----------------------------------------------------------------------------------
MESH_DEGREE = 4
MESH_DEGREE_LOW = 3
MESH_DEGREE_HIGH = 8
"""v1.1 with D=4 costs 2.5 CPU-ms a message and peer, v1.2 with D=6 8.6 (measured)."""
GOSSIP_HEARTBEAT_S = 1
PRUNE_BACK_OFF_S = 5
UNSUBSCRIBE_BACK_OFF_S = 1
BACK_OFF_S_MAX = 60
"""A peer's PRUNE may not keep us away longer than this, whatever it asks."""
TOPICS_MAX = 64
"""Topics that this process subscribes to or publishes on (16 shards and a few more)."""
TOPICS_PER_PEER_MAX = 64
TOPICS_KNOWN_MAX = 1024
"""Topics that some peer said to be subscribed to."""
TOPIC_CHARACTERS_MAX = 256
RPC_BYTES_MAX = 256 * 1024
"""One gossip RPC: sixteen messages of the largest size."""
RPC_MESSAGES_MAX = 256
RPC_SUBSCRIPTIONS_MAX = 128
RPC_CONTROLS_MAX = 64
"""GRAFTs, PRUNEs, IHAVEs and IWANTs in one RPC, each kind: one for each topic there can be."""
RPC_MESSAGE_IDS_MAX = 512
"""Message IDs in the IHAVEs or IWANTs of one RPC."""
MESSAGE_ID_BYTES_MAX = 64
MESSAGES_PER_SECOND_PER_PEER = 500.0
MESSAGES_BURST_PER_PEER = 2000.0
"""Token bucket of messages that one peer forwards; what exceeds it is dropped unverified."""
CONTROLS_PER_SECOND_PER_PEER = 100.0
CONTROLS_BURST_PER_PEER = 1000.0
"""Token bucket of control entries (and subscriptions) of one peer."""
STRIKES_PER_SECOND = 1.0
GUARDS_KEPT_MAX = 4096
STRIKES_MAX = 50.0
"""RPCs over a limit that a peer gets away with; then its connection is closed."""
SEEN_S = 120.0
SEEN_MESSAGES_MAX = 100_000
"""IDs of 46 bytes: at most 20 MB; a network of 1,000 nodes makes 12,000 in two minutes."""
GOSSIP_QUEUE_RPCS_MAX = 1024
GOSSIP_QUEUE_BYTES_MAX = 4 * 1024 * 1024
"""What waits for one peer's gossip stream; more is dropped."""
GOSSIP_WRITE_BYTES = 64 * 1024
"""RPCs that wait are written together up to this size."""
IWANT_REPLY_BYTES_MAX = 128 * 1024
"""What one IWANT is answered with; the rest is offered again a heartbeat later."""
GOSSIP_RETRY_S = 1.0
GOSSIP_STREAMS_PER_PEER_MAX = 4
"""Inbound gossip streams of one peer: an old one may not have ended when the next comes."""
RECENT_MESSAGES_MAX = 2000
"""Kept for five heartbeats, for those who missed them: at most 32 MB."""
GOSSIP_JOBS_MAX = 10_000
"""Background tasks that wait to be started: two for each subscription that a peer announces."""

# --- directory --------------------------------------------------------------------------------
DIRECTORY_TIMEOUT_S = 10.0
"""One whole lookup or announcement; py-libp2p answers in 0.1 to 0.4 s among 20 peers."""
DIRECTORY_PEERS_MAX = 20
"""Peers closest to a key that keep it and are asked for it (Kademlia's k)."""
DIRECTORY_PEERS_ASKED_AT_ONCE = 10
DIRECTORY_STREAMS_MAX = 64
DIRECTORY_STREAMS_PER_PEER_MAX = 8
DIRECTORY_JOBS_MAX = 1000
PROVIDERS_PER_KEY_MAX = 64
"""Kept for each key; the newest stay, because dead ones are listed for two days."""
PROVIDED_KEYS_MAX = 4096
RECORD_BYTES_MAX = 16 * 1024
RECORD_KEY_BYTES_MAX = 48
"""In hexadecimal, with the namespace, it stays below the library's 128."""
RECORDS_KEPT_MAX = 4096
"""At most 64 MB, of records that members signed."""

# --- the whole --------------------------------------------------------------------------------
BACKGROUND_JOBS_MAX = 1000
CLOSE_TIMEOUT_S = 2.0
"""How long saying goodbye to all peers may take."""
