"""Owns the bounds on talking to an upstream server, each with its reason."""

from __future__ import annotations

SSE_LINE_BYTES_MAX = 1 << 20
"""One event may hold a whole tool call, or a piece with the logprobs of many tokens."""
ANSWER_BYTES_MIN = 1 << 20
ANSWER_BYTES_PER_TOKEN_MAX = 8 << 10
"""An event about one token has 300 bytes, with its 20 likeliest tokens up to 3 kB."""
TEXT_BYTES_PER_TOKEN_MAX = 512
TEXT_BYTES_SLACK = 2048
"""The gateway ends attempts with more text than their tokens can make, at twice the slack."""
JSON_BYTES_MAX = 4 << 20
"""A list of models, or what a server says about itself."""
ERROR_BYTES_MAX = 64 << 10
CALLS_MAX = 128
"""Tool calls in one answer (OpenAI allows as many tools)."""
CONNECT_TIMEOUT_S = 5.0
"""The server is on this machine or near it."""
FIRST_BYTE_TIMEOUT_S = 300.0
"""A model may have to be loaded (Ollama, LM Studio), a long prompt to be read; the gateway's own
patience ends a job sooner."""
STALL_TIMEOUT_S = 30.0
"""Silence in the middle of an answer: the gateway waits no longer either."""
CLOSE_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 10.0
TEST_TIMEOUT_S = 300.0
"""The test inference may have to load the model."""
PROBE_INTERVAL_S = 15.0
BACKOFF_S_MIN = 0.5
BACKOFF_S_MAX = 30.0
"""The pause doubles from the smaller while the server does not answer."""
FAILURES_IN_A_ROW_MAX = 3
"""So many jobs that failed at the server one after the other: it is looked at before the next."""
PREPARED_S_MAX = 30.0
"""A prepared job that nobody starts is dropped after this time (as `RUNTIME_START_TIMEOUT_S`)."""
JOBS_MAX = 1024
SLOTS_DEFAULT = 4
KEY_BYTES_MAX = 4096
REASON_CHARACTERS_MAX = 300
