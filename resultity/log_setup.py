"""Owns how every process logs: one line for each record, to stderr and to a file of bounded size.

Prompts, answers and secrets are never passed to a logger; that is the callers' duty. What happens
here: line breaks inside a record are escaped, so that one record is one line, and tracebacks go to
the file only (to stderr as well with RESULTITY_DEBUG=1).
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import time
from pathlib import Path

LOG_BYTES_MAX = 5_000_000
LOG_FILES_MAX = 3
"""One file and two older ones: 15 MB for each process, whatever happens."""
LEVELS = ("debug", "info", "warning", "error")
NOISY_LOGGERS = (
    "alembic",
    "libp2p",
    "multiaddr",
    "multihash",
    "cid",
    "httpx",
    "httpx2",
    "httpcore",
    "openai",
)


def debug_wanted() -> bool:
    """Tell whether the operator asked for tracebacks (RESULTITY_DEBUG=1)."""
    return os.environ.get("RESULTITY_DEBUG", "") not in ("", "0")


# Texts of peers and clients reach the log: none of them may move a reader's cursor or start a line.
_CONTROL_CHARACTERS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)
} | {10: "\\n", 13: "\\r", 9: "\\t"}


class LineFormatter(logging.Formatter):
    """Formats a record as `time level logger: message`, in one line, in UTC."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._tracebacks = tracebacks

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Give the time of a record in UTC, with milliseconds."""
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{whole}.{int(record.msecs):03d}Z"

    def format(self, record: logging.LogRecord) -> str:
        """Give the line; a traceback follows with its line breaks escaped, if it is wanted."""
        cause, cached = record.exc_info, record.exc_text
        record.exc_info, record.exc_text = None, None
        line = super().format(record)
        record.exc_info, record.exc_text = cause, cached
        if cause and cause[0] is not None:
            if self._tracebacks:
                line += " | " + self.formatException(cause)
            else:
                line += f" ({cause[0].__name__}: {cause[1]})"
        return line.translate(_CONTROL_CHARACTERS)


class BoundedFileHandler(logging.handlers.RotatingFileHandler):
    """A rotating file that knows its size instead of asking the file system for every record."""

    def shouldRollover(self, record: logging.LogRecord) -> int:
        """Tell whether the file would get too large; the record before this one may pass it."""
        return int(self.stream is not None and self.stream.tell() >= self.maxBytes)


def set_up_logging(level: str, log_file: Path | None, *, quiet: bool = False) -> None:
    """Send records to stderr and to a rotating file.

    Args:
        level: one of LEVELS; libp2p and HTTP libraries stay at warnings unless it is `debug`.
        log_file: made with its folder; None for stderr only.
        quiet: only errors on stderr.
    Raises: OSError if the file cannot be written.
    """
    handlers: list[logging.Handler] = []
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(LineFormatter(tracebacks=debug_wanted()))
    terminal.setLevel(logging.ERROR if quiet else logging.NOTSET)
    handlers.append(terminal)
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = BoundedFileHandler(
            log_file, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_MAX - 1, encoding="utf-8"
        )
        file.setFormatter(LineFormatter(tracebacks=True))
        handlers.append(file)
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)
    logging.captureWarnings(True)
    # Not in the format: a quarter of a record's cost.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if sys.version_info >= (3, 12):
        logging.logAsyncioTasks = False
    if level != "debug":
        for name in NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
