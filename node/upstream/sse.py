"""Owns the reading of server-sent events, bounded in line and in all. Pure.

Source: WHATWG HTML, "Server-sent events", the parsing of an event stream. Only `data` matters to
OpenAI's API; events are separated by empty lines, lines end with LF, CRLF or CR. An event that the
stream's end cuts off is none.
"""

from __future__ import annotations

from node.upstream.errors import BrokenAnswerError
from node.upstream.limits import SSE_LINE_BYTES_MAX

DONE = "[DONE]"
_BOM = b"\xef\xbb\xbf"


class EventReader:
    """Gives the data of each event of one stream."""

    def __init__(self, total_bytes_max: int, line_bytes_max: int = SSE_LINE_BYTES_MAX) -> None:
        """Bound the whole stream, and one event's line (and its lines together)."""
        self._total_bytes_max = total_bytes_max
        self._line_bytes_max = line_bytes_max
        self._total_bytes = 0
        self._pending = b""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._begun = False
        self._after_cr = False

    def feed(self, data: bytes) -> list[str]:
        """Take what came; give the data of the events that it completes.

        Raises: BrokenAnswerError if a bound is passed or it is not UTF-8.
        """
        self._total_bytes += len(data)
        if self._total_bytes > self._total_bytes_max:
            raise BrokenAnswerError("is longer than its tokens can make")
        if self._after_cr and data:
            data = data.removeprefix(b"\n")  # the second half of a line's end
            self._after_cr = False
        if data.endswith(b"\r"):
            self._after_cr = True
        text = self._pending + data
        if not self._begun:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                self._pending = text
                return []
            text = text.removeprefix(_BOM)
            self._begun = True
        *lines, self._pending = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(self._pending) > self._line_bytes_max:
            raise BrokenAnswerError("has too long a line")
        events = []
        for line in lines:
            event = self._take(line)
            if event is not None:
                events.append(event)
        return events

    def _take(self, line: bytes) -> str | None:
        if len(line) > self._line_bytes_max:
            raise BrokenAnswerError("has too long a line")
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._data_bytes += len(value) + 1
                if self._data_bytes > self._line_bytes_max:
                    raise BrokenAnswerError("has too long an event")
            return None
        if not self._data:
            return None
        whole = b"\n".join(self._data)
        self._data, self._data_bytes = [], 0
        try:
            return whole.decode()
        except UnicodeDecodeError as error:
            raise BrokenAnswerError("is not UTF-8") from error
