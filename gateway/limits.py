"""Owns the bounds of the gateway, each with its reason."""

from __future__ import annotations

from p2p.limits import REQUEST_BYTES_MAX, SESSION_SILENCE_S_MAX

# --- HTTP -------------------------------------------------------------------------------------
BODY_BYTES_MAX = 2 << 20
"""The text of a request that fits an offer (768 KiB) may double in JSON escapes."""
HEAD_BYTES_MAX = 32 * 1024
"""Request line and headers; uvicorn's fast parser has no bound of its own."""
HEAD_TIMEOUT_S = 20.0
"""A client that does not finish its headers or body in this time holds a connection for nothing."""
CONNECTIONS_MAX = 8192
"""Above REQUESTS_IN_FLIGHT_MAX, so that a client is refused in a shape that it understands."""
CLIENT_WRITE_TIMEOUT_S = 30.0
"""A client that reads nothing for this long is gone: its job stops costing money."""
KEEP_ALIVE_S = 75
"""Longer than the idle time of usual proxies and HTTP clients, so that they close first."""
COURIER_BODY_BYTES_MAX = 64 * 1024
COURIER_RATE_PER_S = 5.0
COURIER_BURST = 40.0
COURIER_CLIENTS_MAX = 4096
SUBCLOUD_BODY_BYTES_MAX = 512 * 1024
"""A policy (128 KiB) with handovers and the keys of its accounts, in base64."""
SUBCLOUD_CANDIDATES_MAX = 200
SUBCLOUD_RATE_PER_S = 10.0
SUBCLOUD_BURST = 80.0
"""A steward of ten subclouds, and a person beside it, at one address."""
UNKNOWN_SIGNERS_PER_S, UNKNOWN_SIGNERS_BURST = 0.5, 30.0
"""Documents for the bootstraps that no delegate known here signed; they take 2/s of a gateway."""
USAGE_ROWS_MAX = 20_000
"""Ten pages of the ledger: a key with ten models for five years."""
STATUS_CACHE_S = 1.0
"""Public pages are computed at most once a second, however often they are asked for."""

# --- bridge -----------------------------------------------------------------------------------
REQUESTS_IN_FLIGHT_MAX = 4096
PIPE_EVENTS_MAX = 65_536
"""More than a job of 64 Ki tokens can make, one event each; a job that goes beyond is broken
off."""

# --- jobs -------------------------------------------------------------------------------------
ATTEMPTS_PER_JOB_MAX = 6
"""Below the eight legs of a capture; after six nodes the seventh would fail too."""
ACCEPT_TIMEOUT_S = 5.0
"""A node counts the tokens of a prompt in milliseconds; a node busier than this is avoided."""
FIRST_TOKEN_TIMEOUT_S = 30.0
FIRST_TOKEN_TIMEOUT_PER_TOKEN_S = 0.02
"""Beside the fixed time: 50 prompt tokens a second is slow even for a small computer."""
STALL_TIMEOUT_S = 30.0
"""Between two outputs of one attempt; a dead or frozen agent is noticed sooner by its session."""
TICK_S = 0.25
"""How often deadlines of running jobs are looked at: one task for all of them."""
DELIVERY_INTERVAL_S = 2.0
"""DESIGN.md decision 3."""
TEXT_BYTES_PER_TOKEN_MAX = 512
"""No vocabulary has longer tokens; bounds what a node can make us buffer."""
TEXT_BYTES_SLACK = 4096
OUTPUT_TOKENS_PER_JOB_MAX = 65_536
"""What an offer can carry as `resume_tokens`, so that any job can be continued elsewhere."""
LOGPROBS_PER_JOB_MAX = 131_072
"""Tokens and their alternatives, which are kept until a whole answer is written: about 20 MB."""
LOGPROB_BYTES_MEAN_MAX = 64
"""Of the texts of tokens and alternatives, on average: long runs of spaces come near it. Each of
these bytes takes five in JSON."""
RETRY_AFTER_S = 2.0

# --- credit -----------------------------------------------------------------------------------
HOLD_OVERLAP_FACTOR = 4
"""The hold overlaps the offer if the cached balance is this many times the job's maximum."""
HOLD_MARGIN_S = 120.0
"""How long a hold outlives its job's deadline, so that a settlement survives a bootstrap's
restart."""
KEYS_CACHED_MAX = 50_000
KEY_REFUSAL_CACHE_S = 2.0
DISBELIEF_CACHE_S = 10.0
"""Grants that cannot be believed are looked at again soon, but not for every request."""
GRANTS_CHECK_INTERVAL_S = 300.0
"""A statement carries all grants of a namespace: too large to ask for with every lookup."""
SETTLE_BATCH_S = 0.02
"""Nobody waits for a settlement: at 300 jobs a second six of them share their frames."""
SETTLE_RETRY_S_MIN = 0.5
SETTLE_RETRY_S_MAX = 5.0
SETTLE_AT_ONCE_MAX = 32
"""Of those that are repeated: what goes into one call."""
SETTLE_WAITING_MAX = 10_000
"""Captures that wait for the ledger; beyond this new jobs are refused instead of working unpaid."""
JOURNAL_BYTES_MAX = 64 << 20
"""The journal is rewritten with what is still open when it has grown to this."""

# --- leases -----------------------------------------------------------------------------------
LEASE_DEMAND_S = 10.0
"""Two jobs of a key within this time make a lease worth its call."""
LEASE_JOBS_MIN = 4
LEASE_JOBS_MAX = 64
"""A lease covers at least and at most so many jobs like the one that it is asked for."""
LEASE_SHARE_OF_BALANCE = 8
"""At most this part of the balance goes into one lease: the rest serves other gateways and keys."""
LEASE_IDLE_S = 30.0
LEASE_PAUSE_S = 10.0
"""After a lease was refused, or wanted back, its key's jobs take ordinary holds for a while."""
LEASE_LOOK_S = 1.0
LEASES_PER_KEY_MAX = 16
"""Of one key and model, those that only settle included: the balance's share shrinks with each."""
LEASE_KEYS_MAX = 50_000
LEASE_TASKS_MAX = 1024
LEASE_RETURNS_AT_ONCE = 16
LEASES_SHOWN_PER_SESSION_MAX = 128
"""A node keeps twice as many: what was shown to it once need not be sent again."""
LEASE_UNKNOWN_PAUSE_S_MIN = 5.0
LEASE_UNKNOWN_PAUSE_S_MAX = 300.0
"""A lease whose grant was lost may still reach the ledger: its return is repeated, ever slower,
until the lease's time is over."""
NOTICES_REMEMBERED_MAX = 4096
"""Ledger notices of the last two minutes (a bootstrap gives a few in a second): 400 kB."""
CUT_OFF_RECORD_S = 2.0
"""A key's record that the ledger does not renew serves this much longer while a lease is open."""
CREDIT_LEASED_WAIT_S = 2.0
"""How long a hold is repeated while other gateways give leased credit back."""
CREDIT_LEASED_PAUSE_S = 0.1
STOP_RETURN_S = 1.5
"""Beside the grace: leases go back; what cannot is in the journal, and ends by itself."""

# --- sessions ---------------------------------------------------------------------------------
SESSIONS_MAX = 256
"""The working set: a session costs a heartbeat every two seconds on both sides."""
SESSION_PAUSE_S_MIN = 0.2
SESSION_PAUSE_S_MAX = 5.0
"""Cut short when the node is heard of again."""
RELAY_PATIENCE_S = 3.0
"""A hidden node gets this long to dial us before its relay is used."""
RETIRED_SESSION_LINGER_S = 1.0
"""After its last attempt: the last count of what was delivered still goes over it."""
DIRECT_RETRY_S = 30.0
"""How often a node that is reached through a relay is dialled directly."""
REACH_CHECK_INTERVAL_S = 600.0
"""Routers and addresses change; a new link to a bootstrap asks at once."""
NODE_PENALTY_S = 15.0
"""A node that lost a job is the last choice for this long (filters keep it only if nobody else is
left)."""
DISCOVERY_INTERVAL_S = 20.0
PROVIDERS_DIALLED_MAX = 16

# --- subclouds ----------------------------------------------------------------------------------
LEAVES_REMEMBERED_MAX = 50_000
"""Nodes that left a subcloud or were removed from it: a cooldown is kept for each."""
STATEMENTS_PER_SESSION_PER_S = 1.0
STATEMENTS_PER_SESSION_BURST = 20.0
"""A statement costs half a millisecond to verify and judge; more often than this none changes."""
SUBCLOUD_TICK_S = 1.0
"""How often time alone is looked at: expired statements, who is beyond the number of members."""
DENIAL_S = 10.0
"""A node that says that it is no member, or left the global pool, is believed for so long; then
what it signed counts again."""
EXPLANATION_CACHE_S = 1.0
"""Counting why members do not qualify looks at all of them: at most once a second for a model."""
EXPLANATIONS_CACHED_MAX = 4096
NODES_AT_ONCE_MAX = 100
"""So many nodes are judged anew before other work has its turn: about ten milliseconds."""
NAME_MISSING_CACHE_S = 5.0
"""A name that no bootstrap knows is not asked for again at once."""
NAMES_CACHED_MAX = 10_000
NAME_LOOKUPS_MAX = 16
"""At the same time: unknown names must not crowd out other calls."""
SUBCLOUD_PAGES_CACHED_MAX = 256
SUBCLOUDS_LISTED_MAX = 1000
SUBCLOUD_VIEW_MEMBERS_MAX = 2000
"""Of a public page, and of an owner's view: a few hundred kilobytes of JSON."""
JOINS_INTERVAL_S = 30.0
"""How often a bootstrap is asked since when members are in, where a cooldown or a number counts."""

# --- the ledger's log -------------------------------------------------------------------------
LOG_POLL_S = 5.0
"""Gossip tells of a new checkpoint every ten seconds; asking finds what gossip does not carry."""

# --- evidence about nodes -----------------------------------------------------------------------
GEOIP_FILE_BYTES_MAX = 256 << 20
"""Kept in memory; files of countries have 4 to 10 MB, those of cities 60 to 130."""
GEOIP_LOOK_S = 30.0
GEOIP_CACHE_ENTRIES_MAX = 4096
OWN_BENCHMARKS_PER_NODE_MAX = 16
BENCHMARK_LOOK_S = 5.0
BENCHMARK_RETRY_S = 600.0
"""After a timed job that failed, or a node that was too busy for one."""
BENCHMARK_TRIES_KEPT_MAX = 10_000

# --- conduct of members -------------------------------------------------------------------------
CONDUCT_INTERVAL_S = 20.0
"""The ledger counts by minutes; only policies that ask for trust or service are asked about."""
CONDUCT_MEMBERS_MAX = 10_000
CONDUCT_OVERLAP_MS = 120_000
"""A minute that was not over when it was asked for, and clocks that differ."""
CONDUCT_SILENCE_MS_MAX = 3_600_000
CONDUCT_PAGES_MAX = 100
CONDUCT_REPUTATIONS_PER_ROUND = 200
"""Each is a month of counts that the ledger adds up."""

# --- stopping ---------------------------------------------------------------------------------
STOP_GRACE_S = 10.0
"""How long running streams may go on after SIGTERM when the settings do not say."""
STOP_SETTLE_S = 3.0
"""Beside the grace: what was delivered is captured; what cannot be captured now is in the
journal."""

assert BODY_BYTES_MAX >= 2 * REQUEST_BYTES_MAX
assert SESSION_SILENCE_S_MAX < 15.0
