"""Owns the operations of leases for ledger tests, beside `tests.fakes.ledger_world`."""

from __future__ import annotations

from dataclasses import replace

from ledger.hold_context import NO_CONTEXT, HoldContext
from ledger.operations import CaptureLeased, ExpireHold, Leg, OpenLease, PlaceHold, ReturnLease
from p2p.api_keys import lease_mac
from p2p.lease_messages import LeasedCapture, LeasedHold, LeaseRequest, LeaseReturn, leased_hold_id
from p2p.ledger_messages import CaptureLeg
from p2p.prices import FeeRule, PriceTerms
from p2p.signing import KeyPair
from tests.fakes.ledger_world import (
    CAP,
    DIGEST,
    FEES,
    GATEWAY,
    GATEWAY_ACCOUNT,
    NETWORK,
    NODES,
    TERMS,
    Tenant,
    World,
)


def lease(
    world: World,
    tenant: Tenant,
    amount: int,
    *,
    gateway: KeyPair = GATEWAY,
    lifetime_ms: int = 600_000,
    terms: PriceTerms = TERMS,
    fees: FeeRule = FEES,
    amount_max: int = CAP,
    lease_id: bytes | None = None,
    mac: bytes | None = None,
    context: HoldContext = NO_CONTEXT,
    caller_network: str = "",
) -> OpenLease:
    """A lease, as a gateway asks for it."""
    lease_id = lease_id or world.new_id()
    expires_ms = world.now_ms + lifetime_ms
    proof = mac or lease_mac(
        tenant.api_key.hold_key(), NETWORK, gateway.peer_id, lease_id, amount, expires_ms
    )
    document = LeaseRequest(
        lease_id,
        tenant.api_key.key_id,
        amount,
        terms,
        world.now_ms,
        expires_ms,
        proof,
        caller_network=caller_network,
    )
    signed = gateway.sign(NETWORK, document)
    return OpenLease(
        signed,
        document,
        NETWORK,
        gateway.peer_id,
        GATEWAY_ACCOUNT,
        DIGEST,
        fees,
        1_200_000,
        amount_max,
        context=context,
    )


def part(
    world: World, opened: OpenLease, maximum: int, *, lifetime_ms: int = 60_000, **changes: object
) -> LeasedHold:
    """One job's part of a lease."""
    lease_id, job_id, now_ms = opened.document.lease_id, world.new_id(), world.now_ms
    ends_ms = min(now_ms + lifetime_ms, opened.document.expires_ms)
    hold_id = leased_hold_id(lease_id, job_id)
    made = LeasedHold(lease_id, hold_id, job_id, maximum, now_ms, ends_ms)
    return replace(made, **changes)  # type: ignore[arg-type]


def part_leg(
    world: World, job: LeasedHold, tenant: Tenant, **options: object
) -> tuple[Leg, CaptureLeg]:
    """A leg of a job that is paid from a lease; options as for `World.leg`."""
    hold: PlaceHold = world.hold(tenant, 1, hold_id=job.hold_id)
    document = replace(hold.document, job_id=job.job_id)
    return world.leg(replace(hold, document=document), **options)  # type: ignore[arg-type]


def capture_leased(
    world: World,
    job: LeasedHold,
    legs: list[tuple[Leg, CaptureLeg]],
    *,
    gateway: KeyPair = GATEWAY,
    outcome: str = "",
) -> CaptureLeased:
    """The settlement of a job out of its lease."""
    document = LeasedCapture(
        gateway.sign(NETWORK, job), tuple(signed for _, signed in legs), world.now_ms, outcome
    )
    return CaptureLeased(
        gateway.sign(NETWORK, document),
        document,
        job,
        gateway.peer_id,
        tuple(leg for leg, _ in legs),
    )


def charge_leased(
    world: World,
    opened: OpenLease,
    tenant: Tenant,
    output_tokens: int,
    *,
    maximum: int = 0,
) -> CaptureLeased:
    """A job of one leg (5 microcredits an output token), run and settled out of a lease."""
    job = part(world, opened, maximum or min(5 * output_tokens, opened.document.amount))
    leg = part_leg(world, job, tenant, node=NODES[0], output_tokens=output_tokens)
    return capture_leased(world, job, [leg])


def give_back(
    world: World,
    opened: OpenLease,
    amount: int = 0,
    *,
    final: bool = False,
    gateway: KeyPair = GATEWAY,
    failed: int = 0,
    client_left: int = 0,
) -> ReturnLease:
    """A part of a lease, or all of it, given back."""
    document = LeaseReturn(
        world.new_id(),
        opened.document.lease_id,
        amount,
        final,
        world.now_ms,
        failed,
        client_left,
    )
    return ReturnLease(gateway.sign(NETWORK, document), document, gateway.peer_id)


def expire(world: World, opened: OpenLease) -> ExpireHold:
    """What the sweep asks for."""
    return ExpireHold(opened.document.lease_id, world.now_ms)
