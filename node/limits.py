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
CACHE_REUSE_TOKENS_MIN = 16
"""A shorter common beginning (usually only the template's) is not worth losing the best slot."""
CACHE_SCOPE_BYTES = 16
PREFILL_TOKENS_PER_STEP_MAX = 128
"""Prompt tokens in one step: a longer chunk would stall the sequences that are generating."""

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
"""Vocabularies have up to 262,144 entries, merge lists about twice as many."""
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
CLAIM_PAID_WAIT_S = 15.0
"""After a claimed hold's end: its sweep comes every five seconds."""
