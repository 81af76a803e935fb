"""Owns how an API key's owner names subclouds: by ID, by registered name, or `global`."""

from __future__ import annotations

from collections.abc import Callable

from p2p.errors import MalformedError
from p2p.key_limits import GLOBAL_POOL, KeyLimits, subclouds_problem
from p2p.subclouds.identity import parse_subcloud_id
from p2p.types import NetworkId
from resultity.errors import SettingsError

ANY = "any"
Find = Callable[[str], str]
"""Gives the ID of the subcloud that has a registered name. Raises: GatewayCallError."""


def finder(gateway_url: str, network: NetworkId) -> Find:
    """Ask a gateway whose a name is."""

    def find(name: str) -> str:
        from resultity.subclouds.client import SubcloudClient

        return str(SubcloudClient(gateway_url, network).get(name).identity)

    return find


def parse_subcloud(name: str, find: Find) -> str:
    """Give the ID that is meant (or `global`). Raises: SettingsError, GatewayCallError."""
    if name == GLOBAL_POOL:
        return name
    try:
        return parse_subcloud_id(name)
    except MalformedError:
        return find(name)


def with_subclouds(
    limits: KeyLimits, names: tuple[str, ...], default: str | None, find: Find
) -> KeyLimits:
    """Give limits with other subclouds; what is not named stays as it is.

    Args:
        names: `any` alone lifts the limit. Of one subcloud alone the key's requests go there, if
            `default` says nothing else.
        default: where requests go that name no subcloud; an empty text: the global pool.
    Raises: SettingsError, GatewayCallError.
    """
    if ANY in names and len(names) > 1:
        raise SettingsError(f"`{ANY}` stands alone")
    subclouds, chosen = limits.subclouds, limits.default_subcloud
    if names:
        subclouds = () if names == (ANY,) else tuple(parse_subcloud(name, find) for name in names)
        if default is None and len(subclouds) == 1:
            chosen = subclouds[0]
    if default is not None:
        chosen = parse_subcloud(default, find) if default else ""
    if chosen == GLOBAL_POOL:
        chosen = ""
    found = KeyLimits(
        limits.microcredits_per_day,
        limits.requests_per_minute,
        limits.tokens_per_minute,
        limits.networks,
        tuple(dict.fromkeys(subclouds)),
        chosen,
    )
    if problem := subclouds_problem(found):
        raise SettingsError(problem)
    return found
