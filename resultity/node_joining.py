"""Owns what `node join` and `node leave` do with a node's data folder, apart from talking.

A folder that joined has the node's identity, its certificate, the network's configuration, perhaps
an account, and `node.toml`, so that `node run` needs nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from node.claims.journal import OwedJournal
from node.enrolment import CERTIFICATE_FILE, CONFIGURATION_FILE, Enrolment, enrol
from node.model_file import read_model_file
from node.settings_file import SETTINGS_FILE, change_settings_file, read_settings_file
from p2p.account_file import AccountKeys, load_account, load_or_create_account
from p2p.clock import system_clock_ms
from p2p.errors import MalformedError
from p2p.network_configuration import NetworkConfiguration
from p2p.node_invites import JoinInvite
from p2p.pre_shared_key import load_pre_shared_key
from resultity.errors import DataFolderError, SettingsError

MODELS_FOLDER = "models"
OWED_FILE = "owed.journal"
NO_LISTENER = "none"
_PATHS_AND_NAMES = {"network", "account_file", "models_dir", "model", "pre_shared_key_file"}


@dataclass(frozen=True, slots=True)
class Choices:
    """What the operator decides when a node joins (None, (): as it is in the folder already)."""

    account_file: Path | None = None
    model: str | None = None
    listen: tuple[str, ...] = ()
    timeout_s: float = 60.0
    pre_shared_key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """A node that joined."""

    enrolment: Enrolment
    account: AccountKeys
    account_file: Path
    account_is_new: bool
    serves: bool
    """Whether the folder says what to serve: a model, an upstream, or models in its store."""


def node_table(folder: Path) -> dict[str, Any]:
    """The table `[node]` of a folder's `node.toml`; {} without one. Raises: MalformedError."""
    table = read_settings_file(folder).get("node", {})
    if not isinstance(table, dict):
        raise MalformedError(f"{folder / SETTINGS_FILE}: [node] must be a table")
    for name in _PATHS_AND_NAMES & table.keys():
        if not isinstance(table[name], str):
            raise MalformedError(f"{folder / SETTINGS_FILE}: {name} must be a text")
    return table


def check_folder(folder: Path, invite: JoinInvite, now_ms: int) -> None:
    """See that an invite can be used for a folder, before anybody is asked.

    Raises: DataFolderError (it joined another network), SettingsError (the invite has ended, and
        the node needs it).
    """
    joined = node_table(folder).get("network", "")
    if joined and joined != invite.network:
        raise DataFolderError(
            f"{folder} belongs to a node of the network {joined}: use another --data-dir for "
            f"{invite.network}"
        )
    ended = now_ms >= invite.document.expires_ms
    if ended and not (folder / CERTIFICATE_FILE).exists():
        raise SettingsError("this invite has expired: ask the network's operator for another")


def join(folder: Path, invite: JoinInvite, choices: Choices) -> Joined:
    """Join the invite's network and write `node.toml`. Doing it again is harmless.

    Raises: P2PError (refused, unreachable, another network), DataFolderError, SettingsError.
    """
    table = node_table(folder)
    changes: dict[str, Any] = {"network": invite.network, "bootstraps": list(invite.bootstraps)}
    listen = [address for address in choices.listen if address != NO_LISTENER]
    if choices.listen or "listen" not in table:
        changes["listen"] = listen
    if "models_dir" not in table:
        changes["models_dir"] = str(folder / MODELS_FOLDER)
    model = _model_file(folder, choices.model)
    given = choices.account_file or (
        Path(table["account_file"]) if "account_file" in table else None
    )
    account_file = given or folder / "account.json"
    is_new = not account_file.exists()
    if given is not None:
        if is_new:
            raise DataFolderError(f"there is no account file {given}")
        account = load_account(given, invite.network)
        changes["account_file"] = str(given.absolute())
    else:
        account = load_or_create_account(account_file, invite.network, system_clock_ms)
    key_file = choices.pre_shared_key_file
    if key_file is not None:
        changes["pre_shared_key_file"] = str(key_file.absolute())
    elif "pre_shared_key_file" in table:
        key_file = Path(table["pre_shared_key_file"])
    enrolment = trio.run(
        partial(
            enrol,
            folder,
            invite.network,
            invite.bootstraps,
            account,
            invite=invite,
            patience_s=choices.timeout_s,
            clock_ms=system_clock_ms,
            pre_shared_key=load_pre_shared_key(key_file),
        )
    )
    change_settings_file(folder, changes)
    if model is not None:
        check_approved(model, enrolment.configuration)
        change_settings_file(folder, {"model": str(model.absolute())})
    return Joined(enrolment, account, account_file, is_new, serves_something(folder))


def _model_file(folder: Path, model: str | None) -> Path | None:
    """Find what `--model` names: a file (given), or a model of the store (None: it is served
    anyway). Raises: SettingsError."""
    if model is None or Path(model).is_file():
        return Path(model) if model is not None else None
    names = stored_models(folder)
    if model in names:
        return None
    known = f"it has {', '.join(names)}" if names else "it is empty: `resultity node models add`"
    raise SettingsError(f"{model} is neither a file nor a model in the node's store ({known})")


def stored_models(folder: Path) -> list[str]:
    """The names of the models in a node's store."""
    store = Path(node_table(folder).get("models_dir") or folder / MODELS_FOLDER)
    if not store.is_dir():
        return []
    from node.store.store import ModelStore

    return [model.name for model in ModelStore(store).models()]


def serves_something(folder: Path) -> bool:
    """Tell whether a folder says what to serve."""
    table = node_table(folder)
    return bool(table.get("model") or table.get("upstream") or stored_models(folder))


def check_approved(path: Path, configuration: NetworkConfiguration) -> None:
    """See that the network approves a file (it is read whole). Raises: SettingsError, NodeError."""
    file = read_model_file(path)
    if configuration.model_with_digest(file.digest) is None:
        names = ", ".join(model.name for model in configuration.models) or "none"
        raise SettingsError(
            f"the node joined, but this network does not approve {path} (sha256 "
            f"{file.digest.hex()}); approved models: {names}"
        )


def owed_attempts(folder: Path) -> int:
    """How many attempts gateways have not settled yet with a node that does not run."""
    path = folder / OWED_FILE
    return len(OwedJournal(path)) if path.exists() else 0


def forget_membership(folder: Path) -> list[str]:
    """Remove what makes a folder a member; gives the names. Keys and account stay, and the settings
    as `node.toml.left`, where nobody reads them."""
    settings = folder / SETTINGS_FILE
    if settings.exists():
        settings.replace(settings.with_name(f"{SETTINGS_FILE}.left"))
    removed = []
    for name in (CERTIFICATE_FILE, CONFIGURATION_FILE, "status.json"):
        path = folder / name
        if path.exists():
            path.unlink()
            removed.append(name)
    return removed
