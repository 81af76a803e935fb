"""Owns the bounds of the node, each with its reason."""

from __future__ import annotations

# --- pipe between agent and runtime -----------------------------------------------------------
PIPE_FRAME_BYTES_MAX = 4 << 20
"""A Prepare holds a request (768 KiB) and 65,536 resumed tokens of up to 5 bytes each."""
PIPE_READ_BYTES = 1 << 16
PIPE_BATCH_BYTES_MAX = 2 << 20
"""What is waiting is put into one frame up to this estimate, so that no frame gets too large."""
RUNTIME_JOBS_MAX = 256
"""Jobs inside the runtime in any state: more would only wait and lose their deadline."""
RESUME_TOKENS_MAX = 65_536
RUNTIME_TEXT_CHARACTERS_MAX = 1024

# --- requests ---------------------------------------------------------------------------------
PROMPT_CHARACTERS_MAX = 4 << 20
"""A rendered prompt. Templates add little; a template that multiplies its input is stopped here."""
PROMPT_CONTROL_TOKENS_MAX = 16_384
"""Four for each of the messages that a gateway takes; llama.cpp needs 0.3 s for so many, and the
square of it for more."""
CHAT_TEMPLATE_BYTES_MAX = 256 * 1024
"""The longest published templates have about 20 kB."""
STOP_STRINGS_MAX = 16
STOP_CHARACTERS_MAX = 256
"""OpenAI allows 4 stop strings; each one costs a search per token."""
LOGIT_BIAS_ENTRIES_MAX = 1024
TOP_K_MAX = 1_000_000
SCHEMA_CHARACTERS_MAX = 16 * 1024
SCHEMA_NODES_MAX = 512
SCHEMA_DEPTH_MAX = 16
SCHEMA_READINGS_MAX = 512
"""Readings of an answer that a grammar follows side by side (measured: 1024 make a step take 80 ms
for a vocabulary of 512, 65,536 more than a minute)."""
SCHEMA_REPEAT_MAX = 2000
"""llama.cpp's own threshold (MAX_REPETITION_THRESHOLD in llama-grammar.cpp)."""
GRAMMAR_CHARACTERS_MAX = 256 * 1024
TOOLS_MAX = 128
"""OpenAI's own limit."""
FORCED_CALLS_MAX = 8
"""Calls in one forced answer: a small model would go on until its answer's limit."""

# --- engine -----------------------------------------------------------------------------------
SLOTS_DEFAULT = 4
SLOTS_MAX = 256
CONTEXT_TOKENS_DEFAULT = 8192
"""Cap on a sequence's context: the KV cache is reserved for slots x context at start."""
CONTEXT_TOKENS_MAX = 1 << 20
REPRODUCIBLE_UBATCH_TOKENS = 32
"""From 64 rows a ubatch takes another attention kernel whose sums differ (measured on CPU)."""
THROUGHPUT_UBATCH_TOKENS = 512
"""llama.cpp's own default."""
REPRODUCIBLE, THROUGHPUT = "reproducible", "throughput"
MODES = ("auto", REPRODUCIBLE, THROUGHPUT)
GPU_LAYERS_MAX = 10_000
GPUS_MAX = 16
SLOTS_MEASURED_MAX = 32
"""The most slots that a measurement gives a model; an operator can ask for more."""
MODEL_CACHE_SHARE = 0.25
"""Of the memory for all models: for the caches of one whose slots the runtime decides."""
MEASURE_S_MAX = 1.0
"""A start may take this much longer, once for each model, build and machine."""
CACHE_MEMORY_SHARE = 0.5
"""Of the memory that is free when a model is opened: for its sequences' caches."""
CACHE_REUSE_TOKENS_MIN = 16
"""A shorter common beginning (usually only the template's) is not worth losing the best slot."""
CACHE_COPY_TOKENS_MIN = 32
"""From a running job: llama.cpp copies a sequence's whole cache, however little of it is used."""
CACHE_SCOPE_BYTES = 16
PREFILL_TOKENS_PER_STEP_MAX = 128
"""Prompt tokens in one step: a longer chunk would stall the sequences that are generating."""
PREFILL_TOKENS_PER_GPU_STEP_MAX = 512
"""With layers on a GPU: small chunks leave it idle."""

EMBEDDING_CONTEXT_TOKENS_MAX = 8192
"""The longest text of an embeddings request (OpenAI's models take 8,191 tokens)."""
EMBEDDING_CACHE_TOKENS = 16_384
"""Room of the context for embeddings, shared out among its sequences: at least two texts."""
EMBEDDING_SEQUENCES_MAX = 16
EMBEDDING_TEXT_BYTES_PER_STEP = 256 * 1024
"""Vectors that leave in one step, of all jobs: far below a frame of the pipe."""

# --- supervision ------------------------------------------------------------------------------
RUNTIME_READY_TIMEOUT_S = 600.0
"""Loading tens of gigabytes from a slow disk takes minutes."""
RUNTIME_PING_INTERVAL_S = 1.0
RUNTIME_SILENCE_S_MIN = 8.0
"""With what a session allows, a frozen runtime is replaced and its jobs go on within 15 s."""
RUNTIME_SILENCE_S_MAX = 30.0
"""The engine answers between steps; a step is at most 128 prompt tokens, seconds on a slow CPU."""
RUNTIME_PREPARE_TIMEOUT_S = 20.0
RUNTIME_START_TIMEOUT_S = 30.0
"""A prepared job that nobody starts (no voucher came) is dropped after this time."""
RUNTIME_STOP_TIMEOUT_S = 2.0
RUNTIME_SELF_TEST_TIMEOUT_S = 120.0
RUNTIME_BACKOFF_S_MIN = 0.2
RUNTIME_BACKOFF_S_MAX = 30.0
"""The pause doubles from the smaller while the runtime dies before it served for a minute."""
RUNTIME_HEALTHY_S = 60.0

# --- model files ------------------------------------------------------------------------------
GGUF_METADATA_ENTRIES_MAX = 4096
GGUF_TENSORS_MAX = 65_536
GGUF_KEY_BYTES_MAX = 256
GGUF_STRING_BYTES_MAX = 1 << 20
GGUF_ARRAY_ELEMENTS_MAX = 4_000_000
"""Of all arrays together. Vocabularies have up to 262,144 entries in three or four arrays, merge
lists about twice as many."""
GGUF_KEPT_BYTES_MAX = 8 << 20
"""Of all keys and texts together, which stay in memory; known files have less than 100 kB."""
GGUF_HEADER_BYTES_MAX = 256 << 20
MODEL_READ_BYTES = 4 << 20

# --- job sessions -----------------------------------------------------------------------------
SESSION_ATTEMPTS_MAX = 4096
"""Attempts of one gateway in any state; those that ended wait here for their delivery count."""
LEASES_KEPT_PER_SESSION_MAX = 256
"""Twice what a gateway counts on (gateway.limits.LEASES_SHOWN_PER_SESSION_MAX)."""
LEASES_REMEMBERED_MAX = 20_000
"""Over all sessions, until they end; a gateway would have to be granted as many meanwhile."""
LEASE_FULL_RETRY_S = 1.0
"""With a refusal for this lease only: the next lease is as good as a voucher."""
VOUCHER_WAIT_S = 10.0
"""A hold is answered in milliseconds; after this the slot is worth more to somebody else."""
DELIVERY_WAIT_S = 30.0
LOAD_REPORT_INTERVAL_S = 0.2
"""Load changes with every job; more often than this it is not worth a frame."""

# --- several models ---------------------------------------------------------------------------
MODEL_WAIT_S_MAX = 120.0
"""An offer waits so long for its model to be loaded, if its deadline allows."""
MODEL_LOAD_BYTES_PER_S = 200e6
"""How fast a model is thought to load before it was measured: a fast disk, not in memory yet."""
MODEL_LOAD_S_MIN = 1.0
MODEL_RETRY_S_MIN = 5.0
MODEL_RETRY_S_MAX = 600.0
"""A model that failed is tried again after a pause that doubles."""
HOURS_LOOK_INTERVAL_S = 5.0
"""How late adverts follow the operator's hours; offers are judged by the hours themselves."""
SHELF_LOOK_INTERVAL_S = 2.0
"""How often the store is asked whether something changed: microseconds each time."""
MEMORY_SHARE_DEFAULT = 0.75
"""Of the machine's memory, for all models together; the rest is everybody else's."""
MEMORY_MEASURE_INTERVAL_S = 5.0
MEMORY_OVERHEAD_BYTES = 256 << 20
"""A runtime without its model: Python, its libraries, compute buffers (measured: 60 to 200 MB)."""

# --- the operator's view ----------------------------------------------------------------------
STATUS_INTERVAL_S = 1.0
EARNINGS_INTERVAL_S = 60.0
"""A question to the ledger: a sum over the account's entries."""

# --- directory --------------------------------------------------------------------------------
DIRECTORY_INTERVAL_S = 1800.0
DIRECTORY_RETRY_S = 5.0
DIRECTORY_ADVERT_LIFETIME_S = 7200.0
"""Four intervals: a node that cannot renew for a while stays findable, a dead one for two hours."""
MODEL_CHECK_INTERVAL_S = 0.5
"""A runtime that was restarted is back in service this long after it is ready."""

# --- claims -----------------------------------------------------------------------------------
OWED_ATTEMPTS_MAX = 20_000
"""Attempts that are not known to be settled: 300 a second for a minute, about 40 MB."""
OWED_JOURNAL_BYTES_MAX = 64 << 20
"""The journal is rewritten beyond this, which takes a fraction of a second."""
OWED_FLUSH_S = 0.2
"""A node that is killed forgets what it noted in this time."""
CLAIM_INTERVAL_S = 2.0
CLAIM_AFTER_END_S = 60.0
"""A gateway settles within seconds, or a minute after a bootstrap was restarted."""
CLAIM_AFTER_LOSS_S = 10.0
"""After a gateway's session was lost: one that is started again at once settles by itself."""
CLAIM_BEFORE_EXPIRY_S = 30.0
"""Of short holds: time to try several times before they end."""
CLAIM_RETRY_S = 10.0
SETTLE_UP_S = 5.0
"""Before a node ends: gateways that are there settle within a second or two."""
SETTLE_UP_INTERVAL_S = 0.25
CLAIM_PAID_WAIT_S = 15.0
"""After a claimed hold's end: its sweep comes every five seconds."""

# --- reaching -----------------------------------------------------------------------------------
REACH_CHECK_INTERVAL_S = 600.0
"""Routers and addresses change; a new bootstrap asks at once."""
REACH_RETRY_S = 60.0
"""After a bootstrap that could not say."""
GATEWAYS_ASK_INTERVAL_S = 20.0
"""A gateway that has moved is dialled at its new place within half a minute."""
GATEWAYS_DIALLED_MAX = 64
"""A connection costs both sides a ping every 15 s, a session a heartbeat every 2 s."""
OWN_GATEWAYS_DIALLED_MAX = 16
"""Of these, accounts' own gateways: anybody may have some, and they must not take all places."""
GATEWAY_PAUSE_S_MIN = 0.5
GATEWAY_PAUSE_S_MAX = 60.0
GATEWAY_STABLE_S = 10.0
"""A connection that held for this long is dialled again soon; one that did not, ever later."""
GATEWAY_MEMORY_MS = 3_600_000
"""After its last statement: gateways are found again while no bootstrap answers."""

# --- evidence about this node -------------------------------------------------------------------
EVIDENCE_DOCUMENTS_MAX = 64
"""Kept; a statement shows the best 16."""
EVIDENCE_FILE_BYTES_MAX = 64 * 1024
EVIDENCE_LOOK_S = 2.0
LANDMARKS_KEPT = 3
"""Two prove a country; the third stands in while one is down."""
LANDMARK_RETRY_S = 300.0
LANDMARK_FAR_RETRY_S = 900.0
"""After a round trip above the bound: this node is not near, or one of the two was busy."""
