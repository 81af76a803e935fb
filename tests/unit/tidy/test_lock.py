"""The lock files: pinned, hashed, without a registry host, right in the pin they override."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from libp2p.crypto.ecc import ECCPublicKey, create_new_key_pair

ROOT = Path(__file__).resolve().parents[3]
LOCKS = ("requirements.txt", "requirements-llama.txt", "requirements-build.txt")
DEMO_MODEL = ROOT / "resultity" / "models" / "tiny-chat-q8_0.gguf"


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_and_hashed(name: str) -> None:
    text = (ROOT / name).read_text()
    requirements = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert requirements
    for line in requirements:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+ (; .* )?\\$", line), line
    blocks = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("name", LOCKS)
def test_no_registry_host_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "index-url" not in text
    assert "find-links" not in text


def test_pins_that_must_not_drift() -> None:
    assert "libp2p==0.8.1 " in (ROOT / "requirements.txt").read_text()
    assert "llama-cpp-python==0.3.36 " in (ROOT / "requirements-llama.txt").read_text()
    assert "llama-cpp-python" not in (ROOT / "requirements.txt").read_text()


def test_overridden_fastecdsa_serves_libp2p() -> None:
    """libp2p asks for fastecdsa 2.3.2; the lock overrides it (pyproject.toml says why)."""
    key = create_new_key_pair("P-256").public_key
    encoded = key.to_bytes()
    assert ECCPublicKey.from_bytes(encoded, "P-256").to_bytes() == encoded


def test_demo_model_is_the_one_its_readme_names() -> None:
    digest = hashlib.sha256(DEMO_MODEL.read_bytes()).hexdigest()
    assert digest in (DEMO_MODEL.parent / "README.md").read_text()
