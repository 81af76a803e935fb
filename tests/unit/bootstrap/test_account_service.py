"""What an account's owner asks and does over the calls: keys, rotation, limits, earnings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
import trio

from bootstrap.account_door import AccountDoor
from ledger import methods
from ledger.errors import NotAuthorizedError
from ledger.ledger import Ledger
from p2p.account_messages import (
    AccountKeyChange,
    AccountRequest,
    AccountStatement,
    ApiKeyRotation,
    KeyList,
    KeyListRequest,
)
from p2p.api_keys import new_api_key
from p2p.calls import Caller
from p2p.codec import decode_message, encode_message
from p2p.errors import RefusedError, StaleError
from p2p.key_limits import KeyLimits
from p2p.signing import Document, KeyPair
from p2p.types import Role, account_id_from_founding
from tests.fakes.ledger_desk import ACCOUNT, KEY, TERMS, Desk, caller, open_hold_id
from tests.fakes.ledger_world import GATEWAY, NETWORK, NODE_ACCOUNTS, NODES, START_MS, key_pair

NEW, RECOVERY = key_pair(71), key_pair(7)
OTHER_KEY = new_api_key(bytes(range(100, 142)))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    clock: list[Desk] = []
    ledger = Ledger(
        f"sqlite:///{tmp_path / 'ledger.db'}",
        NETWORK,
        clock_ms=lambda: clock[0].clock_ms() if clock else START_MS,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        found = Desk(ledger)
        clock.append(found)
        await found.set_up()
        yield found
        nursery.cancel_scope.cancel()


async def ask(desk: Desk, method: str, document: Document, signer: KeyPair = ACCOUNT) -> bytes:
    body = encode_message(signer.sign(NETWORK, document))
    return await desk.handlers[method](caller(GATEWAY), body)


async def refused(code: str, wait: Awaitable[object]) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        await wait
    assert caught.value.code == code, caught.value
    return caught.value


async def account(desk: Desk, signer: KeyPair = ACCOUNT) -> AccountStatement:
    document = AccountRequest(desk.account_id, desk.world.new_id(), desk.world.now_ms)
    return decode_message(await ask(desk, methods.ACCOUNT, document, signer), AccountStatement)


async def keys(desk: Desk, namespace: str = "dev", signer: KeyPair = ACCOUNT) -> KeyList:
    document = KeyListRequest(desk.account_id, namespace, bytes(16), desk.world.now_ms)
    return decode_message(await ask(desk, methods.KEYS, document, signer), KeyList)


def rotate_account(desk: Desk, number: int = 1) -> AccountKeyChange:
    return AccountKeyChange(
        desk.account_id, number, (NEW.public_key,), (ACCOUNT.public_key,), desk.world.now_ms
    )


async def test_the_owner_sees_the_account(desk: Desk) -> None:
    for signer in (ACCOUNT, RECOVERY):
        found = await account(desk, signer)
        assert found.signing_keys == (ACCOUNT.public_key,)
        assert found.recovery_keys == (RECOVERY.public_key,)
        assert (found.key_changes, found.operations) == (0, 3)
        (namespace,) = found.namespaces
        assert (namespace.name, namespace.available, namespace.api_keys) == ("dev", 100_000, 1)
        assert account_id_from_founding(found.founding.body) == desk.account_id
    await refused("not_authorized", account(desk, NEW))
    await refused("not_authorized", keys(desk, signer=RECOVERY))
    await refused("namespace_unknown", keys(desk, "prod"))
    old = AccountRequest(desk.account_id, bytes(16), desk.world.now_ms - 120_000)
    with pytest.raises(StaleError):
        await ask(desk, methods.ACCOUNT, old)
    with pytest.raises(RefusedError, match="only a certified"):
        await desk.handlers[methods.ACCOUNT](Caller(GATEWAY.peer_id, None), b"")


async def test_after_a_rotation_the_old_key_may_do_nothing(desk: Desk) -> None:
    await ask(desk, methods.OPERATION, rotate_account(desk))
    await refused("not_authorized", account(desk))
    await refused("not_authorized", keys(desk))
    await refused("not_authorized", desk.client(ACCOUNT).earnings(desk.account_id))
    await refused("not_authorized", desk.client(ACCOUNT).open_namespace(desk.account_id, "prod"))
    await desk.client(NEW).open_namespace(desk.account_id, "prod")
    found = await account(desk, NEW)
    assert (found.signing_keys, found.key_changes) == ((NEW.public_key,), 1)
    order = rotate_account(desk, 3)
    await refused("operation_order", ask(desk, methods.OPERATION, order, NEW))


async def test_nodes_are_bound_by_the_keys_that_the_account_has_now(desk: Desk) -> None:
    door = AccountDoor(desk.ledger, lambda: desk.configuration, desk.clock_ms)
    await door.require_key(desk.account_id, ACCOUNT.public_key)
    await ask(desk, methods.OPERATION, rotate_account(desk))
    await door.require_key(desk.account_id, NEW.public_key)
    for key in (ACCOUNT, RECOVERY):
        with pytest.raises(NotAuthorizedError):
            await door.require_key(desk.account_id, key.public_key)


async def test_a_rotated_api_key_and_its_old_secret(desk: Desk) -> None:
    renewed = type(KEY)(KEY.key_id, bytes(32))
    document = ApiKeyRotation(
        desk.account_id, KEY.key_id, 1, renewed.hold_key(), 60_000, desk.world.now_ms
    )
    await ask(desk, methods.OPERATION, document)
    ends_ms = desk.world.now_ms + 60_000
    old = await desk.gateway.key_lookup(KEY.key_id, KEY.hold_key())
    new = await desk.gateway.key_lookup(KEY.key_id, renewed.hold_key())
    # A gateway must not serve the old secret longer than the ledger does.
    assert (old.expires_ms, new.expires_ms) == (ends_ms, 0)
    (shown,) = (await keys(desk)).keys
    assert (shown.generation, shown.previous_until_ms) == (1, ends_ms)
    desk.world.now_ms = ends_ms
    await refused("key_proof", desk.gateway.key_lookup(KEY.key_id, KEY.hold_key()))
    await refused("key_proof", desk.hold())


async def test_limits_travel_with_the_record_and_are_listed(desk: Desk) -> None:
    limits = KeyLimits(2_000, 60, 10_000, ("192.0.2.0/24",))
    await desk.client(ACCOUNT).create_key(
        desk.account_id, "dev", OTHER_KEY, name="limited", limits=limits
    )
    record = await desk.gateway.key_lookup(OTHER_KEY.key_id, OTHER_KEY.hold_key())
    assert record.limits == limits

    async def hold(maximum: int, network: str) -> object:
        return await desk.gateway.hold(
            OTHER_KEY.key_id,
            OTHER_KEY.hold_key(),
            hold_id=desk.world.new_id(),
            job_id=desk.world.new_id(),
            maximum=maximum,
            terms=TERMS,
            expires_ms=desk.world.now_ms + 60_000,
            source_network=network,
        )

    await refused("key_not_allowed", hold(10, ""))
    await hold(1_500, "192.0.2.0/24")
    error = await refused("key_day_cap", hold(501, "192.0.2.0/24"))
    assert error.retry_after_s is not None
    assert 0 < error.retry_after_s <= 86_400
    limited = next(key for key in (await keys(desk)).keys if key.name == "limited")
    assert (limited.limits, limited.held, limited.spent_today) == (limits, 1_500, 1_500)
    desk.world.now_ms += 86_400_000
    limited = next(key for key in (await keys(desk)).keys if key.name == "limited")
    assert (limited.held, limited.spent_today) == (1_500, 0)


async def test_earnings_mature_after_the_configured_time(desk: Desk) -> None:
    result = await desk.hold(1_000)
    leg = desk.leg(result, input_tokens=100, output_tokens=50)
    await desk.gateway.capture(capture_id=bytes(16), hold_id=open_hold_id(result), legs=[leg])
    node = desk.client(NODES[0], caller(NODES[0], Role.NODE, NODE_ACCOUNTS[0]))
    days = desk.configuration.limits.earnings_mature_after_s
    found = await node.earnings(NODE_ACCOUNTS[0])
    assert (found.earned, found.unmatured_earned, found.mature_after_s) == (406, 406, days)
    desk.world.now_ms += days * 1000
    found = await node.earnings(NODE_ACCOUNTS[0])
    assert (found.earned, found.unmatured_earned) == (406, 0)
