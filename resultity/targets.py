"""Owns what a command talks to when the user does not say: the local network, if there is one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from p2p.types import NetworkId, parse_network_id
from resultity.errors import NotRunningError, SettingsError
from resultity.local.folders import LocalFolders
from resultity.local.state import find_process, read_state
from resultity.settings_sources import default_data_dir


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway's base URL (ends in /v1) and an API key for it."""

    base_url: str
    api_key: str


def local_folders(data_dir: Path | None) -> LocalFolders:
    """The local network's folders, by option, environment or default."""
    return LocalFolders((data_dir or default_data_dir()).absolute())


def find_gateway(url: str | None, data_dir: Path | None) -> str:
    """Give a gateway's base URL: option, RESULTITY_GATEWAY_URL, or the running local network.

    Raises: NotRunningError.
    """
    given = url or os.environ.get("RESULTITY_GATEWAY_URL")
    if given:
        return given
    folders = local_folders(data_dir)
    record = read_state(folders).process("gateway")
    if record is None or not record.base_url or find_process(record) is None:
        raise NotRunningError(
            f"no network runs in {folders.root}: start one with `resultity up`, or name a gateway "
            "with --gateway (`ask`: --base-url)"
        )
    return record.base_url


def find_network(text: str | None, data_dir: Path | None) -> NetworkId:
    """Give the network's ID: option, RESULTITY_NETWORK, or the local network's.

    Raises: SettingsError, MalformedError.
    """
    given = text or os.environ.get("RESULTITY_NETWORK")
    if given:
        return parse_network_id(given)
    files = local_folders(data_dir).network
    if not files.exists:
        raise SettingsError("which network? give --network (its ID is never learned from a peer)")
    return files.network()


def find_target(base_url: str | None, api_key: str | None, data_dir: Path | None) -> Target:
    """Give what an OpenAI client needs: options, OPENAI_BASE_URL and OPENAI_API_KEY, or local.

    A key is only ever sent to the address that it was given with: an address from an option or the
    environment never gets the local network's key.

    Raises: NotRunningError, SettingsError, DataFolderError.
    """
    url = base_url or os.environ.get("OPENAI_BASE_URL")
    key = api_key or os.environ.get("RESULTITY_API_KEY")
    if url:
        key = key or os.environ.get("OPENAI_API_KEY")
        if not key:
            raise SettingsError(f"an API key for {url}? give --api-key or OPENAI_API_KEY")
        return Target(url, key)
    found = find_gateway(None, data_dir)
    return Target(found, key or local_folders(data_dir).read_api_key())
