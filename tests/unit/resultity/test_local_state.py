"""The local network's record: which process is meant, what is remembered, who may work on it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from p2p.account_file import load_account
from p2p.errors import UntrustedError
from p2p.ledger_messages import Grant, KeyCreation
from p2p.signing import open_signed
from resultity.errors import DataFolderError, NotRunningError, SettingsError
from resultity.folder_lock import is_locked, locked_folder
from resultity.local.folders import LocalFolders
from resultity.local.founding import found_local_network
from resultity.local.opening import GRANT_MICROCREDITS, prepare_opening
from resultity.local.processes import stop_processes
from resultity.local.start import check_port_free, remembered_options
from resultity.local.state import (
    LocalState,
    find_process,
    read_state,
    record_of,
    write_state,
)
from resultity.model_approval import demo_model_path
from resultity.targets import find_gateway, find_target

NOW_MS = 1_800_000_000_000


def clock_ms() -> int:
    return NOW_MS


@pytest.fixture
def folders(tmp_path: Path) -> LocalFolders:
    made = LocalFolders(tmp_path / "data")
    made.make()
    return made


def test_a_record_finds_only_its_own_process() -> None:
    record = record_of("node-1", "node", os.getpid())
    assert find_process(record) is not None
    assert find_process(dataclasses.replace(record, started_s=record.started_s - 60)) is None


def test_a_foreign_process_with_the_same_id_is_never_signalled() -> None:
    record = record_of("node-1", "node", os.getpid())
    foreign = dataclasses.replace(record, started_s=record.started_s - 60)
    assert stop_processes([foreign], lambda text: None) == []


def test_state_survives(folders: LocalFolders) -> None:
    assert read_state(folders) == LocalState()
    record = dataclasses.replace(record_of("gateway", "gateway", os.getpid()), peer_id="p")
    state = LocalState(8421, 3, "/m.gguf").with_process(record).with_process(record)
    write_state(folders, state)
    assert read_state(folders) == state
    assert len(state.processes) == 1
    folders.state_path.write_text("{")
    with pytest.raises(DataFolderError, match="is damaged"):
        read_state(folders)


def test_what_was_chosen_before_is_remembered(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.touch()
    state = LocalState(nodes=3, model=str(model))
    assert remembered_options(state, None, None, None).nodes == 3
    assert remembered_options(state, None, None, None).model == model
    assert remembered_options(state, 5, None, None).nodes == 5
    fresh = remembered_options(LocalState(), None, None, None)
    assert (fresh.nodes, fresh.model) == (2, demo_model_path())


def test_a_folder_is_held_once(folders: LocalFolders) -> None:
    assert not is_locked(folders.root)
    with locked_folder(folders.root):
        assert is_locked(folders.root)
        with (
            pytest.raises(DataFolderError, match=f"in use by process {os.getpid()}"),
            locked_folder(folders.root),
        ):
            pass
    assert not is_locked(folders.root)


def test_founding_twice_changes_nothing(folders: LocalFolders) -> None:
    first, model = found_local_network(folders, demo_model_path(), clock_ms)
    before = {path: path.read_bytes() for path in folders.root.rglob("*") if path.is_file()}
    second, again = found_local_network(folders, demo_model_path(), clock_ms)
    assert (first, model) == (second, again)
    assert before == {path: path.read_bytes() for path in before}
    assert model.name == "tiny-chat"


def test_an_old_certificate_is_renewed(folders: LocalFolders) -> None:
    found_local_network(folders, demo_model_path(), clock_ms)
    path = folders.role("gateway") / "certificate.chain"
    before = path.read_bytes()
    found_local_network(folders, demo_model_path(), lambda: NOW_MS + 340 * 86_400_000)
    assert path.read_bytes() != before


def test_the_opening_is_signed_once(folders: LocalFolders) -> None:
    found_local_network(folders, demo_model_path(), clock_ms)
    plan = prepare_opening(folders, clock_ms)
    assert prepare_opening(folders, lambda: NOW_MS + 1) == plan
    assert folders.api_key_path.stat().st_mode & 0o777 == 0o600
    network = folders.network.network()
    creation, credit = (
        open_signed(plan.documents[3], KeyCreation, network),
        open_signed(plan.documents[4], Grant, network),
    )
    assert folders.read_api_key().split("_")[1] == creation.key_id
    assert credit.amount == GRANT_MICROCREDITS
    assert credit.account_id == load_account(folders.consumer_account, network).account_id


def test_weak_permissions_are_refused(folders: LocalFolders) -> None:
    found_local_network(folders, demo_model_path(), clock_ms)
    prepare_opening(folders, clock_ms)
    folders.api_key_path.chmod(0o644)
    with pytest.raises(DataFolderError, match="chmod 600"):
        folders.read_api_key()
    folders.operator_account.chmod(0o640)
    with pytest.raises(UntrustedError, match="chmod 600"):
        found_local_network(folders, demo_model_path(), clock_ms)


def test_a_port_in_use_names_the_option() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsError, match="--port"):
            check_port_free(taken.getsockname()[1])
    check_port_free(0)


def test_no_local_network(folders: LocalFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESULTITY_GATEWAY_URL", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotRunningError, match="resultity up"):
        find_gateway(None, folders.root)
    with pytest.raises(SettingsError, match="--api-key"):
        find_target("http://elsewhere/v1", None, folders.root)
    assert find_target("http://elsewhere/v1", "k", folders.root).api_key == "k"
