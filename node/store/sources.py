"""Owns how what is given to `add` is read: a file, a URL, or a name on a model hub. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from node.store.errors import SourceError
from node.store.limits import (
    HUB_FILE_CHARACTERS_MAX,
    HUB_NAME_CHARACTERS_MAX,
    URL_CHARACTERS_MAX,
)

_HUB_PREFIX = "hf:"
_HUB_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,254}")


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file behind a URL."""

    url: str

    @property
    def shown(self) -> str:
        """Without query and fragment, which may hold a secret."""
        return shown_url(self.url)


@dataclass(frozen=True, slots=True)
class HubSource:
    """A file in a repository of a model hub; no file: the repository's only one."""

    owner: str
    repository: str
    file: str | None
    revision: str

    @property
    def shown(self) -> str:
        """As `add` takes it."""
        file = f"/{self.file}" if self.file else ""
        return f"{_HUB_PREFIX}{self.owner}/{self.repository}{file}@{self.revision}"


Source = FileSource | UrlSource | HubSource


def parse_source(text: str, *, allow_http: bool = False, exists: bool = False) -> Source:
    """Read what `add` was given.

    `owner/repo` without a prefix is a name on the hub, unless there is such a file.

    Args:
        exists: whether there is a file of this name on this machine.
    Raises: SourceError.
    """
    if "://" in text[:16]:
        return UrlSource(check_url(text, allow_http=allow_http))
    if text.startswith(_HUB_PREFIX):
        return _hub_source(text.removeprefix(_HUB_PREFIX))
    if exists:
        return FileSource(Path(text))
    looks_like_path = text.startswith((".", "/", "~")) or "/" not in text
    if looks_like_path:
        raise SourceError(f"there is no file {text}")
    try:
        return _hub_source(text)
    except SourceError as error:
        raise SourceError(f"there is no file {text}, and it is no name on a hub: {error}") from None


def _hub_source(text: str) -> HubSource:
    name, _, revision = text.partition("@")
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    for part in (owner, repository):
        if len(part) > HUB_NAME_CHARACTERS_MAX or not _HUB_PART.fullmatch(part):
            raise SourceError(f"{text!r} is not owner/repo[/file.gguf][@revision]")
    if "@" in text and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise SourceError(f"{revision!r} is not a revision (branch, tag or commit)")
    if file and not is_hub_file(file):
        raise SourceError(f"{file!r} is not the name of a GGUF file in a repository")
    return HubSource(owner, repository, file or None, revision or "main")


def is_hub_file(name: str) -> bool:
    """Tell whether this can be a GGUF file of a repository."""
    return (
        name.lower().endswith(".gguf")
        and len(name) <= HUB_FILE_CHARACTERS_MAX
        and name.isprintable()
        and not any(part in ("", ".", "..") for part in name.split("/"))
    )


def check_url(url: str, *, allow_http: bool) -> str:
    """Give the URL back if it may be asked. Raises: SourceError."""
    if len(url) > URL_CHARACTERS_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise SourceError(f"a URL is printable ASCII of at most {URL_CHARACTERS_MAX} characters")
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise SourceError(f"{shown_url(url)} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise SourceError(f"{parts.scheme}:// is not supported: give an https URL")
    if not host:
        raise SourceError(f"{shown_url(url)} names no host")
    if "@" in parts.netloc:
        raise SourceError("put no password into a URL: it would be kept and shown")
    if parts.scheme == "http" and not (allow_http or is_loopback(host)):
        raise SourceError(
            f"{shown_url(url)} is not https: anybody on the way could change the file "
            "(--allow-http takes it nevertheless; give --sha256 then)"
        )
    return url


def check_redirect(origin: str, target: str, *, allow_http: bool) -> str:
    """Give the target of a redirection back if it may be followed. Raises: SourceError."""
    if urlsplit(origin).scheme == "https" and urlsplit(target).scheme != "https":
        raise SourceError(f"{shown_url(origin)} leads from https to {shown_url(target)}")
    return check_url(target, allow_http=allow_http)


def same_origin(first: str, second: str) -> bool:
    """Tell whether two URLs have the same scheme, host and port (a secret may go to both)."""
    return _origin(first) == _origin(second)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def shown_url(url: str) -> str:
    """Give a URL without what may be secret in it: password, query, fragment."""
    head, separator, rest = url.partition("://")
    if not separator:
        return "the URL"
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = place.partition("/")
    shown = f"{head}://{host.rpartition('@')[2]}{slash}{path}"
    return "".join(character for character in shown if character.isprintable())[:300]


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def stem_of_url(url: str) -> str:
    """The file's name in a URL, without its ending: what a model is called if nothing names it."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return name.removesuffix(".gguf") or "model"
