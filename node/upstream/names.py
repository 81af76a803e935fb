"""Owns the form of an upstream's address, and of the names of its models. Pure.

The address is the operator's own choice, so loopback and private networks are fine. What a
*consumer* sends is never followed from here: redirects are not, and addresses of images only if the
operator says so (`node.upstream.requests`).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from p2p.errors import MalformedError


def server_root(url: str) -> str:
    """The root of a server, without the `/v1` that OpenAI's clients put behind it.

    Raises: MalformedError if it is no http or https address, or holds a password or a query.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise MalformedError(f"upstream: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MalformedError("upstream must be an address like http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise MalformedError("upstream must hold no password: put the key into a file")
    if parts.query or parts.fragment:
        raise MalformedError("upstream must have no query and no fragment")
    if any(character <= " " or character == "\x7f" for character in url):
        raise MalformedError("upstream must hold no spaces")
    path = parts.path.rstrip("/").removesuffix("/v1")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path}"


def model_names(models: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Read `NAME` or `NAME=NETWORK_NAME`: pairs of the server's name and the network's.

    Raises: MalformedError.
    """
    pairs = []
    for text in models:
        own, _, named = text.partition("=")
        if not own.strip() or (named and not named.strip()):
            raise MalformedError(f"upstream_models: {text!r} is not NAME or NAME=NETWORK_NAME")
        pairs.append((own.strip(), (named or own).strip()))
    if len({name for _, name in pairs}) != len(pairs):
        raise MalformedError("upstream_models: a name of the network is given twice")
    return tuple(pairs)
