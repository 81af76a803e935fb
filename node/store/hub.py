"""Owns how a name on a model hub becomes a URL with a digest, by the hub's HTTP API.

    GET <endpoint>/api/models/<owner>/<repo>/revision/<revision>?blobs=true
        sha: the commit; siblings: the files (rfilename, size, lfs.sha256); cardData.license
    GET <endpoint>/<owner>/<repo>/resolve/<commit>/<file>
        the file itself, or a redirection to it, with x-linked-etag (the SHA-256) and x-linked-size

The commit is resolved once, and the file is downloaded from exactly that commit, so that a download
that takes days and several runs is of one file. Other hubs that answer the same can be named by the
endpoint.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from node.store.errors import DownloadError, SourceError
from node.store.http_client import Asking, ask, refuse_status
from node.store.http_download import Wanted
from node.store.limits import (
    HUB_ANSWER_BYTES_MAX,
    HUB_CHOICES_SHOWN_MAX,
    HUB_FILES_MAX,
    SIZE_BYTES_MAX,
)
from node.store.sources import HubSource, check_url, is_hub_file

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Hub:
    """A model hub; `token` is sent to it and to nobody else."""

    endpoint: str
    token: str | None = None

    def check(self) -> None:
        """Refuse an endpoint that cannot be asked safely. Raises: SourceError."""
        check_url(self.endpoint, allow_http=False)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file that was found; `source` names it with its commit."""

    wanted: Wanted
    source: str
    licence: str


def find_on_hub(client: httpx.Client, hub: Hub, source: HubSource) -> HubFile:
    """Ask the hub which file is meant, and what it is.

    Raises: DownloadError, SourceError that lists the files if the name does not say which.
    """
    hub.check()
    endpoint = hub.endpoint.rstrip("/")
    repository = f"{source.owner}/{source.repository}"
    revision = quote(source.revision, safe="")
    url = f"{endpoint}/api/models/{repository}/revision/{revision}?blobs=true"
    answer = _ask_json(client, Asking(url, token=hub.token), source.shown)
    commit = answer.get("sha")
    files = answer.get("siblings")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or not isinstance(files, list):
        raise DownloadError(f"the hub's answer for {source.shown} is not what its API documents")
    entry = _choose(source, files[:HUB_FILES_MAX])
    name = entry["rfilename"]
    asking = Asking(f"{endpoint}/{repository}/resolve/{commit}/{quote(name)}", token=hub.token)
    digest, size = _promised(entry)
    if digest is None:
        digest, size = _linked(client, asking, source.shown)
    wanted = Wanted(asking, source.shown, size, digest)
    return HubFile(wanted, f"hf:{repository}/{name}@{commit}", _licence(answer))


def _ask_json(client: httpx.Client, asking: Asking, shown: str) -> dict[str, Any]:
    with ask(client, asking) as response:
        if response.status_code in (401, 403):
            raise DownloadError(
                f"the hub answers {response.status_code} for {shown}: it is private, gated, or not "
                "there; accept its conditions on the hub and give a token "
                "(--hub-token-file or RESULTITY_NODE_HUB_TOKEN)"
            )
        refuse_status(response, shown)
        body = b""
        for data in response.iter_raw():
            body += data
            if len(body) > HUB_ANSWER_BYTES_MAX:
                raise DownloadError(f"the hub's answer for {shown} is too long")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DownloadError(f"the hub's answer for {shown} is not JSON") from error
    return answer if isinstance(answer, dict) else {}


def _choose(source: HubSource, files: list[Any]) -> dict[str, Any]:
    """Find the one file that is meant."""
    found: dict[str, dict[str, Any]] = {}
    for entry in files:
        name = entry.get("rfilename") if isinstance(entry, dict) else None
        if isinstance(name, str) and is_hub_file(name):
            found[name] = entry
    if source.file is not None:
        if source.file not in found:
            raise SourceError(f"{source.shown}: there is no such file; {_choices(found)}")
        if _SPLIT.search(source.file):
            raise SourceError(f"{source.shown} is a part of a split model: that is not supported")
        return found[source.file]
    whole = [
        name
        for name in found
        if not _SPLIT.search(name) and not name.rpartition("/")[2].lower().startswith("mmproj")
    ]
    if len(whole) != 1:
        raise SourceError(f"{source.shown} does not say which file is meant: {_choices(found)}")
    return found[whole[0]]


def _choices(found: dict[str, Any]) -> str:
    if not found:
        return "the repository has no GGUF files"
    names = sorted(found)
    more = len(names) - HUB_CHOICES_SHOWN_MAX
    rest = f" and {more} more" if more > 0 else ""
    return f"it has {', '.join(names[:HUB_CHOICES_SHOWN_MAX])}{rest}"


def _promised(entry: dict[str, Any]) -> tuple[bytes | None, int]:
    """What the list of files says of a file: its SHA-256, if it is a large one, and its length."""
    lfs = entry.get("lfs")
    if not isinstance(lfs, dict):
        return None, 0
    digest, size = lfs.get("sha256", lfs.get("oid")), lfs.get("size")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        return None, 0
    known = size if type(size) is int and 0 < size <= SIZE_BYTES_MAX else 0
    return bytes.fromhex(digest), known


def _linked(client: httpx.Client, asking: Asking, shown: str) -> tuple[bytes | None, int]:
    """What the file's own headers say, where the list said nothing."""
    head = Asking(asking.url, token=asking.token, method="HEAD", follow=False)
    with ask(client, head) as response:
        if not response.is_redirect:
            refuse_status(response, shown)
        digest = response.headers.get("x-linked-etag", "").strip('"')
        size = response.headers.get("x-linked-size", "")
    if not _SHA256.fullmatch(digest):
        return None, 0
    return bytes.fromhex(digest), int(size) if size.isdecimal() and len(size) < 16 else 0


def _licence(answer: dict[str, Any]) -> str:
    card = answer.get("cardData")
    licence = card.get("license") if isinstance(card, dict) else None
    shown = licence if isinstance(licence, str) else ""
    return "".join(character for character in shown if character.isprintable())[:100]
