"""Owns the operator's word on whose prompts may share the runtime's cache. Pure."""

from __future__ import annotations

CACHE_SHARED = ("account", "all", "off")
"""`account`: requests of one account at one gateway share what their prompts begin with. `all`:
requests of everybody do, and how soon an answer begins then tells a caller whether somebody else
has sent the same beginning lately. `off`: nothing is kept."""

_EVERYBODY = b"everybody"
"""Shorter than a gateway's scopes, so that none can be taken for it."""


def scope_of(offered: bytes, cache_shared: str) -> bytes:
    """The scope in which a job may use the cache; an offer without a scope never shares."""
    if not offered or cache_shared == "off":
        return b""
    return _EVERYBODY if cache_shared == "all" else offered
