"""Claims over the service and the sweep, on each database: paid once, judged, asked about."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from sqlalchemy import Connection, select

from ledger import methods
from ledger.claim_sweep import CLAIM_DISAGREEMENT
from ledger.ledger import Ledger
from ledger.store.claim_store import hold_standing
from ledger.store.claim_tables import CLAIMS
from ledger.store.queries import namespace_view
from ledger.store.refusal_store import read_refusals
from p2p.api_keys import lease_mac
from p2p.claim_messages import Claim, HoldQuery
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, RefusedError
from p2p.lease_messages import LeasedHold, LeaseRequest, leased_hold_id
from p2p.ledger_messages import CaptureLeg
from p2p.signing import open_signed
from tests.fakes.claim_desk import ask, claim, desk_on, earned, quiet, signed_claim, standings
from tests.fakes.ledger_desk import KEY, TERMS, Desk, caller, open_hold_id
from tests.fakes.ledger_world import (
    GATEWAY,
    NETWORK,
    NODES,
    OTHER_GATEWAY,
)


async def states(desk: Desk) -> list[str]:
    def read(connection: Connection) -> list[str]:
        statement = select(CLAIMS.c.state).order_by(CLAIMS.c.hold_id, CLAIMS.c.attempt)
        return list(connection.execute(statement).scalars())

    return await desk.ledger.read(read)


async def test_a_claim_is_paid_once_by_whoever_sweeps(url: str) -> None:
    async with desk_on(url) as desk:
        hold = await desk.hold()
        hold_id = open_hold_id(hold)
        first = desk.leg(hold, input_tokens=10, output_tokens=20)
        second = desk.leg(hold, node=NODES[1], attempt=1, output_tokens=30)
        assert await standings(desk, hold_id, bytes(16)) == [("open", 0, 0), ("unknown", 0, 0)]
        assert (await claim(desk, first)).amount == 120
        assert (await claim(desk, first)).exists
        await claim(desk, second, NODES[1])
        with pytest.raises(RefusedError) as refused:
            await desk.gateway.release(release_id=desk.world.new_id(), hold_id=hold_id)
        assert refused.value.code == "hold_claimed"
        assert await desk.ledger.expire_holds(desk.world.now_ms) == 0
        desk.world.now_ms += 60_000
        other = Ledger(url, NETWORK, clock_ms=desk.clock_ms, sweep_interval_s=1e9)
        ended: list[int] = []

        async def sweep(ledger: Ledger) -> None:
            ended.append(await ledger.expire_holds(desk.world.now_ms))

        async with trio.open_nursery() as nursery:
            await nursery.start(other.run)
            async with trio.open_nursery() as sweeps:
                for ledger in (desk.ledger, other, desk.ledger):
                    sweeps.start_soon(sweep, ledger)
            nursery.cancel_scope.cancel()
        assert sum(ended) == 1
        assert await states(desk) == ["paid", "paid"]
        assert await earned(desk, 0) + await earned(desk, 1) == 270 - 2 * 13
        assert await standings(desk, hold_id) == [("claimed", 10, 20)]
        with pytest.raises(RefusedError) as refused:
            await claim(desk, first)
        assert refused.value.code == "hold_ended"
        view = await desk.ledger.read(lambda c: namespace_view(c, f"{desk.account_id}/dev"))
        assert view is not None
        assert (view.available, view.held) == (100_000 - 270, 0)
        await quiet(desk, url)


async def test_a_gateway_that_pays_less_than_it_countersigned_is_recorded(url: str) -> None:
    async with desk_on(url) as desk:
        holds = [await desk.hold() for _ in range(4)]
        proofs = [desk.leg(hold, input_tokens=10, output_tokens=20) for hold in holds]
        for proof in proofs[:2]:
            await claim(desk, proof)
        less = [
            desk.leg(holds[0], output_tokens=5),
            proofs[1],
            desk.leg(holds[2], output_tokens=19),
        ]
        for hold, leg in zip(holds, less, strict=False):
            await desk.gateway.capture(
                capture_id=desk.world.new_id(), hold_id=open_hold_id(hold), legs=[leg]
            )
        await desk.gateway.release(release_id=desk.world.new_id(), hold_id=open_hold_id(holds[3]))
        # Two nodes come with their proof when all is over: it is kept, once.
        for proof in (proofs[2], proofs[3], proofs[3]):
            await claim(desk, proof)
        for _ in range(2):
            await desk.ledger.expire_holds(desk.world.now_ms)
        assert sorted(await states(desk)) == ["paid", "underpaid", "underpaid", "underpaid"]
        kept = [r for r in await desk.ledger.read(read_refusals) if r.code == CLAIM_DISAGREEMENT]
        assert [(one.peer_id, one.times) for one in kept] == [(GATEWAY.peer_id, 3)]
        assert "output tokens of attempt 0" in kept[0].reason
        proof = decode_message(kept[0].evidence, type(proofs[0].receipt))
        open_signed(proof, Claim, NETWORK, signer=NODES[0].public_key)
        await quiet(desk, url)


async def leased(desk: Desk, amount: int) -> LeaseRequest:
    lease_id, expires_ms = desk.world.new_id(), desk.world.now_ms + 600_000
    mac = lease_mac(KEY.hold_key(), NETWORK, GATEWAY.peer_id, lease_id, amount, expires_ms)
    document = LeaseRequest(lease_id, KEY.key_id, amount, TERMS, desk.world.now_ms, expires_ms, mac)
    body = encode_message(GATEWAY.sign(NETWORK, document))
    await desk.handlers[methods.LEASE](caller(GATEWAY), body)
    return document


def part_of(desk: Desk, lease: LeaseRequest, maximum: int) -> LeasedHold:
    job_id, now_ms = desk.world.new_id(), desk.world.now_ms
    hold_id = leased_hold_id(lease.lease_id, job_id)
    return LeasedHold(lease.lease_id, hold_id, job_id, maximum, now_ms, now_ms + 60_000)


def part_leg(desk: Desk, part: LeasedHold, **options: object) -> CaptureLeg:
    hold = desk.world.hold(desk.world.tenant(), 1, hold_id=part.hold_id)
    document = replace(hold.document, job_id=part.job_id)
    return desk.world.leg(replace(hold, document=document), **options)[1]


async def test_claims_out_of_a_lease_are_paid_at_its_end(url: str) -> None:
    async with desk_on(url) as desk:
        lease = await leased(desk, 500)
        parts = [part_of(desk, lease, 300) for _ in range(3)]
        legs = [part_leg(desk, part, input_tokens=10, output_tokens=40) for part in parts]
        for part, leg in zip(parts[:2], legs, strict=False):
            assert (await claim(desk, leg, part=part)).amount == 220
        ids = [part.hold_id for part in parts]
        assert await standings(desk, *ids, lease=lease.lease_id) == [("open", 0, 0)] * 3
        desk.world.now_ms += 600_000
        # Two claimed jobs, and the lease with what it has left.
        assert await desk.ledger.expire_holds(desk.world.now_ms) == 3
        assert await states(desk) == ["paid", "paid"]
        assert await earned(desk, 0) == 2 * (220 - 22)
        found = await standings(desk, *ids, lease=lease.lease_id)
        assert found == [("claimed", 10, 40), ("claimed", 10, 40), ("expired", 0, 0)]
        with pytest.raises(RefusedError) as refused:
            await claim(desk, legs[2], part=parts[2])
        assert refused.value.code == "hold_ended"
        await quiet(desk, url)


async def test_what_does_not_fit_is_refused_and_recorded(url: str) -> None:
    async with desk_on(url) as desk:
        hold, other = await desk.hold(), await desk.hold()
        good = desk.leg(hold, output_tokens=4)
        stolen = desk.leg(hold, node=NODES[1], output_tokens=4)
        forged = replace(good, delivery=replace(good.delivery, signature=bytes(64)))
        foreign = desk.leg(other, output_tokens=4)
        above = desk.leg(hold, output_tokens=4, delivery={"output_tokens": 5})
        for leg, code in (
            (stolen, "receipt_invalid"),
            (forged, "receipt_invalid"),
            (above, "receipt_invalid"),
            (desk.leg(hold, output_tokens=4, gateway=OTHER_GATEWAY), "hold_foreign"),
            (desk.leg(hold, output_tokens=400), "charge_above_hold"),
        ):
            with pytest.raises(RefusedError) as refused:
                await claim(desk, leg)
            assert refused.value.code == code
        with pytest.raises(RefusedError) as refused:  # the claim of one hold with another's legs
            document = Claim(open_hold_id(hold), foreign.receipt, foreign.delivery, 0)
            body = encode_message(NODES[0].sign(NETWORK, document))
            await ask(desk, methods.CLAIM, body)
        assert refused.value.code == "receipt_invalid"
        with pytest.raises(RefusedError) as refused:  # somebody else's claim
            await ask(desk, methods.CLAIM, signed_claim(desk, good), NODES[1])
        assert refused.value.code == "not_entitled"
        with pytest.raises(RefusedError) as refused:
            await desk.handlers[methods.CLAIM](caller(GATEWAY), signed_claim(desk, good))
        assert refused.value.code == "not_entitled"
        with pytest.raises(MalformedError):
            await ask(
                desk, methods.HOLD_STANDINGS, encode_message(HoldQuery((bytes(16),), (b"",) * 2))
            )
        assert await states(desk) == []
        hold_id = open_hold_id(hold)
        standing = await desk.ledger.read(
            lambda c: hold_standing(c, hold_id, b"", NODES[0].peer_id)
        )
        assert standing.state == "open"
