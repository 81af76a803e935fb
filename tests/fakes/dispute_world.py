"""Owns the operations of disputes for tests: opened by a tenant, answered, decided."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ledger.operations import AnswerDispute, OpenDispute, PlaceHold, ResolveDispute
from p2p.dispute_messages import DisputeAnswer, DisputeOpening, DisputeResolution
from p2p.ledger_messages import AccountFounding
from p2p.signing import KeyPair
from tests.fakes.ledger_world import NETWORK, Tenant, World, key_pair

DECIDER = key_pair(70)
WINDOW_MS = 3 * 86_400_000
EVIDENCE = b"sealed"


def dispute(
    world: World,
    tenant: Tenant,
    hold: PlaceHold | bytes,
    *,
    claimed: int = 1,
    window_ms: int = WINDOW_MS,
    signer: KeyPair | None = None,
    **changes: object,
) -> OpenDispute:
    """An opening by a tenant about the charge of a hold."""
    document = DisputeOpening(
        tenant.account_id,
        hold if isinstance(hold, bytes) else hold.document.hold_id,
        claimed,
        "the answer stopped in the middle",
        hashlib.sha256(EVIDENCE).digest(),
        world.now_ms,
    )
    document = replace(document, **changes)
    signed = (signer or tenant.keys).sign(NETWORK, document)
    return OpenDispute(signed, document, EVIDENCE, window_ms)


def answer(
    world: World, operator: Tenant, hold: PlaceHold, text: str = "it was complete"
) -> AnswerDispute:
    """An operator's answer."""
    document = DisputeAnswer(operator.account_id, hold.document.hold_id, text, world.now_ms)
    return AnswerDispute(operator.keys.sign(NETWORK, document), document)


def decision(
    world: World,
    hold: PlaceHold | bytes,
    refund: int,
    *,
    signer: KeyPair = DECIDER,
    note: str = "as agreed",
) -> ResolveDispute:
    """A decider's resolution."""
    hold_id = hold if isinstance(hold, bytes) else hold.document.hold_id
    document = DisputeResolution(hold_id, refund, note, world.now_ms)
    return ResolveDispute(signer.sign(NETWORK, document), document)


def operator_tenant(world: World) -> Tenant:
    """An account that operates nodes (bind them to it)."""
    founding = world.tenant(40, "own")
    assert isinstance(founding.founding.document, AccountFounding)
    return founding
