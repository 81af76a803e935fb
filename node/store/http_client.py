"""Owns how the store talks HTTP: one client, redirections that are followed by rule, errors in
the operator's terms.

Redirections are followed here and not by httpx: at most a few, never from https to http, and what
is secret (the hub's token) goes only to the origin that it is for.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx

from node.store.errors import DownloadError, SourceError
from node.store.limits import (
    CONNECT_TIMEOUT_S,
    REDIRECTS_MAX,
    RETRY_AFTER_S_MAX,
    STALL_TIMEOUT_S,
)
from node.store.sources import check_redirect, check_url, same_origin, shown_url
from p2p.software import SOFTWARE

_REDIRECTS = (301, 302, 303, 307, 308)
_RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)


def open_client(*, stall_timeout_s: float = STALL_TIMEOUT_S) -> httpx.Client:
    """Make the client; proxies come from the environment, but never for this machine."""
    context = _trusted()
    direct = httpx.HTTPTransport(verify=context)
    return httpx.Client(
        verify=context,
        timeout=httpx.Timeout(stall_timeout_s, connect=min(CONNECT_TIMEOUT_S, stall_timeout_s)),
        follow_redirects=False,
        mounts={f"all://{host}": direct for host in ("127.0.0.1", "localhost", "[::1]")},
        headers={"User-Agent": SOFTWARE, "Accept-Encoding": "identity"},
        limits=httpx.Limits(max_connections=4, max_keepalive_connections=1),
    )


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted; reading them takes a tenth of a second."""
    return httpx.create_ssl_context()


@dataclass(frozen=True, slots=True)
class Asking:
    """What to ask for.

    `token`: sent as a bearer token, only to the origin of `url`. `follow`: where it leads on to;
    if not, a redirection is the answer.
    """

    url: str
    allow_http: bool = False
    token: str | None = None
    method: str = "GET"
    follow: bool = True


@contextlib.contextmanager
def ask(
    client: httpx.Client, asking: Asking, headers: Mapping[str, str] | None = None
) -> Iterator[httpx.Response]:
    """Ask, follow redirections, and give the answer with its body still to be read.

    Raises: DownloadError, SourceError; also for what goes wrong while the body is read.
    """
    url = check_url(asking.url, allow_http=asking.allow_http)
    with mapped_errors(url):
        for _ in range(REDIRECTS_MAX + 1):
            sent = dict(headers or {})
            if asking.token and same_origin(url, asking.url):
                sent["Authorization"] = f"Bearer {asking.token}"
            with client.stream(asking.method, url, headers=sent) as response:
                if response.status_code not in _REDIRECTS or not asking.follow:
                    yield response
                    return
                url = _target(url, response, allow_http=asking.allow_http)
    raise DownloadError(f"{shown_url(asking.url)} leads on more than {REDIRECTS_MAX} times")


def _target(url: str, response: httpx.Response, *, allow_http: bool) -> str:
    location = response.headers.get("location", "")
    try:
        target = str(httpx.URL(url).join(location))
    except (httpx.InvalidURL, ValueError) as error:
        raise DownloadError(f"{shown_url(url)} leads to something that is no URL") from error
    if not location:
        raise DownloadError(f"{shown_url(url)} leads on, but not where to")
    return check_redirect(url, target, allow_http=allow_http)


@contextlib.contextmanager
def mapped_errors(url: str) -> Iterator[None]:
    """Turn httpx's errors into ours. Raises: DownloadError."""
    host = httpx.URL(url).host
    try:
        yield
    except httpx.TimeoutException as error:
        raise DownloadError(f"{host} did not answer in time", retry=True) from error
    except httpx.InvalidURL as error:
        raise SourceError(f"{shown_url(url)} is not a URL") from error
    except httpx.TransportError as error:
        said = " ".join(str(error).split())[:200]
        if "CERTIFICATE_VERIFY_FAILED" in said:
            raise DownloadError(f"{host} cannot prove that it is {host}: {said}") from error
        raise DownloadError(f"the connection to {host} failed: {said}", retry=True) from error
    except httpx.HTTPError as error:
        raise DownloadError(f"{host} answers with something that is not HTTP: {error}") from error


def refuse_status(response: httpx.Response, what: str) -> None:
    """Refuse an answer that is no success. Raises: DownloadError with a word on what to do."""
    status = response.status_code
    if 200 <= status < 300:
        return
    host = response.url.host
    if status in _RETRY_STATUSES:
        pause = response.headers.get("retry-after", "")
        raise DownloadError(
            f"{host} answers {status} for {what}",
            retry=True,
            retry_after_s=min(float(pause), RETRY_AFTER_S_MAX) if pause.isdecimal() else 0.0,
        )
    reason = {401: "it wants a token", 403: "it refuses", 404: "there is none", 410: "it is gone"}
    raise DownloadError(f"{host} answers {status} for {what}: {reason.get(status, 'it refuses')}")
