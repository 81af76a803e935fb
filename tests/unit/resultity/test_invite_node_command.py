"""`network invite-node`: what it makes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2p.clock import system_clock_ms
from p2p.identity import load_key, load_or_create_key
from p2p.node_invites import parse_join_text
from p2p.opening_messages import invite_id_of
from resultity.__main__ import main
from resultity.network_files import found_network
from tests.fakes import trust

ADDRESS = f"/ip4/192.0.2.7/tcp/4001/p2p/{trust.BOOTSTRAP.peer_id}"
OTHER = f"/dns4/boot.example.org/tcp/4001/p2p/{trust.OTHER_BOOTSTRAP.peer_id}"


def run(*words: object, **environment: str) -> Result:
    arguments = ["network", "invite-node", *map(str, words)]
    return CliRunner().invoke(main, arguments, env=environment)


@pytest.fixture
def founder(tmp_path: Path) -> Path:
    found_network(tmp_path / "founder", "test", [], system_clock_ms)
    return tmp_path / "founder"


def test_by_the_authority(founder: Path) -> None:
    where = ("--data-dir", founder, "--bootstrap", ADDRESS, "--bootstrap", OTHER)
    done = run(*where, "--uses", 5, "--expires", "12h")
    assert done.exit_code == 0, done.output
    found = parse_join_text(done.stdout)
    assert found.network == (founder / "network.id").read_text().strip()
    assert (found.bootstraps, found.by_authority) == ((ADDRESS, OTHER), True)
    assert found.document.uses == 5
    assert found.document.expires_ms - found.document.issued_ms == 43_200_000
    assert "admits 5 nodes within 12h" in done.stderr
    assert invite_id_of(found.invite).hex() in done.stderr
    facts = json.loads(run(*where, "--json").stdout)
    again = parse_join_text(facts["invite"])
    assert (again.document.uses, again.document.expires_ms) == (1, facts["expires_ms"])
    assert facts["invite_id"] == invite_id_of(again.invite).hex()
    assert again.keys.public_key != found.keys.public_key


def test_by_a_delegate(founder: Path, tmp_path: Path) -> None:
    key = tmp_path / "delegate.key"
    load_or_create_key(key)
    network = (founder / "network.id").read_text().strip()
    done = run("--key", key, "--network", network, "--bootstrap", ADDRESS)
    found = parse_join_text(done.stdout)
    assert (found.network, found.by_authority) == (network, False)
    assert found.invite.signer == load_key(key).public_key


def test_what_is_refused(founder: Path, tmp_path: Path) -> None:
    where = ("--data-dir", founder)
    assert "where do nodes join?" in run(*where).stderr
    assert "not a bootstrap's address" in run(*where, "--bootstrap", "127.0.0.1:1").stderr
    many = [word for _ in range(9) for word in ("--bootstrap", ADDRESS)]
    assert "at most 8 bootstraps" in run(*where, *many).stderr
    assert "not a time like" in run(*where, "--bootstrap", ADDRESS, "--expires", "soon").stderr
    key = tmp_path / "delegate.key"
    load_or_create_key(key)
    assert run(*where, "--key", key, "--bootstrap", ADDRESS).exit_code == 2
    empty = run("--bootstrap", ADDRESS, RESULTITY_DATA_DIR=str(tmp_path / "empty"))
    assert "holds no network" in empty.stderr
