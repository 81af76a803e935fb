"""The limits of an API key, judged with each hold: credits, models, gateways, source networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import KeyCapError, KeyDayCapError, KeyNotAllowedError, ValueRefusedError
from ledger.operations import PlaceHold
from p2p.key_limits import KeyLimits, is_network, network_of
from tests.fakes.account_world import DAY_MS
from tests.fakes.ledger_world import (
    GATEWAY,
    NETWORK,
    OTHER_GATEWAY,
    START_MS,
    MemoryLedger,
    Tenant,
    World,
)

MIDNIGHT_MS = START_MS - START_MS % DAY_MS + DAY_MS


def ledger_with(world: World, **key: object) -> tuple[MemoryLedger, Tenant]:
    ledger, tenant = MemoryLedger(world), world.tenant()
    ledger.do(
        tenant.founding,
        world.opening(tenant),
        world.creation(tenant, **key),
        world.grant(tenant, 10**9),
        *world.bindings(),
    )
    return ledger, tenant


def from_network(hold: PlaceHold, network: str) -> PlaceHold:
    document = replace(hold.document, source_network=network)
    return replace(hold, document=document, signed=GATEWAY.sign(NETWORK, document))


def test_a_day_s_cap_counts_running_and_charged_holds_and_resets() -> None:
    world = World()
    world.now_ms = MIDNIGHT_MS - 60_000
    ledger, tenant = ledger_with(world, limits=KeyLimits(microcredits_per_day=1_000))
    hold = world.hold(tenant, 900)
    ledger.do(hold)
    with pytest.raises(KeyDayCapError) as caught:
        ledger.do(world.hold(tenant, 101))
    assert caught.value.retry_after_s == 60
    assert str(caught.value) == (
        "this key's credit cap of a day is 1000 microcredits: 900 are spent or held today, "
        "101 more are needed; it resets at 2027-01-16T00:00:00Z"
    )
    ledger.do(world.hold(tenant, 100))
    ledger.do(world.capture(hold, [world.leg(hold, input_tokens=100, output_tokens=20)]))
    ledger.do(world.hold(tenant, 600))
    with pytest.raises(KeyDayCapError):
        ledger.do(world.hold(tenant, 1))
    world.now_ms = MIDNIGHT_MS
    ledger.do(world.hold(tenant, 1_000))


def test_what_yesterdays_hold_gives_back_is_not_todays() -> None:
    world = World()
    world.now_ms = MIDNIGHT_MS - 1_000
    ledger, tenant = ledger_with(world, limits=KeyLimits(microcredits_per_day=1_000))
    late = world.hold(tenant, 1_000)
    ledger.do(late)
    world.now_ms = MIDNIGHT_MS
    ledger.do(world.hold(tenant, 900))
    ledger.do(world.release(late))
    with pytest.raises(KeyDayCapError):
        ledger.do(world.hold(tenant, 101))
    # A clock that goes back over midnight does not open the day again.
    world.now_ms = MIDNIGHT_MS - 1_000
    with pytest.raises(KeyDayCapError):
        ledger.do(world.hold(tenant, 101))


def test_the_cap_in_total_does_not_reset() -> None:
    world = World()
    ledger, tenant = ledger_with(world, credit_cap_total=1_000)
    ledger.do(world.hold(tenant, 1_000))
    world.now_ms += 3 * DAY_MS
    with pytest.raises(KeyCapError) as caught:
        ledger.do(world.hold(tenant, 1))
    assert caught.value.retry_after_s is None


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["hold", "release", "capture", "wait"]),
            st.integers(0, 600),
            st.integers(0, 5),
        ),
        max_size=40,
    )
)
def test_no_day_is_ever_above_its_cap(steps: list[tuple[str, int, int]]) -> None:
    """Against a model that keeps each day's holds."""
    world, cap = World(), 1_000
    ledger, tenant = ledger_with(world, limits=KeyLimits(microcredits_per_day=cap))
    placed: list[tuple[int, PlaceHold]] = []
    used: dict[bytes, tuple[int, int]] = {}
    for kind, amount, which in steps:
        today = world.now_ms // DAY_MS
        if kind == "wait":
            world.now_ms += amount * 300_000
        elif kind == "hold":
            spent = sum(cost for day, cost in used.values() if day == today)
            hold = world.hold(tenant, amount, lifetime_ms=900_000)
            if spent + amount > cap:
                with pytest.raises(KeyDayCapError):
                    ledger.do(hold)
                continue
            ledger.do(hold)
            placed.append((today, hold))
            used[hold.document.hold_id] = (today, amount)
        elif placed:
            day, hold = placed.pop(which % len(placed))
            expired = hold.document.expires_ms <= world.now_ms
            if kind == "release" or expired:
                ledger.do(world.expire(hold) if expired else world.release(hold))
                used[hold.document.hold_id] = (day, 0)
            else:
                tokens = hold.document.maximum // 10
                ledger.do(world.capture(hold, [world.leg(hold, output_tokens=tokens)]))
                used[hold.document.hold_id] = (day, 5 * tokens)
    usage = ledger.book.usage[tenant.api_key.key_id]
    assert usage.day_used == sum(cost for day, cost in used.values() if day == usage.day)


def test_gateways_models_and_source_networks_are_limits() -> None:
    world = World()
    networks = ("192.0.2.0/24", "2001:db8::/32")
    ledger, tenant = ledger_with(
        world,
        gateways=(str(GATEWAY.peer_id),),
        models=("tiny-chat",),
        limits=KeyLimits(networks=networks),
    )
    good = world.hold(tenant, 1)
    for network in ("", "192.0.2.0/25", "0.0.0.0/0"):
        with pytest.raises(KeyNotAllowedError, match="limited to the source networks 192"):
            ledger.do(from_network(good, network))
    ledger.do(from_network(good, networks[1]))
    with pytest.raises(KeyNotAllowedError, match="this gateway"):
        ledger.do(world.hold(tenant, 1, gateway=OTHER_GATEWAY))
    other = replace(good.document.terms, model_name="large-chat")
    with pytest.raises(KeyNotAllowedError, match="the model large-chat"):
        ledger.do(world.hold(tenant, 1, terms=other))


@pytest.mark.parametrize("network", ["", "192.0.2.1/24", "192.0.2.0", "all", "192.0.2.0/33"])
def test_source_networks_are_written_as_they_are_compared(network: str) -> None:
    world = World()
    assert not is_network(network)
    with pytest.raises(ValueRefusedError, match="CIDR"):
        ledger_with(world, limits=KeyLimits(networks=(network,)))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("2001:db8::1", "2001:db8::/32"),
        ("fe80::1%eth0", "fe80::/10"),
        ("192.0.3.7", ""),
        ("2001:db9::1", ""),
        ("", ""),
        ("testclient", ""),
    ],
)
def test_the_network_of_an_address(address: str, network: str) -> None:
    networks = ("192.0.2.0/24", "2001:db8::/32", "fe80::/10")
    assert network_of(networks, address) == network
