"""Owns the bounds of the model store, each with its reason."""

from __future__ import annotations

# --- folder -----------------------------------------------------------------------------------
MODELS_MAX = 1024
MANIFEST_BYTES_MAX = 64 * 1024
"""A manifest has about 1.5 kB."""
REASON_CHARACTERS_MAX = 500
SOURCE_CHARACTERS_MAX = 1000
LOCK_WAIT_S = 10.0
LOCK_RETRY_S = 0.05
"""The lock is held for renames and small writes, never while a file is read or downloaded."""
DISK_RESERVE_BYTES = 256 << 20
"""Left free on the disk whatever the limit says: the node's journals and logs live there too."""

# --- downloads --------------------------------------------------------------------------------
URL_CHARACTERS_MAX = 4096
REDIRECTS_MAX = 5
"""Model hubs need two: a renamed repository, then the content network."""
CONNECT_TIMEOUT_S = 15.0
STALL_TIMEOUT_S = 30.0
"""Nothing at all arrives for so long: the connection is given up and a new one continues."""
SLOW_WINDOW_S = 60.0
SLOW_BYTES_PER_S_MIN = 1024
"""Less than this over the window is a stall too: a server that drips must not hold us for ever."""
ATTEMPTS_WITHOUT_PROGRESS_MAX = 6
PROGRESS_BYTES_MIN = 64 << 10
"""Less than this is no progress: a server could give a byte at each attempt."""
RETRY_PAUSE_S_MIN = 1.0
RETRY_PAUSE_S_MAX = 30.0
"""The pause doubles from the smaller; progress begins it again."""
RETRY_AFTER_S_MAX = 120.0
DOWNLOAD_READ_BYTES = 1 << 20
ROOM_BYTES = 16 << 20
"""What may be written before the room on the disk is looked at again."""
DURABLE_EVERY_BYTES = 64 << 20
"""A power cut loses at most so much of a download."""
PART_STATE_BYTES_MAX = 16 * 1024
ETAG_CHARACTERS_MAX = 256
SIZE_BYTES_MAX = 1 << 43
"""8 TiB: no model file is larger; a length beyond it is a lie."""

# --- hub --------------------------------------------------------------------------------------
HUB_ENDPOINT_DEFAULT = "https://huggingface.co"
HUB_ANSWER_BYTES_MAX = 16 << 20
"""A repository with thousands of files answers with a few megabytes."""
HUB_FILES_MAX = 20_000
HUB_NAME_CHARACTERS_MAX = 96
"""Of an owner or a repository (the hub's own limit)."""
HUB_FILE_CHARACTERS_MAX = 512
HUB_CHOICES_SHOWN_MAX = 12
TOKEN_FILE_BYTES_MAX = 4096
TOKEN_CHARACTERS_MAX = 1024
