"""The ledger's calls, from a client's question through the service to the database and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ledger import methods
from ledger.client import LedgerClient
from ledger.ledger import Ledger
from p2p.calls import Caller
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, RefusedError, StaleError, UntrustedError
from p2p.ledger_messages import CaptureLeg, Grant, HoldResult, Statement, TransferResult, Voucher
from p2p.network_configuration import price_terms
from p2p.signing import KeyPair, open_signed
from p2p.types import Role
from tests.fakes.ledger_desk import (
    ACCOUNT,
    BOOTSTRAP,
    CONFIGURATION,
    KEY,
    MODEL,
    TERMS,
    Desk,
    caller,
    open_hold_id,
)
from tests.fakes.ledger_world import (
    GATEWAY,
    GATEWAY_ACCOUNT,
    MINT,
    NETWORK,
    NODE_ACCOUNTS,
    NODES,
    OTHER_GATEWAY,
    START_MS,
)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    world_clock: list[Desk] = []
    ledger = Ledger(
        f"sqlite:///{tmp_path / 'ledger.db'}",
        NETWORK,
        clock_ms=lambda: world_clock[0].clock_ms() if world_clock else START_MS,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        found = Desk(ledger)
        world_clock.append(found)
        await found.set_up()
        yield found
        nursery.cancel_scope.cancel()


async def refused(code: str, wait: Awaitable[object]) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        await wait
    assert caught.value.code == code, caught.value
    return caught.value


async def test_a_job_is_held_captured_and_paid(desk: Desk) -> None:
    result = await desk.hold(1_000)
    assert result.available == 99_000
    hold_id = open_hold_id(result)
    leg = desk.leg(result, input_tokens=100, output_tokens=50)
    captured = await desk.gateway.capture(capture_id=bytes(16), hold_id=hold_id, legs=[leg])
    assert (captured.amount, captured.available) == (450, 99_550)
    node = caller(NODES[0], Role.NODE, NODE_ACCOUNTS[0])
    earned = await desk.client(NODES[0], node).earnings(NODE_ACCOUNTS[0])
    assert (earned.earned, earned.fees, earned.legs) == (406, 0, 1)
    fees = await desk.gateway.earnings(GATEWAY_ACCOUNT)
    assert fees.fees == 22
    record = await desk.gateway.key_lookup(KEY.key_id, KEY.hold_key())
    assert (record.account_id, record.namespace, record.available) == (
        desk.account_id,
        "dev",
        99_550,
    )
    statement = await desk.gateway.statement(
        desk.account_id,
        "dev",
        mint_keys=[MINT.public_key],
        key_id=KEY.key_id,
        hold_key=KEY.hold_key(),
    )
    assert (statement.available, statement.held, statement.spent) == (99_550, 0, 450)


async def test_a_hold_can_be_given_back(desk: Desk) -> None:
    result = await desk.hold(1_000)
    released = await desk.gateway.release(release_id=bytes(16), hold_id=open_hold_id(result))
    assert (released.amount, released.available, released.exists) == (1_000, 100_000, False)
    again = await desk.gateway.release(release_id=bytes(16), hold_id=open_hold_id(result))
    assert again == replace(released, exists=True)


async def test_a_repeated_hold_has_the_same_voucher(desk: Desk) -> None:
    arguments = {
        "hold_id": bytes([5]) * 16,
        "job_id": bytes([6]) * 16,
        "expires_ms": desk.world.now_ms + 60_000,
    }
    first = await desk.hold(**arguments)
    again = await desk.hold(**arguments)
    assert (again.voucher, again.exists) == (first.voucher, True)
    await refused("id_conflict", desk.hold(999, **arguments))


async def test_refusals_carry_the_ledgers_code(desk: Desk) -> None:
    error = await refused("insufficient_funds", desk.hold(100_001))
    assert str(error) == "100001 microcredits are needed, 100000 are available"
    stale = replace(TERMS, configuration_version=2)
    await refused("terms", desk.hold(terms=stale))
    await refused("terms", desk.hold(terms=replace(TERMS, model_name="unknown")))
    cheap = replace(TERMS, output_microcredits_per_million_tokens=1)
    await refused("terms", desk.hold(terms=cheap))
    await refused("hold_expired", desk.hold(expires_ms=desk.world.now_ms + 10**7))
    with pytest.raises(StaleError):
        await desk.hold(expires_ms=desk.world.now_ms)
    wrong_key = desk.gateway.hold(
        KEY.key_id,
        bytes(32),
        hold_id=desk.world.new_id(),
        job_id=desk.world.new_id(),
        maximum=1,
        terms=TERMS,
        expires_ms=desk.world.now_ms + 1_000,
    )
    await refused("key_proof", wrong_key)
    await refused("key_proof", desk.gateway.key_lookup(KEY.key_id, bytes(32)))
    await refused("key_unknown", desk.gateway.key_lookup("a" * 16, bytes(32)))
    await desk.client(ACCOUNT).revoke_key(desk.account_id, KEY.key_id)
    await refused("key_revoked", desk.hold())
    await refused("key_revoked", desk.gateway.key_lookup(KEY.key_id, KEY.hold_key()))


async def test_old_prices_are_taken_for_a_while(desk: Desk) -> None:
    await desk.hold()
    dearer = MODEL.model_copy(update={"output_microcredits_per_million_tokens": 9_000_000})
    desk.configuration = CONFIGURATION.model_copy(update={"version": 2, "models": (dearer,)})
    await desk.hold()
    await desk.hold(terms=price_terms(desk.configuration, dearer))
    desk.world.now_ms += 60_000
    await refused("terms", desk.hold())


@pytest.mark.parametrize("role", [Role.NODE, Role.BOOTSTRAP, None])
async def test_only_gateways_hold_and_capture(desk: Desk, role: Role | None) -> None:
    who = Caller(GATEWAY.peer_id, None) if role is None else caller(GATEWAY, role)
    client = desk.client(GATEWAY, who)
    for wait in (
        client.key_lookup(KEY.key_id, KEY.hold_key()),
        client.release(release_id=bytes(16), hold_id=bytes(16)),
        client.capture(capture_id=bytes(16), hold_id=bytes(16), legs=[desk.leg(await desk.hold())]),
        client.hold(
            KEY.key_id,
            KEY.hold_key(),
            hold_id=bytes(16),
            job_id=bytes(16),
            maximum=1,
            terms=TERMS,
            expires_ms=desk.world.now_ms + 1_000,
        ),
    ):
        await refused("not_entitled", wait)


async def test_a_gateway_speaks_for_itself_only(desk: Desk) -> None:
    result = await desk.hold()
    relayed = desk.client(GATEWAY, caller(OTHER_GATEWAY))
    release = {"release_id": bytes(16), "hold_id": open_hold_id(result)}
    await refused("not_entitled", relayed.release(**release))
    other = desk.client(OTHER_GATEWAY, caller(OTHER_GATEWAY))
    await refused("hold_foreign", other.release(**release))


async def test_a_banned_gateway_gets_nothing(desk: Desk) -> None:
    banned = (str(GATEWAY.peer_id),)
    desk.configuration = CONFIGURATION.model_copy(update={"version": 2, "banned_peers": banned})
    await refused("not_entitled", desk.hold())


async def test_bad_signatures_in_legs_are_refused(desk: Desk) -> None:
    result = await desk.hold()
    good = desk.leg(result, input_tokens=10, output_tokens=10)
    zeros = bytes(64)
    bad = {
        "receipt": CaptureLeg(replace(good.receipt, signature=zeros), good.delivery),
        "delivery": CaptureLeg(good.receipt, replace(good.delivery, signature=zeros)),
        "swapped": CaptureLeg(good.delivery, good.receipt),
        "other gateway's count": desk.leg(
            result, input_tokens=10, output_tokens=10, gateway=OTHER_GATEWAY
        ),
    }
    for leg in bad.values():
        wait = desk.gateway.capture(capture_id=bytes(16), hold_id=open_hold_id(result), legs=[leg])
        error = await refused("receipt_invalid", wait)
        assert str(error).startswith("leg 1: ")
    await desk.gateway.capture(capture_id=bytes(16), hold_id=open_hold_id(result), legs=[good])


async def test_only_mint_keys_grant(desk: Desk) -> None:
    thief = desk.client(GATEWAY)
    grant = thief.grant(desk.account_id, "dev", grant_id=bytes(16), amount=1)
    await refused("not_authorized", grant)
    signed = MINT.sign(NETWORK, Grant(bytes(16), desk.account_id, "dev", 1, "", START_MS))
    document = Grant(bytes(16), desk.account_id, "dev", 10**6, "", START_MS)
    forged = replace(signed, body=encode_message(document))
    with pytest.raises(UntrustedError):
        await thief.send(forged)
    with pytest.raises(MalformedError):
        await thief.send(replace(signed, body=encode_message(TERMS)))


async def test_statements_are_for_those_who_may(desk: Desk) -> None:
    mint_keys = [MINT.public_key]
    statement = await desk.client(ACCOUNT).statement(desk.account_id, "dev", mint_keys=mint_keys)
    assert statement.available == 100_000
    stranger = desk.gateway.statement(desk.account_id, "dev", mint_keys=mint_keys)
    await refused("not_authorized", stranger)
    missing = desk.client(ACCOUNT).statement(desk.account_id, "none", mint_keys=mint_keys)
    await refused("namespace_unknown", missing)
    other = desk.gateway.statement(
        desk.account_id,
        "other",
        mint_keys=mint_keys,
        key_id=KEY.key_id,
        hold_key=KEY.hold_key(),
    )
    await refused("not_authorized", other)
    node = caller(NODES[1], Role.NODE, NODE_ACCOUNTS[1])
    await refused("not_authorized", desk.client(NODES[1], node).earnings(NODE_ACCOUNTS[0]))


async def test_the_client_believes_no_uncovered_statement(desk: Desk) -> None:
    honest = await desk.client(ACCOUNT).statement(
        desk.account_id, "dev", mint_keys=[MINT.public_key]
    )

    async def ask(answer: Statement, mint_keys: list[bytes]) -> None:
        async def call(method: str, body: bytes) -> bytes:
            return encode_message(answer)

        client = LedgerClient(call, ACCOUNT, NETWORK, desk.clock_ms)
        await client.statement(desk.account_id, "dev", mint_keys=mint_keys)

    mint = [MINT.public_key]
    await ask(honest, mint)
    elsewhere = Grant(bytes(16), desk.account_id, "prod", 10**6, "", START_MS)
    own = Grant(bytes(16), desk.account_id, "dev", 10**6, "", START_MS)
    forged = replace(honest.grants[0], signature=bytes(64))
    lies = [
        replace(honest, available=honest.available + 1),
        replace(honest, available=honest.available + 1, granted=honest.granted + 1),
        replace(honest, grants=()),
        replace(honest, grants=honest.grants * 2),
        replace(honest, grants=(forged,)),
        replace(honest, grants=(*honest.grants, MINT.sign(NETWORK, elsewhere))),
        replace(honest, grants=(*honest.grants, BOOTSTRAP.sign(NETWORK, own))),
    ]
    for lie in lies:
        with pytest.raises(UntrustedError):
            await ask(lie, mint)
    with pytest.raises(UntrustedError):
        await ask(honest, [])


async def test_the_client_believes_no_other_voucher(desk: Desk) -> None:
    honest = desk.call_as(caller(GATEWAY))
    changes: dict[str, object] = {}

    async def call(method: str, body: bytes) -> bytes:
        result = decode_message(await honest(method, body), HoldResult)
        voucher = replace(open_signed(result.voucher, Voucher, NETWORK), **changes)
        return encode_message(replace(result, voucher=BOOTSTRAP.sign(NETWORK, voucher)))

    def hold(client: LedgerClient) -> Awaitable[HoldResult]:
        return client.hold(
            KEY.key_id,
            KEY.hold_key(),
            hold_id=desk.world.new_id(),
            job_id=desk.world.new_id(),
            maximum=10,
            terms=TERMS,
            expires_ms=desk.world.now_ms + 1_000,
        )

    client = LedgerClient(call, GATEWAY, NETWORK, desk.clock_ms)
    await hold(client)
    for lie in (
        {"maximum": 11},
        {"hold_id": bytes(16)},
        {"job_id": bytes(16)},
        {"gateway_id": OTHER_GATEWAY.peer_id},
        {"expires_ms": desk.world.now_ms + 2_000},
        {"terms": replace(TERMS, configuration_version=9)},
    ):
        changes.clear()
        changes.update(lie)
        with pytest.raises(UntrustedError):
            await hold(client)
    changes.clear()
    doubting = LedgerClient(call, GATEWAY, NETWORK, desk.clock_ms, trusts=lambda key: False)
    with pytest.raises(UntrustedError, match="not signed by a bootstrap"):
        await hold(doubting)


async def test_old_questions_are_not_answered(desk: Desk) -> None:
    answered: list[bytes] = []

    async def record(method: str, body: bytes) -> bytes:
        answered.append(body)
        return await desk.handlers[method](caller(GATEWAY), body)

    client = LedgerClient(record, GATEWAY, NETWORK, desk.clock_ms)
    await client.key_lookup(KEY.key_id, KEY.hold_key())
    desk.world.now_ms += 120_000
    with pytest.raises(StaleError):
        await desk.handlers[methods.KEY_LOOKUP](caller(GATEWAY), answered[0])


METHODS = [
    value
    for name, value in vars(methods).items()
    if name.isupper() and value.startswith("ledger.")  # the others have services of their own
]


@pytest.mark.parametrize("method", METHODS)
async def test_nonsense_is_malformed(desk: Desk, method: str) -> None:
    for body in (b"", b"\xc1", b"\x91\x01", encode_message(TransferResult(bytes(16), 0, 0, False))):
        with pytest.raises(MalformedError):
            await desk.handlers[method](caller(GATEWAY), body)


async def test_many_tasks_cannot_overspend(desk: Desk) -> None:
    """64 tasks on a balance that covers exactly 100 of 128 holds."""
    admitted: list[HoldResult] = []
    refusals: list[str] = []

    async def spend() -> None:
        for _ in range(2):
            try:
                admitted.append(await desk.hold(1_000))
            except RefusedError as error:
                refusals.append(error.code)

    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(spend)
    assert len(admitted) == 100
    assert refusals == ["insufficient_funds"] * 28
    await desk.ledger.check_integrity()


async def test_accounts_open_at_the_rate_of_the_configuration(desk: Desk) -> None:
    participation = CONFIGURATION.participation.model_copy(
        update={"accounts_opened_per_hour_max": 2}
    )
    desk.configuration = CONFIGURATION.model_copy(update={"participation": participation})
    first = desk.client(KeyPair(bytes([41]) * 32))
    account_id = await first.found_account(bytes(32))
    await desk.client(KeyPair(bytes([42]) * 32)).found_account(bytes(32))
    late = desk.client(KeyPair(bytes([43]) * 32))
    await refused("opening_limit", late.found_account(bytes(32)))
    await first.open_namespace(account_id, "still-works")
    desk.world.now_ms += 1_800_000
    await late.found_account(bytes(32))
