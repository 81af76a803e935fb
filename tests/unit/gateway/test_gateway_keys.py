"""The cache of API keys."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.errors import AuthenticationError, LedgerUnavailableError
from gateway.limits import DISBELIEF_CACHE_S, GRANTS_CHECK_INTERVAL_S, KEY_REFUSAL_CACHE_S
from gateway.peer.keys import KeyCache
from p2p.api_keys import ApiKey
from p2p.lease_messages import key_mark
from tests.fakes.clocks import FakeClock
from tests.fakes.ledger import FakeLedger, api_key
from tests.fakes.trust import BOOTSTRAP, GATEWAY, NETWORK


class Bench:
    """A cache over a fake ledger, with a clock to move."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.now_s = 100.0
        self.ledger = FakeLedger(NETWORK, BOOTSTRAP, GATEWAY.peer_id, self.clock)
        self.cache = KeyCache(self.ledger, now_s=lambda: self.now_s, clock_ms=self.clock)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_looked_up_once(bench: Bench) -> None:
    assert bench.cache.cached(api_key()) is None
    first = await bench.cache.check(api_key())
    second = await bench.cache.check(api_key())
    assert first.record is second.record
    assert bench.ledger.lookups == 1
    assert first.covers(10**9 // 4)
    assert not first.covers(10**9 // 2)


async def test_revocation_is_in_force_when_the_record_ends(bench: Bench) -> None:
    await bench.cache.check(api_key())
    bench.ledger.keys.clear()
    bench.now_s += 4.9
    await bench.cache.check(api_key())
    bench.now_s += 0.2
    with pytest.raises(AuthenticationError):
        await bench.cache.check(api_key())


async def test_another_secret_is_not_let_in(bench: Bench) -> None:
    await bench.cache.check(api_key())
    wrong = ApiKey(api_key().key_id, bytes(32))
    assert bench.cache.cached(wrong) is None
    with pytest.raises(AuthenticationError):
        await bench.cache.check(wrong)
    # Nor does it drive the right one out.
    assert bench.cache.cached(api_key()) is not None


async def test_refusals_are_remembered_shortly(bench: Bench) -> None:
    for _ in range(3):
        with pytest.raises(AuthenticationError):
            await bench.cache.check(api_key("other"))
    assert bench.ledger.lookups == 1
    bench.ledger.keys.add(api_key("other"))
    bench.now_s += KEY_REFUSAL_CACHE_S + 0.1
    await bench.cache.check(api_key("other"))


async def test_ledger_down(bench: Bench) -> None:
    bench.ledger.down = True
    with pytest.raises(LedgerUnavailableError):
        await bench.cache.check(api_key())
    bench.ledger.down = False
    await bench.cache.check(api_key())


async def test_two_keys_of_a_namespace_share_its_balance(bench: Bench) -> None:
    bench.ledger.keys.add(api_key("second"))
    one = await bench.cache.check(api_key())
    two = await bench.cache.check(api_key("second"))
    assert one.balance is two.balance


async def test_credit_without_a_mint_key_s_grant_serves_nobody(bench: Bench) -> None:
    bench.ledger.forged = True
    for _ in range(2):
        with pytest.raises(LedgerUnavailableError, match="no mint key signed"):
            await bench.cache.check(api_key())
    assert bench.ledger.statements == 1
    assert bench.cache.cached(api_key()) is None
    bench.ledger.forged = False
    bench.now_s += DISBELIEF_CACHE_S
    await bench.cache.check(api_key())


async def test_grants_are_looked_at_again_after_a_while(bench: Bench) -> None:
    for wait_s, statements in ((0, 1), (6, 1), (GRANTS_CHECK_INTERVAL_S, 2)):
        bench.now_s += wait_s
        await bench.cache.check(api_key())
        assert bench.ledger.statements == statements
    assert bench.ledger.lookups == 3


async def test_both_secrets_of_a_key_that_is_rotated_are_cached(bench: Bench) -> None:
    renewed = ApiKey(api_key().key_id, bytes(32))
    bench.ledger.keys.add(renewed)
    for _ in range(3):
        for key in (api_key(), renewed):
            await bench.cache.check(key)
    assert bench.ledger.lookups == 2
    bench.cache.forget(renewed)
    assert bench.cache.cached(api_key()) is None


# --- notices, and records beside a lease --------------------------------------------------------
async def test_a_notice_makes_the_key_be_looked_up_again(bench: Bench) -> None:
    await bench.cache.check(api_key())
    bench.cache.forget_marked([key_mark("somebody"), key_mark("elses")])
    assert bench.cache.cached(api_key()) is not None
    bench.cache.forget_marked([key_mark(api_key().key_id)])
    assert bench.cache.cached(api_key()) is None
    bench.ledger.keys.clear()
    with pytest.raises(AuthenticationError):
        await bench.cache.check(api_key())


async def test_an_answer_from_before_a_notice_is_not_kept(bench: Bench) -> None:
    bench.ledger.delay_s = 0.05
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.cache.check, api_key())
        await trio.testing.wait_all_tasks_blocked(0.01)
        bench.cache.forget_marked([key_mark(api_key().key_id)])
    assert bench.cache.cached(api_key()) is None


async def test_a_record_is_renewed_once_half_of_its_time_is_over(bench: Bench) -> None:
    await bench.cache.check(api_key())
    assert not bench.cache.wants_renewal(api_key())
    bench.now_s += 2.6
    assert bench.cache.wants_renewal(api_key())
    assert not bench.cache.wants_renewal(api_key())  # it was said
    await bench.cache.renew(api_key())
    bench.now_s += 2.6
    assert bench.cache.cached(api_key()) is not None
    assert bench.cache.wants_renewal(api_key())


async def test_a_stale_record_serves_only_its_own_secret(bench: Bench) -> None:
    await bench.cache.check(api_key())
    bench.now_s += 6.0
    assert bench.cache.cached(api_key()) is None
    assert bench.cache.stale(ApiKey(api_key().key_id, bytes(32)), 2.0) is None
    assert bench.cache.stale(api_key(), 2.0) is not None
    assert bench.cache.cached(api_key()) is not None
    bench.now_s += 2.1
    assert bench.cache.cached(api_key()) is None


async def test_what_is_known_to_be_wrong_is_never_stale(bench: Bench) -> None:
    await bench.cache.check(api_key())
    bench.ledger.keys.clear()
    bench.now_s += 6.0
    with pytest.raises(AuthenticationError):
        await bench.cache.check(api_key())
    assert bench.cache.stale(api_key(), 2.0) is None
    bench.ledger.keys.add(api_key())
    bench.now_s += KEY_REFUSAL_CACHE_S + GRANTS_CHECK_INTERVAL_S
    bench.ledger.forged = True
    with pytest.raises(LedgerUnavailableError):
        await bench.cache.check(api_key())
    assert bench.cache.stale(api_key(), 2.0) is None
