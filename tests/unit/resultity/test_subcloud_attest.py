"""`subcloud attest`: a file that the node takes, made without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from p2p.clock import system_clock_ms
from p2p.codec import decode_message
from p2p.hardware import GpuHardware
from p2p.identity import store_key
from p2p.signing import Signed
from p2p.subclouds.evidence_documents import KnownAttestation, open_document
from p2p.subclouds.evidence_messages import DeclaredSpeed
from resultity.commands.subcloud_attest import attest
from resultity.errors import SettingsError
from resultity.subclouds.attesting import make_attestation
from resultity.subclouds.notes import notes_about
from tests.fakes.subclouds import DELEGATE, NETWORK, a_policy, identity_of
from tests.fakes.trust import NODE

TEAM = identity_of("team")


def run(folder: Path, *more: str) -> Any:
    key = folder / "delegate.key"
    if not key.exists():
        store_key(key, DELEGATE)
    arguments = [TEAM, NODE.peer_id, "--network", NETWORK, "--delegate-key", str(key)]
    arguments += ["-o", str(folder / "node.evidence"), *more]
    return CliRunner().invoke(attest, arguments)


def test_a_delegate_vouches_offline(tmp_path: Path) -> None:
    hardware = ("--gpu", "RTX 4090=24GiB", "--memory", "64 GiB", "--speed", f"{'07' * 32}=40")
    result = run(tmp_path, "--country", "DE", *hardware)
    assert result.exit_code == 0, result.output
    signed = decode_message((tmp_path / "node.evidence").read_bytes(), Signed)
    known = open_document(signed, NETWORK, NODE.peer_id, system_clock_ms())
    assert isinstance(known, KnownAttestation)
    assert known.signer == DELEGATE.public_key
    document = known.document
    assert (document.subcloud_id, document.country) == (TEAM, "DE")
    assert document.memory_bytes == 64 * 2**30
    assert document.gpus == (GpuHardware("RTX 4090", 24 * 2**30),)
    assert document.speeds == (DeclaredSpeed(b"\x07" * 32, 40.0),)
    assert document.attestation_id.hex() in result.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "what is attested"),
        (("--country", "Germany"), "country"),
        (("--memory", "lots"), "size"),
        (("--gpu", "=24GiB"), "GPU"),
        (("--speed", "07=40"), "speed"),
        (("--speed", f"{'07' * 32}=inf"), "speed"),
        (("--country", "DE", "--for", "9999d"), "at most"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    result = run(tmp_path, *more)
    assert result.exit_code != 0
    assert said in result.output
    assert not (tmp_path / "node.evidence").exists()


def test_no_more_gpus_than_fit() -> None:
    with pytest.raises(SettingsError, match="at most"):
        make_attestation(TEAM, NODE.peer_id, gpus=["x"] * 17, lifetime_s=60, now_ms=0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hardware": {"evidence": "benchmarked", "gpu": {}}}, "tokens_per_second_min"),
        ({"hardware": {"evidence": "attested", "gpu": {}}}, "delegate_keys"),
        ({"regions": {"evidence": "attested", "allow": ["DE"]}}, "delegate_keys"),
        ({"regions": {"evidence": "proven", "allow": ["DE"]}}, ""),
        ({"hardware": {"evidence": "benchmarked", "tokens_per_second_min": 5}}, ""),
    ],
)
def test_what_no_evidence_can_meet_is_noted(fields: dict[str, Any], said: str) -> None:
    policy = a_policy(**fields, callers={"anyone": True})
    notes = " ".join(notes_about(policy))
    assert said in notes
    assert bool(notes) == bool(said)
