"""Owns the command line's own HTTP: one JSON question, one JSON answer, bounded in time and size.

Python's own client is enough here and needs a tenth of the import time of the larger ones. These
functions block: long-running callers use a thread.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from resultity.errors import GatewayCallError, SettingsError

ANSWER_BYTES_MAX = 8 * 1024 * 1024
TIMEOUT_S = 15.0
# Proxies are for the outside world; a proxy variable must not capture calls to the loopback.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def gateway_root(url: str) -> str:
    """Give a gateway's root from its base URL (with or without /v1). Raises: SettingsError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SettingsError(f"not a gateway's URL (http://host:port/v1): {url[:200]!r}")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


def get_json(url: str, *, api_key: str = "", timeout_s: float = TIMEOUT_S) -> Any:
    """GET a JSON document. Raises: GatewayCallError."""
    return _request(urllib.request.Request(url), api_key, timeout_s)


def post_json(url: str, content: Any, *, api_key: str = "", timeout_s: float = TIMEOUT_S) -> Any:
    """POST a JSON document and give the JSON answer. Raises: GatewayCallError."""
    request = urllib.request.Request(
        url, json.dumps(content).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    return _request(request, api_key, timeout_s)


def _request(request: urllib.request.Request, api_key: str, timeout_s: float) -> Any:
    if api_key:
        request.add_header("Authorization", f"Bearer {api_key}")
    root = "{0.scheme}://{0.netloc}".format(urlsplit(request.full_url))
    opener = _DIRECT if request.host.rpartition(":")[0] in _LOOPBACK else urllib.request
    call = opener.open if opener is _DIRECT else urllib.request.urlopen
    try:
        with call(request, timeout=timeout_s) as answer:
            return _decode(answer.read(ANSWER_BYTES_MAX + 1), root)
    except urllib.error.HTTPError as error:
        raise _refusal(error, root) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise GatewayCallError(f"cannot reach the gateway at {root}: {reason}") from error


def _decode(body: bytes, root: str) -> Any:
    if len(body) > ANSWER_BYTES_MAX:
        raise GatewayCallError(f"{root} answered more than {ANSWER_BYTES_MAX} bytes")
    try:
        return json.loads(body)
    except ValueError as error:
        raise GatewayCallError(f"{root} did not answer JSON: is it a gateway?") from error


def _refusal(error: urllib.error.HTTPError, root: str) -> GatewayCallError:
    with error:
        body = error.read(65_536)
    try:
        detail = json.loads(body)["error"]
        message, code = str(detail["message"]), str(detail.get("code") or "")
    except (ValueError, KeyError, TypeError):
        message, code = body[:200].decode("utf-8", "replace") or str(error.reason), ""
    return GatewayCallError(f"{root}: {message} (HTTP {error.code})", status=error.code, code=code)
