"""Attestations travel through the bootstraps: kept for their node, signed by a delegate only."""

from __future__ import annotations

from typing import Any

import pytest

from p2p.codec import decode_any_message, decode_message
from p2p.errors import RefusedError, StaleError, UntrustedError
from p2p.signing import KeyPair, Signed
from p2p.subclouds.evidence_messages import Attestation
from p2p.subclouds.requests import sign_request
from p2p.types import Role
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.policy_owners import DELEGATE, PolicyOwner
from tests.fakes.subcloud_desk import HOUR_MS, certificate_for, join_request, open_desk
from tests.fakes.trust import NETWORK, NODE, OTHER_NODE

OWNER = PolicyOwner(1)
TEAM = OWNER.identity()


def attestation(signer: KeyPair = DELEGATE, **fields: Any) -> Signed:
    content: dict[str, Any] = {
        "attestation_id": bytes(16),
        "subcloud_id": TEAM,
        "node": NODE.peer_id,
        "issued_ms": START_MS,
        "expires_ms": START_MS + HOUR_MS,
        "country": "DE",
    }
    return signer.sign(NETWORK, Attestation(**content | fields))


async def test_a_node_fetches_what_a_delegate_vouches_for(url: str) -> None:
    clock = FakeClock()
    async with open_desk(url, clock) as desk:
        await desk.found(OWNER)
        await desk.as_peer().publish(OWNER.record(join="semi-open"))
        node, put = desk.as_peer(NODE, Role.NODE), desk.as_peer().put_certificate
        for worthless, error in (
            (attestation(NODE), UntrustedError),
            (attestation(expires_ms=START_MS), StaleError),
            (attestation(subcloud_id=OWNER.identity("other")), RefusedError),
        ):
            with pytest.raises(error):
                await put(worthless)
        await node.put_request(join_request(NODE, TEAM, START_MS))
        memory = attestation(country="", memory_bytes=64)
        await put(attestation())
        await put(memory)  # about another thing: beside the first
        await put(certificate_for(NODE, TEAM, START_MS))
        await put(attestation(country="FR", issued_ms=START_MS + 1))
        with pytest.raises(StaleError):
            await put(attestation())
        answers = await node.certificates()
        found = [decode_message(a.body, Attestation) for a in answers if _is_attestation(a)]
        assert {(one.country, one.memory_bytes) for one in found} == {("FR", 0), ("", 64)}
        assert len(answers) == 3
        assert not await desk.as_peer(OTHER_NODE, Role.NODE).certificates()
        clock.advance(3601)
        assert not await node.certificates()


def _is_attestation(signed: Signed) -> bool:
    return isinstance(decode_any_message(signed.body), Attestation)


async def test_an_attestation_does_not_end_a_request(url: str) -> None:
    async with open_desk(url) as desk:
        await desk.found(OWNER)
        await desk.as_peer().publish(OWNER.record(join="semi-open"))
        node = desk.as_peer(NODE, Role.NODE)
        await node.put_request(join_request(NODE, TEAM, START_MS))
        await desk.as_peer().put_certificate(attestation())
        question = sign_request(DELEGATE, NETWORK, TEAM, "requests", START_MS)
        assert len(await desk.as_peer().requests(question)) == 1
