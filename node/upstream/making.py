"""Owns the step from the operator's settings to the models of an upstream server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from node.upstream.client import UpstreamClient, UpstreamTimes
from node.upstream.errors import UpstreamError, UpstreamSetupError
from node.upstream.keys import read_key
from node.upstream.limits import SLOTS_DEFAULT
from node.upstream.names import model_names, server_root
from node.upstream.probing import list_models
from node.upstream.served import Declared, UpstreamModel
from p2p.configuration_book import ConfigurationBook
from p2p.types import NetworkId


@asynccontextmanager
async def open_upstream(
    url: str,
    models: tuple[str, ...],
    *,
    key_file: Path | None,
    operator: Declared,
    configuration: ConfigurationBook,
    network: NetworkId,
    on_change: Callable[[], None],
    environment: Mapping[str, str] = os.environ,
    times: UpstreamTimes | None = None,
    unlisted_ok: bool = False,
) -> AsyncIterator[tuple[UpstreamModel, ...]]:
    """Give the models that a server is offered for; each must still be run.

    Without `models` these are all of the server's that the configuration lists by name.
    `unlisted_ok`: a subcloud's policy may list what the configuration does not; until one does, it
    is inactive.
    Raises: UpstreamSetupError if none is listed, or the key cannot be read; MalformedError.
    """
    key = read_key(key_file, environment)
    connections = operator.slots or SLOTS_DEFAULT
    client = UpstreamClient(server_root(url), key=key, connections=connections * 4, times=times)
    try:
        pairs = model_names(models) or await _found(client, configuration)
        if not unlisted_ok:
            _check_listed(pairs, configuration)
        yield tuple(
            UpstreamModel(client, own, name, configuration, network, operator, on_change=on_change)
            for own, name in pairs
        )
    finally:
        await client.close()


async def _found(
    client: UpstreamClient, configuration: ConfigurationBook
) -> tuple[tuple[str, str], ...]:
    listed = {model.name for model in configuration.current.unverified_models}
    try:
        names = await list_models(client)
    except UpstreamError as error:
        raise UpstreamSetupError(
            f"{client.root}: {error.reason}; start it, or name its models with --upstream-model"
        ) from error
    found = tuple((name, name) for name in names if name in listed)
    if not found:
        raise UpstreamSetupError(
            f"none of the server's models ({_some(names)}) is listed as unverified by this network "
            f"({_some(listed)}): --upstream-model NAME=NETWORK_NAME"
        )
    return found


def _check_listed(pairs: tuple[tuple[str, str], ...], configuration: ConfigurationBook) -> None:
    listed = [model.name for model in configuration.current.unverified_models]
    for _, name in pairs:
        if name not in listed:
            raise UpstreamSetupError(
                f"this network does not list {name} as an unverified model "
                f"(it lists {_some(listed)}): --upstream-model NAME=NETWORK_NAME"
            )


def _some(names: tuple[str, ...] | list[str] | set[str]) -> str:
    return ", ".join(sorted(names)[:10]) or "none"
