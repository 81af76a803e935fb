"""Owns the claims of nodes for ledger tests, beside `tests.fakes.ledger_world`."""

from __future__ import annotations

from ledger.claim_operations import RecordClaim, SettleClaims
from ledger.operations import Leg, OpenLease, PlaceHold
from p2p.claim_messages import Claim
from p2p.lease_messages import LeasedHold
from p2p.ledger_messages import CaptureLeg
from p2p.signing import KeyPair
from tests.fakes.lease_world import part_leg
from tests.fakes.ledger_world import GATEWAY, NETWORK, NODES, Tenant, World


def claim_of(
    world: World,
    leg: tuple[Leg, CaptureLeg],
    *,
    node: KeyPair = NODES[0],
    gateway: KeyPair = GATEWAY,
    part: LeasedHold | None = None,
) -> RecordClaim:
    """A node's claim of a leg."""
    opened, signed = leg
    document = Claim(
        opened.receipt.hold_id,
        signed.receipt,
        signed.delivery,
        world.now_ms,
        gateway.sign(NETWORK, part) if part is not None else None,
    )
    return RecordClaim(node.sign(NETWORK, document), document, gateway.peer_id, opened, part)


def claim(
    world: World,
    hold: PlaceHold,
    *,
    node: KeyPair = NODES[0],
    gateway: KeyPair = GATEWAY,
    **options: object,
) -> RecordClaim:
    """A node's claim on a hold; options as for `World.leg`."""
    leg = world.leg(hold, node=node, gateway=gateway, **options)  # type: ignore[arg-type]
    return claim_of(world, leg, node=node, gateway=gateway)


def leased_claim(
    world: World,
    job: LeasedHold,
    tenant: Tenant,
    *,
    node: KeyPair = NODES[0],
    **options: object,
) -> RecordClaim:
    """A node's claim on its part of a lease; options as for `World.leg`."""
    return claim_of(world, part_leg(world, job, tenant, node=node, **options), node=node, part=job)


def settle(world: World, hold: PlaceHold) -> SettleClaims:
    """What the sweep asks for at a hold's end."""
    hold_id = hold.document.hold_id
    return SettleClaims(hold_id, hold_id, world.now_ms)


def settle_part(world: World, opened: OpenLease, job: LeasedHold) -> SettleClaims:
    """What the sweep asks for at a lease's end, for one job."""
    return SettleClaims(opened.document.lease_id, job.hold_id, world.now_ms)
