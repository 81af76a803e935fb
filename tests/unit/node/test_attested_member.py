"""A node counts what delegates vouch for when it judges itself, but only theirs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from node.subclouds.membership_rules import State, judge
from p2p.hardware import GpuHardware
from p2p.signing import KeyPair
from p2p.subclouds.evidence_documents import KnownAttestation
from p2p.subclouds.evidence_messages import Attestation
from tests.fakes.member_nodes import NODE, a_candidate, a_state, own
from tests.fakes.subclouds import DELEGATE, NOW_MS, identity_of

ASKS = a_state(
    hardware={"gpu": {"kind": "A100"}, "evidence": "attested"},
    delegate_keys=(DELEGATE.public_key.hex(),),
)


def attestation(signer: KeyPair = DELEGATE, **fields: Any) -> KnownAttestation:
    content: dict[str, Any] = {
        "attestation_id": bytes(16),
        "subcloud_id": identity_of("team"),
        "node": NODE.peer_id,
        "issued_ms": NOW_MS,
        "expires_ms": NOW_MS + 1000,
        "gpus": (GpuHardware("A100", 80),),
    }
    return KnownAttestation(Attestation(**content | fields), signer.public_key)


@pytest.mark.parametrize(
    ("known", "state"),
    [
        ((), State.OUT),
        ((attestation(),), State.MEMBER),
        ((attestation(KeyPair(b"s" * 32)),), State.OUT),
        ((attestation(subcloud_id=identity_of("other")),), State.OUT),
        ((attestation(expires_ms=NOW_MS),), State.OUT),
    ],
    ids=["nothing", "attested", "by a stranger", "elsewhere", "over"],
)
def test_hardware_that_a_node_does_not_have_itself(
    known: tuple[KnownAttestation, ...], state: State
) -> None:
    """As of a node whose models run on another machine (an upstream server)."""
    found = judge(replace(a_candidate(ASKS), attestations=known), own(), NOW_MS)
    assert (found.state is State.MEMBER) == (state is State.MEMBER)
