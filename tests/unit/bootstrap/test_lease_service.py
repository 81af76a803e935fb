"""The calls about leases, from a gateway's question to the database and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ledger.lease_client import LeaseClient
from ledger.ledger import Ledger
from ledger.store.database import open_engine
from ledger.store.log.proofs import inclusion_reply
from ledger.store.refusal_store import read_refusals
from p2p.codec import decode_any_message, decode_message
from p2p.errors import RefusedError, UntrustedError
from p2p.lease_messages import (
    Lease,
    LeasedCapture,
    LeasedHold,
    LeaseResult,
    LeaseReturn,
    leased_hold_id,
)
from p2p.ledger_messages import CaptureRequest
from p2p.limits import CLOCK_SKEW_MS_MAX
from p2p.log_messages import ConsumerLeg, Inclusion, OperatorLeg
from p2p.signing import KeyPair, Signed, open_signed
from p2p.types import Role
from tests.fakes.ledger_desk import ACCOUNT, BOOTSTRAP, KEY, TERMS, Desk, caller, open_hold_id
from tests.fakes.ledger_log import sequencer
from tests.fakes.ledger_world import (
    GATEWAY,
    MINT,
    NETWORK,
    NODE_ACCOUNTS,
    NODES,
    OTHER_GATEWAY,
    START_MS,
)


@asynccontextmanager
async def desk_on(url: str) -> AsyncIterator[Desk]:
    clock: list[Desk] = []
    ledger = Ledger(url, NETWORK, clock_ms=lambda: clock[0].clock_ms() if clock else START_MS)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        found = Desk(ledger)
        clock.append(found)
        await found.set_up()
        yield found
        nursery.cancel_scope.cancel()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_on(f"sqlite:///{tmp_path / 'ledger.db'}") as found:
        yield found


def client(desk: Desk, gateway: KeyPair = GATEWAY) -> LeaseClient:
    return LeaseClient(
        desk.call_as(caller(gateway)),
        gateway,
        NETWORK,
        desk.clock_ms,
        trusts=lambda key: key == BOOTSTRAP.public_key,
    )


async def lease(desk: Desk, amount: int = 10_000) -> LeaseResult:
    return await client(desk).lease(
        KEY.key_id,
        KEY.hold_key(),
        lease_id=desk.world.new_id(),
        amount=amount,
        terms=TERMS,
        expires_ms=desk.world.now_ms + 600_000,
    )


def captured(desk: Desk, result: LeaseResult, output_tokens: int, maximum: int = 1_000) -> Signed:
    granted = open_signed(result.lease, Lease, NETWORK)
    now_ms = desk.world.now_ms
    job_id = desk.world.new_id()
    part = LeasedHold(
        granted.lease_id,
        leased_hold_id(granted.lease_id, job_id),
        job_id,
        maximum,
        now_ms,
        now_ms + 60_000,
    )
    hold = desk.world.hold(desk.world.tenant(), 1, hold_id=part.hold_id)
    hold = replace(hold, document=replace(hold.document, job_id=part.job_id))
    leg = desk.world.leg(hold, output_tokens=output_tokens)[1]
    document = LeasedCapture(GATEWAY.sign(NETWORK, part), (leg,), now_ms)
    return GATEWAY.sign(NETWORK, document)


async def test_a_lease_is_granted_charged_and_given_back(desk: Desk) -> None:
    granted = await lease(desk)
    assert granted.available == 90_000
    signed = captured(desk, granted, 100)
    outcomes = await client(desk).captures([signed, captured(desk, granted, 20), signed])
    assert [outcome.result and outcome.result.amount for outcome in outcomes] == [500, 100, 500]
    assert [outcome.result and outcome.result.exists for outcome in outcomes] == [
        False,
        False,
        True,
    ]
    lease_id = open_signed(granted.lease, Lease, NETWORK).lease_id
    gone = await client(desk).give_back(
        return_id=desk.world.new_id(), lease_id=lease_id, final=True
    )
    assert (gone.amount, gone.available) == (9_400, 99_400)
    await desk.ledger.check_integrity()


async def test_a_hold_that_leases_stand_in_the_way_of_says_so(desk: Desk) -> None:
    await lease(desk, 90_000)
    for maximum, code in [(20_000, "credit_leased"), (100_001, "insufficient_funds")]:
        with pytest.raises(RefusedError) as refused:
            await desk.hold(maximum)
        assert refused.value.code == code
    with pytest.raises(RefusedError, match="90000 microcredits are leased") as refused:
        await desk.hold(10_001)
    assert refused.value.retry_after_s == 1.0
    assert await desk.hold(10_000)
    with pytest.raises(RefusedError) as refused:
        await lease(desk, 20_000)
    assert refused.value.code == "credit_leased"


async def test_captures_of_a_batch_are_judged_one_by_one(desk: Desk) -> None:
    granted = await lease(desk, 1_000)
    held = await desk.hold(500)
    hold_id = open_hold_id(held)
    leg = desk.leg(held, output_tokens=40)
    request = CaptureRequest(desk.world.new_id(), hold_id, (leg,), desk.world.now_ms)
    forged = OTHER_GATEWAY.sign(NETWORK, request)
    broken = GATEWAY.sign(NETWORK, request)
    broken = replace(broken, signature=bytes(64))
    foreign_part = captured(desk, granted, 10)
    document = open_signed(foreign_part, LeasedCapture, NETWORK)
    by_other = replace(document, hold=OTHER_GATEWAY.sign(NETWORK, part_of(document)))
    outcomes = await client(desk).captures(
        [
            captured(desk, granted, 120),
            GATEWAY.sign(NETWORK, request),
            forged,
            broken,
            GATEWAY.sign(NETWORK, by_other),
            captured(desk, granted, 120),
            captured(desk, granted, 201, maximum=1_001),
            captured(desk, granted, 80),
            GATEWAY.sign(NETWORK, LeaseReturn(bytes(16), bytes(16), 0, True, START_MS)),
        ]
    )
    assert [outcome.result.amount if outcome.result else outcome.code for outcome in outcomes] == [
        600,
        200,
        "not_entitled",
        "malformed",
        "receipt_invalid",
        "lease_exhausted",
        "receipt_invalid",
        400,
        "malformed",
    ]
    assert outcomes[5].reason == "this lease has 400 microcredits left, 600 are too many"
    await desk.ledger.check_integrity()


async def test_an_overpromising_gateway_is_recorded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    async with desk_on(url) as desk:
        granted = await lease(desk, 100)
        (outcome,) = await client(desk).captures([captured(desk, granted, 21, maximum=100)])
        assert outcome.code == "charge_above_hold"
        signed = [captured(desk, granted, 20, maximum=100), captured(desk, granted, 1, maximum=100)]
        first, second = await client(desk).captures(signed)
        assert (first.code, second.code) == ("", "lease_exhausted")
    engine = open_engine(url, writer=False)
    with engine.begin() as connection:
        kept = {refusal.code: refusal for refusal in read_refusals(connection)}
    engine.dispose()
    assert set(kept) == {"charge_above_hold", "lease_exhausted"}
    assert kept["lease_exhausted"].peer_id == GATEWAY.peer_id
    assert decode_message(kept["lease_exhausted"].evidence, Signed) == signed[1]


async def test_a_revoked_key_ends_new_leases_and_not_what_was_leased(desk: Desk) -> None:
    granted = await lease(desk)
    await desk.client(ACCOUNT).revoke_key(desk.account_id, KEY.key_id)
    with pytest.raises(RefusedError) as refused:
        await lease(desk)
    assert refused.value.code == "key_revoked"
    (outcome,) = await client(desk).captures([captured(desk, granted, 10)])
    assert outcome.result is not None
    lease_id = open_signed(granted.lease, Lease, NETWORK).lease_id
    gone = await client(desk).give_back(
        return_id=desk.world.new_id(), lease_id=lease_id, final=True
    )
    assert gone.available == 99_950


@pytest.mark.parametrize(
    ("limits", "amount"),
    [({"lease_usable_s": 0}, 10), ({"lease_microcredits_max": 9}, 10), ({}, 0)],
)
async def test_leases_are_bounded_by_the_configuration(
    desk: Desk, limits: dict[str, int], amount: int
) -> None:
    changed = desk.configuration.limits.model_copy(update=limits)
    desk.configuration = desk.configuration.model_copy(update={"limits": changed, "version": 2})
    with pytest.raises(RefusedError) as refused:
        await lease(desk, amount)
    assert refused.value.code == "value_refused"


async def test_a_lease_ends_in_bounded_time(desk: Desk) -> None:
    limits = desk.configuration.limits
    longest_ms = (limits.hold_lifetime_s_max + limits.lease_usable_s) * 1000 + CLOCK_SKEW_MS_MAX
    ask = {"lease_id": desk.world.new_id(), "amount": 10, "terms": TERMS}
    with pytest.raises(RefusedError) as refused:
        await client(desk).lease(
            KEY.key_id, KEY.hold_key(), expires_ms=START_MS + longest_ms + 1, **ask
        )
    assert refused.value.code == "hold_expired"
    expires_ms = START_MS + longest_ms
    first = await client(desk).lease(KEY.key_id, KEY.hold_key(), expires_ms=expires_ms, **ask)
    again = await client(desk).lease(KEY.key_id, KEY.hold_key(), expires_ms=expires_ms, **ask)
    assert (first.exists, again.exists, again.lease) == (False, True, first.lease)
    desk.world.now_ms = expires_ms
    (outcome,) = await client(desk).captures([captured(desk, first, 1, maximum=10)])
    assert outcome.code == "hold_expired"
    assert await desk.ledger.expire_holds(expires_ms) == 1
    assert (await desk.hold(100_000)).available == 0


async def test_only_gateways_ask(desk: Desk) -> None:
    as_node = LeaseClient(
        desk.call_as(caller(GATEWAY, Role.NODE)),
        GATEWAY,
        NETWORK,
        desk.clock_ms,
        trusts=lambda key: True,
    )
    granted = await lease(desk)
    with pytest.raises(RefusedError, match="only a certified gateway"):
        await as_node.captures([captured(desk, granted, 1)])
    with pytest.raises(RefusedError, match="only a certified gateway"):
        await as_node.give_back(return_id=bytes(16), lease_id=bytes(16))


async def test_a_lease_that_nobody_may_sign_is_not_believed(desk: Desk) -> None:
    distrustful = LeaseClient(
        desk.call_as(caller(GATEWAY)), GATEWAY, NETWORK, desk.clock_ms, trusts=lambda key: False
    )
    with pytest.raises(UntrustedError, match="not signed by a bootstrap"):
        await distrustful.lease(
            KEY.key_id,
            KEY.hold_key(),
            lease_id=bytes(16),
            amount=10,
            terms=TERMS,
            expires_ms=START_MS + 1000,
        )


async def test_the_log_proves_a_leased_charge_by_its_hold(desk: Desk) -> None:
    granted = await lease(desk)
    signed = captured(desk, granted, 30)
    await client(desk).captures([signed])
    job = part_of(open_signed(signed, LeasedCapture, NETWORK))
    await sequencer(desk.ledger).catch_up()
    owner = ACCOUNT.public_key
    reply = await desk.ledger.read(lambda c: inclusion_reply(c, job.hold_id, owner))
    (charge,) = [opened(item) for item in reply.inclusions]
    assert isinstance(charge, ConsumerLeg)
    assert (charge.kind, charge.amount) == ("leased_capture", 150)
    assert (charge.hold_id, charge.job_id) == (job.hold_id, job.job_id)
    reply = await desk.ledger.read(lambda c: inclusion_reply(c, job.hold_id, NODES[0].public_key))
    (pay,) = [opened(item) for item in reply.inclusions]
    assert isinstance(pay, OperatorLeg)
    leg = open_signed(signed, LeasedCapture, NETWORK).legs[0]
    assert (pay.account, pay.evidence) == (f"earnings:{NODE_ACCOUNTS[0]}", leg.receipt.digest())


def opened(item: Inclusion) -> object:
    return decode_any_message(item.opening)


def part_of(document: LeasedCapture) -> LeasedHold:
    return decode_message(document.hold.body, LeasedHold)


async def test_the_owner_sees_what_is_leased(desk: Desk) -> None:
    granted = await lease(desk, 10_000)
    await desk.hold(1_000)
    await client(desk).captures([captured(desk, granted, 100)])
    owner = desk.client(ACCOUNT, caller(GATEWAY))
    statement = await owner.statement(desk.account_id, "dev", mint_keys=[MINT.public_key])
    assert (statement.held, statement.leased, statement.spent) == (10_500, 9_500, 500)
