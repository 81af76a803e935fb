"""Stakes, usage by subcloud and conduct, as a bootstrap answers for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from bootstrap.conduct_service import ConductService, median_minutes
from bootstrap.stakes import Stakes
from ledger import methods
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.operations import KeepUptime
from ledger.usage import day_of
from p2p.calls import Caller
from p2p.codec import decode_message, encode_message
from p2p.conduct_messages import ConductQuery, ConductReport, LegObservation, UptimeDay
from p2p.errors import RefusedError, StaleError
from p2p.ledger_messages import CaptureRequest, TransferResult
from p2p.signing import KeyPair, Signed, open_signed
from p2p.stake_messages import SubcloudStake, SubcloudUnstake
from p2p.subcloud_rules import SubcloudRules
from p2p.subcloud_usage_messages import (
    BY_MODEL,
    SubcloudUsageReport,
    SubcloudUsageRequest,
)
from p2p.subclouds.identity import subcloud_id
from p2p.types import PeerId, Role
from p2p.usage_messages import NodeUptime, UptimeRecord
from tests.fakes.ledger_desk import ACCOUNT, BOOTSTRAP, Desk, caller, open_hold_id
from tests.fakes.ledger_world import (
    GATEWAY,
    MINT,
    NETWORK,
    NODE_ACCOUNTS,
    NODES,
    START_MS,
    key_pair,
)
from tests.fakes.subcloud_ledger import DELEGATE, OWNER, SUBCLOUD, a_policy, owners_part, terms_in

DAY = day_of(START_MS)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    clock: list[Desk] = []
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = Ledger(url, NETWORK, clock_ms=lambda: clock[0].clock_ms() if clock else START_MS)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        found = Desk(ledger)
        clock.append(found)
        await found.set_up()
        yield found
        nursery.cancel_scope.cancel()


async def refused(code: str, wait: Any) -> None:
    with pytest.raises((RefusedError, LedgerError)) as caught:
        await wait
    assert caught.value.code == code, caught.value


# --- stakes -------------------------------------------------------------------------------------
async def do(desk: Desk, document: Any, signer: KeyPair = ACCOUNT) -> TransferResult:
    call = desk.call_as(caller(GATEWAY))
    body = encode_message(signer.sign(NETWORK, document))
    return decode_message(await call(methods.OPERATION, body), TransferResult)


def configure(desk: Desk, rules: SubcloudRules) -> None:
    changes = {"subclouds": rules, "version": desk.configuration.version + 1}
    desk.configuration = desk.configuration.model_copy(update=changes)


async def test_a_stake_by_the_configurations_rule(desk: Desk) -> None:
    identity = subcloud_id(NETWORK, desk.account_id, "mine")
    new_id, now_ms = desk.world.new_id, desk.clock_ms()
    document = SubcloudStake(new_id(), desk.account_id, "dev", identity, 40_000, now_ms)
    back = SubcloudUnstake(new_id(), desk.account_id, "dev", identity, now_ms)
    await refused("value_refused", do(desk, document))  # this network asks for none
    rules = SubcloudRules(creation="stake", stake_microcredits=40_001)
    configure(desk, rules)
    await refused("value_refused", do(desk, document))
    rules = SubcloudRules(creation="stake", stake_microcredits=40_000)
    configure(desk, rules)
    stakes = Stakes(desk.ledger)
    assert not await stakes.has_stake(identity, 40_000)
    assert (await do(desk, document)).available == 60_000
    assert await stakes.has_stake(identity, 40_000)
    statement = await desk.client(ACCOUNT).statement(
        desk.account_id, "dev", mint_keys=[MINT.public_key]
    )
    assert (statement.spent, statement.staked) == (40_000, 40_000)
    assert not await stakes.has_stake(identity, 40_001)
    await refused("stake_exists", do(desk, replace(document, stake_id=new_id())))
    await refused("stake_in_use", do(desk, back))  # no policy is known: it may be on its way
    desk.world.now_ms += 86_400_000
    assert (await do(desk, back)).available == 100_000
    assert not await stakes.has_stake(identity, 1)


async def test_a_stake_comes_back_when_the_subcloud_has_ended(desk: Desk) -> None:
    """Whatever became of the configuration's rule meanwhile."""
    rules = SubcloudRules(creation="stake", stake_microcredits=500)
    configure(desk, rules)
    owner = desk.client(OWNER.keys)
    await desk.ledger.submit(OWNER.founding)
    await owner.open_namespace(OWNER.account_id, "own")
    new_id, now_ms = desk.world.new_id, desk.clock_ms()
    await desk.ledger.submit(desk.world.grant(OWNER, 1_000))
    document = SubcloudStake(new_id(), OWNER.account_id, "own", SUBCLOUD, 500, now_ms)
    back = SubcloudUnstake(new_id(), OWNER.account_id, "own", SUBCLOUD, now_ms)
    await do(desk, document, OWNER.keys)
    desk.policies.change(a_policy())
    desk.world.now_ms += 10 * 86_400_000
    await refused("stake_in_use", do(desk, back, OWNER.keys))
    desk.policies.change(a_policy(ended=True))
    configure(desk, SubcloudRules())
    assert (await do(desk, back, OWNER.keys)).amount == 500


# --- usage by subcloud --------------------------------------------------------------------------
async def ask_usage(
    desk: Desk, signer: KeyPair, who: Caller | None = None, **changes: Any
) -> SubcloudUsageReport:
    request = SubcloudUsageRequest(SUBCLOUD, DAY, DAY, BY_MODEL, bytes(16), desk.clock_ms())
    signed = signer.sign(NETWORK, replace(request, **changes))
    call = desk.call_as(who or caller(GATEWAY))
    answer = await call(methods.SUBCLOUD_USAGE, encode_message(signed))
    return decode_message(answer, SubcloudUsageReport)


async def charge(desk: Desk, **terms: Any) -> None:
    result = await desk.hold(**terms)
    leg = desk.leg(result, output_tokens=100)
    new_id = desk.world.new_id()
    await desk.gateway.capture(capture_id=new_id, hold_id=open_hold_id(result), legs=[leg])


async def test_owner_and_delegates_see_usage_and_nobody_else(desk: Desk) -> None:
    await refused("unknown_subcloud", ask_usage(desk, OWNER.keys))
    policy = a_policy()
    desk.policies.change(policy)
    await charge(desk, terms=terms_in(desk.configuration, policy))
    for signer in (OWNER.keys, DELEGATE):
        (row,) = (await ask_usage(desk, signer)).rows
        assert (row.jobs, row.charged, row.income) == (1, 500, owners_part(500))
    await refused("not_authorized", ask_usage(desk, ACCOUNT))
    await refused("not_authorized", ask_usage(desk, GATEWAY))
    await refused("value_refused", ask_usage(desk, DELEGATE, by="consumer"))
    node = caller(NODES[0], Role.NODE, NODE_ACCOUNTS[0])
    await refused("not_entitled", ask_usage(desk, DELEGATE, node))
    with pytest.raises(StaleError):
        await ask_usage(desk, DELEGATE, issued_ms=START_MS - 120_000)


# --- conduct ------------------------------------------------------------------------------------
def a_service(desk: Desk) -> ConductService:
    return ConductService(desk.ledger, BOOTSTRAP, NETWORK, desk.clock_ms)


async def ask(desk: Desk, service: ConductService, **changes: Any) -> ConductReport:
    query = replace(ConductQuery((NODES[0].peer_id,), "", START_MS), **changes)
    answer = await service.report(caller(GATEWAY), encode_message(query))
    return open_signed(decode_message(answer, Signed), ConductReport, NETWORK, BOOTSTRAP.public_key)


async def test_counts_are_signed_and_only_gateways_ask(desk: Desk) -> None:
    service = a_service(desk)
    result = await desk.hold()
    document = CaptureRequest(
        desk.world.new_id(),
        open_hold_id(result),
        (desk.leg(result, output_tokens=11),),
        desk.clock_ms(),
        "complete",
        (LegObservation(250, 1_000),),
    )
    call = desk.call_as(caller(GATEWAY))
    await call(methods.CAPTURE, encode_message(GATEWAY.sign(NETWORK, document)))
    (row,) = (await ask(desk, service)).rows
    assert (row.jobs, row.first_token_ms, row.output_tokens, row.output_ms) == (1, 250, 10, 1_000)
    assert row.gateway_id == GATEWAY.peer_id
    node = caller(NODES[0], Role.NODE, NODE_ACCOUNTS[0])
    body = encode_message(ConductQuery((NODES[0].peer_id,), "", 0))
    await refused("not_entitled", service.report(node, body))
    await refused("not_entitled", service.report(Caller(GATEWAY.peer_id, None), body))
    desk.world.now_ms += 6 * 3_600_000
    await service.tidy()
    (row,) = (await ask(desk, service)).rows
    assert row.until_ms - row.from_ms == 600_000


async def test_uptime_is_the_median_of_the_bootstraps(desk: Desk) -> None:
    def seen(day: int, bootstrap: KeyPair, *minutes: int) -> KeepUptime:
        nodes = tuple(
            NodeUptime(node.peer_id, account, count)
            for node, account, count in zip(NODES, NODE_ACCOUNTS, minutes, strict=False)
        )
        record = UptimeRecord(day, 0, nodes, desk.clock_ms())
        return KeepUptime(bootstrap.sign(NETWORK, record), record, bootstrap.peer_id)

    three = [BOOTSTRAP, key_pair(50), key_pair(51)]
    desk.world.now_ms += 2 * 86_400_000
    for pair, minutes in zip(three, (100, 700, 1440), strict=True):
        await desk.ledger.submit(seen(DAY, pair, minutes, 1_000))
    await desk.ledger.submit(seen(DAY + 1, BOOTSTRAP, 720))
    service, node = a_service(desk), NODES[0].peer_id
    expected = (UptimeDay(node, DAY + 1, 720, 720), UptimeDay(node, DAY, 700, 1_000))
    assert (await ask(desk, service)).uptime == expected
    assert (await ask(desk, service)).uptime == expected  # one of the days is kept by now
    assert (await ask(desk, service, after=5)).uptime == ()


def test_two_bootstraps_of_which_one_was_down() -> None:
    node = PeerId("node")

    def record(minutes: int) -> UptimeRecord:
        return UptimeRecord(1, 0, (NodeUptime(node, NODE_ACCOUNTS[0], minutes),), 0)

    both = [(PeerId("a"), record(10)), (PeerId("b"), record(1_440))]
    assert median_minutes(both) == {node: 1_440}
    assert median_minutes(reversed(both)) == {node: 1_440}
