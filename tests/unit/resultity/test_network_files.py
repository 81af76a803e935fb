"""The founder's files: founding once, signing the next version, certificates that verify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2p.certificates import verify_chain
from p2p.errors import MalformedError, P2PError
from p2p.network_configuration import (
    ApprovedModel,
    check_successor,
    configuration_digest,
)
from p2p.signing import KeyPair
from p2p.types import AccountId, Role
from resultity.errors import DataFolderError, SettingsError
from resultity.network_files import (
    NetworkFiles,
    certify,
    found_network,
    read_chain,
    read_signed,
    sign_next,
    write_chain,
)

NOW_MS = 1_800_000_000_000
ACCOUNT = AccountId("acct-" + "1" * 40)
MODEL = ApprovedModel(
    name="m",
    digest="ab" * 32,
    context_tokens=1024,
    input_microcredits_per_million_tokens=1,
    output_microcredits_per_million_tokens=2,
)


def clock_ms() -> int:
    return NOW_MS


@pytest.fixture
def files(tmp_path: Path) -> NetworkFiles:
    return found_network(tmp_path / "net", "test", [MODEL], clock_ms)


def test_founding_makes_private_keys_and_a_signed_first_version(files: NetworkFiles) -> None:
    _, configuration = files.configuration()
    assert configuration.version == 1
    assert configuration.models == (MODEL,)
    assert files.network().startswith("test-")
    for path in (files.authority_path, files.mint_path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert files.folder.stat().st_mode & 0o077 == 0


def test_a_network_is_founded_once(files: NetworkFiles) -> None:
    with pytest.raises(DataFolderError, match="holds a network already"):
        found_network(files.folder, "test", [], clock_ms)


def test_an_interrupted_founding_is_finished_with_the_same_keys(files: NetworkFiles) -> None:
    network = files.network()
    files.configuration_path.unlink()
    assert found_network(files.folder, "test", [], clock_ms).network() == network


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "x" * 40, ".a"])
def test_bad_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedError, match="network name"):
        found_network(tmp_path / "net", name, [], clock_ms)


def test_signing_makes_a_successor(files: NetworkFiles) -> None:
    old_signed, old = files.configuration()
    document = json.loads(old.model_dump_json())
    document["fees"]["gateway_basis_points"] = 100
    document["version"], document["network_id"] = 77, "other-" + "0" * 32
    made = sign_next(files, json.dumps(document), clock_ms)
    new_signed, new = files.configuration()
    assert made == new
    assert new.version == 2
    assert new.network_id == old.network_id
    assert new.fees.gateway_basis_points == 100
    assert check_successor(
        old, configuration_digest(old_signed), new, configuration_digest(new_signed)
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"fees": {"gateway_basis_points": 9999}}, "fees.gateway_basis_points"),
        ({"colour": "red"}, "no field colour"),
        ({"fees": {"gatway_basis_points": 1}}, "no field fees.gatway_basis_points"),
        ({"models": [MODEL.model_dump(), MODEL.model_dump()]}, "listed twice"),
    ],
)
def test_a_bad_edit_is_refused_with_its_place(
    files: NetworkFiles, change: dict[str, object], complaint: str
) -> None:
    _, old = files.configuration()
    document = json.loads(old.model_dump_json()) | change
    with pytest.raises(SettingsError, match=complaint):
        sign_next(files, json.dumps(document), clock_ms)
    assert files.configuration()[1] == old


def test_signing_needs_the_right_private_key(files: NetworkFiles) -> None:
    document = files.configuration()[1].model_dump_json()
    files.authority_path.chmod(0o644)
    with pytest.raises(P2PError, match="chmod 600"):
        sign_next(files, document, clock_ms)
    files.authority_path.unlink()
    with pytest.raises(DataFolderError, match="only it can sign"):
        sign_next(files, document, clock_ms)


def test_foreign_authority_key_is_noticed(files: NetworkFiles, tmp_path: Path) -> None:
    other = found_network(tmp_path / "other", "test", [], clock_ms)
    files.authority_path.write_bytes(other.authority_path.read_bytes())
    with pytest.raises(DataFolderError, match="is not the key of"):
        files.authority()


@pytest.mark.parametrize("role", [Role.BOOTSTRAP, Role.GATEWAY])
def test_certificates_verify_after_a_round_through_a_file(
    files: NetworkFiles, tmp_path: Path, role: Role
) -> None:
    peer = KeyPair.generate().peer_id
    path = tmp_path / "chain"
    write_chain(path, certify(files, peer, role, ACCOUNT, clock_ms))
    chain = read_chain(path.read_bytes(), str(path))
    certificate = verify_chain(chain, files.network(), peer, NOW_MS + 1)
    assert certificate.role is role
    assert certificate.account_id == ACCOUNT


def test_damaged_files(files: NetworkFiles, tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match="cannot read"):
        read_signed(tmp_path / "none")
    files.configuration_path.write_bytes(b"\x00\x01")
    with pytest.raises(MalformedError, match="is damaged"):
        files.configuration()
    with pytest.raises(MalformedError, match="not a certificate chain"):
        read_chain(b"junk", "x")
    with pytest.raises(DataFolderError, match="holds no network"):
        NetworkFiles(tmp_path / "empty").network()
