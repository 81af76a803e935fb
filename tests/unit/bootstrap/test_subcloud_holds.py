"""Holds and leases for subclouds, as a bootstrap grants them: gateways, tokens, callers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.peer.ledger_port import as_client_error
from ledger.accounts import owner_account
from ledger.lease_client import LeaseClient
from ledger.ledger import Ledger
from ledger.store.queries import balance
from p2p.calls import Caller
from p2p.errors import RefusedError
from p2p.key_limits import KeyLimits
from p2p.ledger_messages import HoldResult, Voucher
from p2p.signing import open_signed
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.policy import SubcloudPolicy
from p2p.types import AccountId
from tests.fakes.ledger_desk import ACCOUNT, BOOTSTRAP, KEY, TERMS, Desk, caller, open_hold_id
from tests.fakes.ledger_world import GATEWAY, NETWORK, START_MS, key_pair
from tests.fakes.subcloud_ledger import (
    OWNER,
    SUBCLOUD,
    a_policy,
    a_token,
    digest_of,
    terms_in,
)

OWN_MODEL = {
    "name": "ours",
    "digest": bytes([7] * 32).hex(),
    "context_tokens": 512,
    "input_microcredits_per_million_tokens": 1_000_000,
    "output_microcredits_per_million_tokens": 3_000_000,
}


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


def publish(desk: Desk, **fields: Any) -> SubcloudPolicy:
    policy = a_policy(**fields)
    desk.policies.change(policy)
    desk.policies.before = None
    return policy


async def hold(desk: Desk, policy: SubcloudPolicy, model: str = "tiny-chat", **more: Any) -> Any:
    return await desk.hold(terms=terms_in(desk.configuration, policy, model), **more)


async def refusal(desk: Desk, policy: SubcloudPolicy, **more: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        await hold(desk, policy, **more)
    return caught.value


async def lease(desk: Desk, policy: SubcloudPolicy, who: Caller | None = None, **more: Any) -> Any:
    client = LeaseClient(
        desk.call_as(who or caller(GATEWAY)),
        GATEWAY,
        NETWORK,
        desk.clock_ms,
        trusts=lambda key: key == BOOTSTRAP.public_key,
    )
    ask = {"lease_id": desk.world.new_id(), "amount": 1_000} | more
    return await client.lease(
        KEY.key_id,
        KEY.hold_key(),
        terms=terms_in(desk.configuration, policy),
        expires_ms=desk.world.now_ms + 60_000,
        **ask,
    )


async def capture(desk: Desk, result: HoldResult, output_tokens: int) -> int:
    leg = desk.leg(result, output_tokens=output_tokens)
    new_id = desk.world.new_id()
    done = await desk.gateway.capture(capture_id=new_id, hold_id=open_hold_id(result), legs=[leg])
    return done.amount


async def test_a_job_pays_the_owner_who_sees_it(desk: Desk) -> None:
    policy = publish(desk)
    result = await hold(desk, policy)
    voucher = open_signed(result.voucher, Voucher, NETWORK)
    assert (voucher.terms.subcloud_id, voucher.terms.policy_digest.hex()) == (
        SUBCLOUD,
        digest_of(policy),
    )
    assert await capture(desk, result, 100) == 500
    assert await desk.ledger.read(lambda c: balance(c, owner_account(OWNER.account_id))) == 75
    await desk.client(OWNER.keys).found_account(key_pair(82).public_key)
    await desk.ledger.submit(OWNER.founding)
    statement = await desk.client(OWNER.keys).earnings(OWNER.account_id)
    assert (statement.owner_fees, statement.unmatured_owner_fees) == (75, 75)
    assert (statement.earned, statement.fees) == (0, 0)


async def test_a_policys_own_model_is_priced_by_it_alone(desk: Desk) -> None:
    policy = publish(desk, models={"own": (OWN_MODEL,)})
    assert await capture(desk, await hold(desk, policy, "ours"), 100) == 300
    assert (await refusal(desk, policy)).code == "subcloud_model"


async def test_an_unknown_closed_or_changed_subcloud(desk: Desk) -> None:
    policy = a_policy()
    assert (await refusal(desk, policy)).code == "subcloud_unknown"
    publish(desk, ended=True)
    assert (await refusal(desk, policy)).code == "subcloud_closed"
    publish(desk, price={})
    error = await refusal(desk, policy)
    assert (error.code, as_client_error(error).code) == ("subcloud_policy", "subcloud_unavailable")
    assert error.retry_after_s == 1.0


async def test_who_asks_again_gets_the_first_answer_whatever_the_policy_says_now(
    desk: Desk,
) -> None:
    policy = publish(desk)
    ask = {"hold_id": bytes([1] * 16), "job_id": bytes([2] * 16)}
    ask |= {"expires_ms": desk.world.now_ms + 60_000}
    first = await hold(desk, policy, **ask)
    leased = await lease(desk, policy, lease_id=bytes([3] * 16))
    publish(desk, ended=True)
    again = await hold(desk, policy, **ask)
    assert (again.voucher, again.exists) == (first.voucher, True)
    lease_again = await lease(desk, policy, lease_id=bytes([3] * 16))
    assert (lease_again.lease, lease_again.exists) == (leased.lease, True)
    for other in ({"hold_id": bytes([4] * 16)}, {"maximum": 999}):
        assert (await refusal(desk, policy, **{**ask, **other})).code == "subcloud_closed"
    # What was held before the end is paid, and its owner too.
    assert await capture(desk, first, 100) == 500
    assert await desk.ledger.read(lambda c: balance(c, owner_account(OWNER.account_id))) == 75


async def test_callers(desk: Desk) -> None:
    policy = publish(desk, callers={"accounts": (desk.account_id,)})
    await hold(desk, policy)
    await lease(desk, policy)
    policy = publish(desk, callers={"accounts": (OWNER.account_id,)})
    error = await refusal(desk, policy)
    assert (error.code, as_client_error(error).status) == ("caller_not_allowed", 403)
    with pytest.raises(RefusedError, match="does not let this caller in"):
        await lease(desk, policy)
    policy = publish(desk, callers={"anyone": True, "source_networks": ("10.0.0.0/8",)})
    assert (await refusal(desk, policy)).code == "caller_not_allowed"
    await hold(desk, policy, caller_network="10.0.0.0/8")
    await lease(desk, policy, caller_network="10.0.0.0/8")


async def test_gateways_that_a_policy_admits(desk: Desk) -> None:
    policy = publish(desk, join="private")
    error = await refusal(desk, policy)
    assert (error.code, as_client_error(error).code) == (
        "gateway_not_admitted",
        "gateway_not_admitted",
    )
    with pytest.raises(RefusedError, match="takes no jobs from this gateway"):
        await lease(desk, policy)
    await lease(desk, policy, caller(GATEWAY, account_id=OWNER.account_id))
    await hold(desk, publish(desk, join="private", gateways={"peers": (GATEWAY.peer_id,)}))


async def test_tokens(desk: Desk) -> None:
    policy = publish(desk, callers={"tokens": True})
    assert (await refusal(desk, policy)).code == "caller_not_allowed"
    with pytest.raises(RefusedError, match="it needs a token"):
        await lease(desk, policy)  # nothing is leased to who has a token only
    await hold(desk, policy, caller_token=a_token(uses=1))
    for token in (
        a_token(uses=1),
        a_token(2, signer=GATEWAY),
        a_token(3, subcloud_id="other-" + "0" * 32),
        a_token(4, expires_ms=START_MS + 1, issued_ms=START_MS - 10**6),
    ):
        desk.world.now_ms = START_MS + 100_000
        error = await refusal(desk, policy, caller_token=token)
        assert (error.code, as_client_error(error).code) == ("caller_token", "caller_token_refused")
    desk.policies.list = RevocationList(
        SUBCLOUD, 1, START_MS, revoked_tokens=((5).to_bytes(16, "big"),)
    )
    assert (await refusal(desk, policy, caller_token=a_token(5))).code == "caller_token"
    await hold(desk, policy, caller_token=a_token(6, account=desk.account_id, namespace="dev"))
    bound = a_token(7, account=OWNER.account_id)
    assert (await refusal(desk, policy, caller_token=bound)).code == "caller_not_allowed"
    with pytest.raises(RefusedError, match="this job names none"):
        await desk.hold(terms=TERMS, caller_token=a_token(8))


async def test_a_key_limited_to_subclouds(desk: Desk) -> None:
    policy = publish(desk)
    other = replace(KEY, key_id="z" * 16)
    limits = KeyLimits(subclouds=(SUBCLOUD,), default_subcloud=SUBCLOUD)
    await desk.client(ACCOUNT).create_key(desk.account_id, "dev", other, name="b", limits=limits)
    record = await desk.gateway.key_lookup(other.key_id, other.hold_key())
    assert record.limits == limits
    ask = {"hold_id": bytes([1] * 16), "job_id": bytes(16), "maximum": 10}
    ask |= {"expires_ms": desk.world.now_ms + 60_000}
    with pytest.raises(RefusedError, match="does not allow the global pool"):
        await desk.gateway.hold(other.key_id, other.hold_key(), terms=TERMS, **ask)  # type: ignore[arg-type]
    terms = terms_in(desk.configuration, policy)
    await desk.gateway.hold(other.key_id, other.hold_key(), terms=terms, **ask)  # type: ignore[arg-type]


async def test_a_gateway_of_one_account(desk: Desk) -> None:
    def at(account_id: AccountId) -> Caller:
        who = caller(GATEWAY, account_id=account_id)
        assert who.certificate is not None
        return replace(who, certificate=replace(who.certificate, own_namespaces_only=True))

    own, foreign = at(desk.account_id), at(OWNER.account_id)
    await desk.client(GATEWAY, own).key_lookup(KEY.key_id, KEY.hold_key())
    with pytest.raises(RefusedError) as caught:
        await desk.client(GATEWAY, foreign).key_lookup(KEY.key_id, KEY.hold_key())
    assert as_client_error(caught.value).code == "gateway_private"
    ask = {"job_id": bytes(16), "maximum": 10, "terms": TERMS}
    ask |= {"expires_ms": desk.world.now_ms + 60_000}
    with pytest.raises(RefusedError) as caught:
        await desk.client(GATEWAY, foreign).hold(
            KEY.key_id,
            KEY.hold_key(),
            hold_id=bytes([1] * 16),
            **ask,  # type: ignore[arg-type]
        )
    assert caught.value.code == "gateway_private"
    await desk.client(GATEWAY, own).hold(
        KEY.key_id,
        KEY.hold_key(),
        hold_id=bytes([2] * 16),
        **ask,  # type: ignore[arg-type]
    )
    with pytest.raises(RefusedError) as caught:
        await lease(desk, publish(desk), foreign)
    assert caught.value.code == "gateway_private"
    with pytest.raises(RefusedError) as caught:
        await desk.client(GATEWAY, foreign).statement(
            desk.account_id, "dev", mint_keys=(), key_id=KEY.key_id, hold_key=KEY.hold_key()
        )
    assert caught.value.code == "gateway_private"
