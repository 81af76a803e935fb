"""Owns the resumable download of one file over HTTP.

Theory of operation. Each attempt asks for the bytes that are still missing (RFC 9110, Range with
If-Range) and appends what comes. Whatever breaks, what was received stays, and the next attempt, or
the next run, goes on from there. A server that sends the file from its beginning nevertheless is
taken at its word: what is there already is compared instead of written, so a server without ranges
costs time but no progress, and a file that changed meanwhile is noticed at its first other byte.
What the server says of length and content is never believed: bytes are counted against the store's
limits while they are written, and hashed.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from node.model_file import Progress
from node.store.errors import DownloadError, StoreFullError
from node.store.folders import DiskRoom
from node.store.http_client import Asking, ask, refuse_status
from node.store.limits import (
    ATTEMPTS_WITHOUT_PROGRESS_MAX,
    ETAG_CHARACTERS_MAX,
    PROGRESS_BYTES_MIN,
    RETRY_PAUSE_S_MAX,
    RETRY_PAUSE_S_MIN,
    ROOM_BYTES,
    SIZE_BYTES_MAX,
    SLOW_BYTES_PER_S_MIN,
    SLOW_WINDOW_S,
)
from node.store.part_file import PartFile

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,16})-(\d{1,16})|\*)/(\d{1,16}|\*)")
Log = Callable[[str], None]
_CHANGED = (
    "the file behind the URL changed since the first {size:,} bytes of it were downloaded: "
    "these are kept; --restart forgets them and begins again"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The file that is wanted, and what is known of it from elsewhere.

    `size_bytes` 0 and `digest` None: unknown.
    """

    asking: Asking
    shown: str
    size_bytes: int = 0
    digest: bytes | None = None


@dataclass(slots=True)
class Downloader:
    """Downloads with one client; clock and pauses are arguments for the tests' sake."""

    client: httpx.Client
    room: DiskRoom
    progress: Progress
    say: Log
    pause: Callable[[float], None] = time.sleep
    clock_s: Callable[[], float] = time.monotonic

    def fetch(self, wanted: Wanted, part: PartFile) -> None:
        """Download until the part is complete.

        Raises: DownloadError, StoreFullError, SourceError; what was received stays in the part.
        """
        failures = 0
        while True:
            before = part.size_bytes
            try:
                self._attempt(wanted, part)
                part.sync()
                return
            except DownloadError as error:
                progressed = part.size_bytes - before >= PROGRESS_BYTES_MIN
                failures = 1 if progressed else failures + 1
                if not error.retry:
                    raise
                if failures >= ATTEMPTS_WITHOUT_PROGRESS_MAX:
                    raise DownloadError(
                        f"{error}; {part.size_bytes:,} bytes are kept, the same command goes on"
                    ) from error
                pause_s = min(RETRY_PAUSE_S_MIN * 2 ** (failures - 1), RETRY_PAUSE_S_MAX)
                pause_s = max(pause_s, error.retry_after_s)
                self.say(f"{error}; trying again in {pause_s:.0f} s from {part.size_bytes:,} bytes")
                self.pause(pause_s)

    def _attempt(self, wanted: Wanted, part: PartFile) -> None:
        state = part.state
        if part.size_bytes and part.size_bytes == state.size_bytes:
            return  # complete: only what came after it was missing
        headers = {}
        if part.size_bytes and (state.validator or wanted.digest):
            # Without either nothing would tell another file's end from this one's: then the
            # answer begins at the beginning, and is compared.
            headers["Range"] = f"bytes={part.size_bytes}-"
            if wanted.digest is None:
                headers["If-Range"] = state.validator
        with ask(self.client, wanted.asking, headers) as response:
            if response.status_code == 416 and part.size_bytes:
                raise DownloadError(
                    f"the server has no more than {part.size_bytes:,} bytes of {wanted.shown}, but "
                    f"said {state.size_bytes:,} before: --restart begins again"
                )
            refuse_status(response, wanted.shown)
            start, size = _place_of(response, part)
            self._check_same(wanted, part, response, size)
            if not part.size_bytes:
                validator = _validator(response)
                part.remember(dataclasses.replace(state, validator=validator, size_bytes=size))
            self.room.check(max(0, size - part.size_bytes), wanted.shown)
            self._take(wanted, part, response, start, size)

    def _check_same(
        self, wanted: Wanted, part: PartFile, response: httpx.Response, size: int
    ) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise DownloadError(f"the server sends {wanted.shown} encoded, which was not asked for")
        if size > SIZE_BYTES_MAX:
            raise DownloadError(f"the server claims that {wanted.shown} has {size:,} bytes")
        if wanted.size_bytes and size and size != wanted.size_bytes:
            raise DownloadError(
                f"{wanted.shown} has {size:,} bytes, but should have {wanted.size_bytes:,}"
            )
        if part.size_bytes:
            if size and part.state.size_bytes and size != part.state.size_bytes:
                raise _changed(part)
            # With a digest in hand another validator proves nothing: mirrors differ in it.
            found = _validator(response)
            if wanted.digest is None and found != part.state.validator:
                raise _changed(part)

    def _take(
        self, wanted: Wanted, part: PartFile, response: httpx.Response, start: int, size: int
    ) -> None:
        position, room_left = start, 0
        window_start_s, window_position = self.clock_s(), start
        for data in response.iter_raw():
            known = max(0, min(len(data), part.size_bytes - position))
            if known and not part.compare(position, data[:known]):
                raise _changed(part)
            fresh = data[known:]
            if size and part.size_bytes + len(fresh) > size:
                raise DownloadError(f"the server sends more than the {size:,} bytes that it said")
            if len(fresh) > room_left:
                room_left = min(self.room.left(), ROOM_BYTES)
                if len(fresh) > room_left:
                    self.room.check(len(fresh), wanted.shown)
                    raise StoreFullError(f"no room left for {wanted.shown}")
            part.write(fresh)
            room_left -= len(fresh)
            position += len(data)
            self.progress(position, size)
            now_s = self.clock_s()
            if now_s - window_start_s >= SLOW_WINDOW_S:
                if position - window_position < SLOW_BYTES_PER_S_MIN * SLOW_WINDOW_S:
                    raise DownloadError(f"{wanted.shown} comes too slowly", retry=True)
                window_start_s, window_position = now_s, position
        if size and part.size_bytes < size:
            raise DownloadError(
                f"{wanted.shown} ended after {part.size_bytes:,} of {size:,} bytes", retry=True
            )
        if position < part.size_bytes:
            raise _changed(part)
        if not size:
            part.remember(dataclasses.replace(part.state, size_bytes=part.size_bytes))


def _place_of(response: httpx.Response, part: PartFile) -> tuple[int, int]:
    """Tell where the answer's body begins in the file, and how long the file is (0: unknown)."""
    length = response.headers.get("content-length", "")
    if response.status_code == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if found is None or found[1] is None or int(found[1]) != part.size_bytes:
            raise DownloadError("the server sends another part of the file than was asked for")
        return part.size_bytes, 0 if found[3] == "*" else int(found[3])
    if response.status_code != 200:
        raise DownloadError(f"the server answers {response.status_code} to a download")
    if length.isdecimal():
        return 0, int(length)
    if response.headers.get("transfer-encoding", "").lower() == "chunked":
        return 0, 0
    raise DownloadError("the server does not say how long the file is: it may end anywhere")


def _validator(response: httpx.Response) -> str:
    """Give what `If-Range` takes: a strong ETag, or else the time of the last change."""
    etag = str(response.headers.get("etag", ""))
    if etag.startswith('"') and len(etag) <= ETAG_CHARACTERS_MAX:
        return etag
    changed = str(response.headers.get("last-modified", ""))
    return changed if len(changed) <= ETAG_CHARACTERS_MAX else ""


def _changed(part: PartFile) -> DownloadError:
    return DownloadError(_CHANGED.format(size=part.size_bytes))
