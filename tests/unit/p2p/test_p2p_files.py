"""Owns the tests of what the core keeps in files: keys, accounts, chains, ports; and of joining."""

from __future__ import annotations

import json
import os
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from p2p.account_file import (
    create_account,
    load_account,
    load_or_create_account,
    store_account,
)
from p2p.admission import (
    REQUEST_LIFETIME_MS,
    JoinRequest,
    NodeBinding,
    certificate_chain,
    join_request,
    verify_join_request,
)
from p2p.certificates import verify_chain
from p2p.codec import encode_messages
from p2p.errors import MalformedError, PeerUnavailableError, StaleError, UntrustedError
from p2p.files import write_atomically
from p2p.identity import load_key, load_or_create_key, store_key
from p2p.ledger_messages import AccountFounding
from p2p.limits import CLOCK_SKEW_MS_MAX
from p2p.link import Ping
from p2p.listening import choose_listen_addresses, remember_port
from p2p.member_files import load_chain, store_chain
from p2p.types import Role
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.trust import (
    ACCOUNT_KEY,
    BOOTSTRAP,
    GATEWAY,
    NETWORK,
    NODE,
    OTHER_NETWORK,
    OTHER_NODE,
    SOME_ACCOUNT,
    account_keys,
    bootstrap_chain,
    certificate,
    key_pair,
    node_chain,
)


# --- files --------------------------------------------------------------------------------------
def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two", 0o600)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(OSError, match=r"."):
        write_atomically(path, b"data")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


# --- identities ---------------------------------------------------------------------------------
def test_an_identity_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    pair = load_or_create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(path).peer_id == pair.peer_id
    store_key(path, NODE)
    assert load_key(path).peer_id == NODE.peer_id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    store_key(path, NODE)
    path.chmod(mode)
    with pytest.raises(UntrustedError, match="chmod 600"):
        load_key(path)


@pytest.mark.parametrize(
    "content", [b"", b"zz", b"00" * 31, b"00" * 33, b"\xff\xfe", NODE.seed, b"0" * 63]
)
def test_damaged_keys_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.key"
    write_atomically(path, content, 0o600)
    with pytest.raises(MalformedError, match="damaged") as caught:
        load_or_create_key(path)
    assert NODE.seed.hex() not in str(caught.value)


def test_a_missing_key_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_key(tmp_path / "identity.key")


# --- accounts -----------------------------------------------------------------------------------
def test_an_account_is_made_once_with_its_recovery_key(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    keys = load_or_create_account(path, NETWORK, FakeClock())
    again = load_or_create_account(path, NETWORK, FakeClock())
    assert (again.account_id, again.founding) == (keys.account_id, keys.founding)
    assert again.signing.seed == keys.signing.seed
    recovery = tmp_path / "account.recovery.key"
    assert load_key(recovery).seed != keys.signing.seed
    for file in (path, recovery):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_two_accounts_differ_even_at_the_same_moment() -> None:
    one, _ = create_account(NETWORK, FakeClock(), bytes(16))
    other, _ = create_account(NETWORK, FakeClock(), bytes(16))
    assert one.account_id != other.account_id


def test_an_account_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    store_account(path, account_keys())
    path.chmod(0o644)
    with pytest.raises(UntrustedError, match="chmod 600"):
        load_account(path, NETWORK)


def test_an_account_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    store_account(path, account_keys())
    with pytest.raises(MalformedError, match="another network"):
        load_account(path, OTHER_NETWORK)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("signing_seed", "00"),
        ("signing_seed", None),
        ("signing_seed", key_pair(77).seed.hex()),
        ("founding", "AAAA"),
        ("founding", "\u00e9"),
        ("founding", 7),
    ],
)
def test_damaged_accounts_are_refused(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "account.json"
    store_account(path, account_keys())
    content = json.loads(path.read_text())
    content[field] = value
    write_atomically(path, json.dumps(content).encode(), 0o600)
    with pytest.raises(MalformedError, match="damaged"):
        load_account(path, NETWORK)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{}", b"\xff", b'"text"', b"null"])
def test_files_that_are_no_accounts(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "account.json"
    write_atomically(path, content, 0o600)
    with pytest.raises(MalformedError, match="damaged"):
        load_account(path, NETWORK)


def test_a_founding_document_that_its_key_did_not_sign(tmp_path: Path) -> None:
    founding = AccountFounding(ACCOUNT_KEY.public_key, bytes(32), START_MS, bytes(16))
    path = tmp_path / "account.json"
    store_account(path, replace(account_keys(), founding=NODE.sign(NETWORK, founding)))
    with pytest.raises(MalformedError):
        load_account(path, NETWORK)


# --- chains -------------------------------------------------------------------------------------
def test_a_chain_is_kept(tmp_path: Path) -> None:
    store_chain(tmp_path / "chain", node_chain())
    assert load_chain(tmp_path / "chain") == node_chain()


@pytest.mark.parametrize("content", [b"", b"\x90", b"text", encode_messages([Ping()])])
def test_files_that_are_no_chains(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "chain").write_bytes(content)
    with pytest.raises(MalformedError):
        load_chain(tmp_path / "chain")


# --- admission ----------------------------------------------------------------------------------
ACCOUNT = account_keys()
SOME_BINDING = NodeBinding(ACCOUNT.account_id, NODE.peer_id, START_MS)
REQUEST = join_request(NODE, ACCOUNT, NETWORK, "resultity/test", START_MS)


def test_a_node_asks_for_admission() -> None:
    applicant = verify_join_request(REQUEST, NETWORK, NODE.peer_id, START_MS)
    assert applicant.peer_id == NODE.peer_id
    assert applicant.account_id == ACCOUNT.account_id
    assert applicant.founding == ACCOUNT.founding


def test_who_signed_the_binding_is_for_the_ledger_to_judge() -> None:
    later_key = key_pair(55)
    asked = JoinRequest(ACCOUNT.founding, later_key.sign(NETWORK, SOME_BINDING), "s", START_MS)
    applicant = verify_join_request(NODE.sign(NETWORK, asked), NETWORK, NODE.peer_id, START_MS)
    assert applicant.account_key == later_key.public_key


def test_a_request_for_another_peer_network_or_time() -> None:
    with pytest.raises(UntrustedError, match="another peer"):
        verify_join_request(REQUEST, NETWORK, OTHER_NODE.peer_id, START_MS)
    with pytest.raises(UntrustedError):
        verify_join_request(REQUEST, OTHER_NETWORK, NODE.peer_id, START_MS)
    for now_ms in (START_MS + REQUEST_LIFETIME_MS, START_MS - CLOCK_SKEW_MS_MAX - 1):
        with pytest.raises(StaleError):
            verify_join_request(REQUEST, NETWORK, NODE.peer_id, now_ms)


def test_an_account_that_did_not_agree() -> None:
    stranger = key_pair(55)
    unsigned = replace(ACCOUNT_KEY.sign(NETWORK, SOME_BINDING), signature=bytes(64))
    binding = NodeBinding(ACCOUNT.account_id, NODE.peer_id, START_MS)
    other_node = NodeBinding(ACCOUNT.account_id, OTHER_NODE.peer_id, START_MS)
    other_account = NodeBinding(SOME_ACCOUNT, NODE.peer_id, START_MS)
    founding = AccountFounding(ACCOUNT_KEY.public_key, bytes(32), START_MS, bytes(16))
    signed = ACCOUNT_KEY.sign(NETWORK, binding)
    for request in (
        JoinRequest(ACCOUNT.founding, unsigned, "s", START_MS),
        JoinRequest(ACCOUNT.founding, ACCOUNT_KEY.sign(NETWORK, other_node), "s", START_MS),
        JoinRequest(ACCOUNT.founding, ACCOUNT_KEY.sign(NETWORK, other_account), "s", START_MS),
        JoinRequest(ACCOUNT.founding, ACCOUNT_KEY.sign(OTHER_NETWORK, binding), "s", START_MS),
        JoinRequest(stranger.sign(NETWORK, founding), signed, "s", START_MS),
        JoinRequest(signed, signed, "s", START_MS),
    ):
        with pytest.raises((UntrustedError, MalformedError)):
            verify_join_request(NODE.sign(NETWORK, request), NETWORK, NODE.peer_id, START_MS)


def test_the_chain_of_an_admitted_node() -> None:
    leaf = certificate(NODE.peer_id, Role.NODE, BOOTSTRAP)
    chain = certificate_chain(leaf, bootstrap_chain())
    assert verify_chain(chain, NETWORK, NODE.peer_id, START_MS).role is Role.NODE


# --- listening ----------------------------------------------------------------------------------
ANY_PORT = "/ip4/127.0.0.1/tcp/0"


def taken_port() -> tuple[socket.socket, int]:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken, taken.getsockname()[1]


def free_port() -> int:
    taken, port = taken_port()
    taken.close()
    return port


def test_the_port_of_last_time_is_taken_again(tmp_path: Path) -> None:
    file, port = tmp_path / "p2p.port", free_port()
    assert choose_listen_addresses([ANY_PORT], file) == (ANY_PORT,)
    remember_port([f"/ip4/127.0.0.1/tcp/{port}/p2p/{GATEWAY.peer_id}"], file)
    assert choose_listen_addresses([ANY_PORT], file) == (f"/ip4/127.0.0.1/tcp/{port}",)


def test_another_port_if_it_is_in_use_meanwhile(tmp_path: Path) -> None:
    taken, port = taken_port()
    with taken:
        remember_port([f"/ip4/127.0.0.1/tcp/{port}"], tmp_path / "p2p.port")
        assert choose_listen_addresses([ANY_PORT], tmp_path / "p2p.port") == (ANY_PORT,)


def test_a_port_that_was_asked_for_must_be_free(tmp_path: Path) -> None:
    taken, port = taken_port()
    address = f"/ip4/127.0.0.1/tcp/{port}"
    with taken, pytest.raises(PeerUnavailableError, match=f"port {port} .* in use"):
        choose_listen_addresses([address], tmp_path / "p2p.port")
    assert choose_listen_addresses([address], tmp_path / "p2p.port") == (address,)


@pytest.mark.parametrize("content", ["", "text", "0", "-1", "65536", "\u00e9"])
def test_a_damaged_port_file_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / "p2p.port").write_bytes(content.encode())
    assert choose_listen_addresses([ANY_PORT], tmp_path / "p2p.port") == (ANY_PORT,)


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:80", "/ip4/127.0.0.1", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/tcp/65536"]
    + ["/dns4/localhost/tcp/80", "/ip4/127.0.0.1/tcp/80/ws", "/ip4/127.0.0.1/tcp/-1"],
)
def test_addresses_of_another_form(tmp_path: Path, address: str) -> None:
    with pytest.raises(MalformedError, match="not a listening address"):
        choose_listen_addresses([address], tmp_path / "p2p.port")


def test_nothing_is_remembered_without_an_address(tmp_path: Path) -> None:
    remember_port([], tmp_path / "p2p.port")
    remember_port(["/unix/socket"], tmp_path / "p2p.port")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("listen", [(), ("none",)])
def test_a_peer_need_not_listen(tmp_path: Path, listen: tuple[str, ...]) -> None:
    assert choose_listen_addresses(listen, tmp_path / "p2p.port") == ()
    with pytest.raises(MalformedError):
        choose_listen_addresses(["none", ANY_PORT], tmp_path / "p2p.port")
