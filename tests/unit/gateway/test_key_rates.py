"""Requests and tokens a minute: what a key may do at one gateway."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RateLimitError
from gateway.peer.key_rates import KeyRates
from p2p.key_limits import NO_LIMITS, KeyLimits
from p2p.ledger_messages import KeyRecord
from tests.fakes.ledger import ACCOUNT


def record(limits: KeyLimits, key_id: str = "a" * 16) -> KeyRecord:
    return KeyRecord(key_id, ACCOUNT, "default", "test", 0, (), 0, 5.0, limits)


class Bench:
    """Rates with a clock to move."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.rates = KeyRates(now_s=lambda: self.now_s, keys_max=2)

    def refused(self, of: KeyRecord, tokens: int = 1) -> RateLimitError:
        with pytest.raises(RateLimitError) as caught:
            self.rates.take(of, tokens)
        return caught.value


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_requests_a_minute(bench: Bench) -> None:
    limited = record(KeyLimits(requests_per_minute=3))
    for _ in range(3):
        assert bench.rates.take(limited, 1_000_000) == 0
    error = bench.refused(limited)
    assert error.retry_after_s == pytest.approx(20)
    assert str(error) == (
        "Rate limit reached for this API key on requests per minute: limit 3, used 3, "
        "requested 1. Try again in 20.0 s; it resets in 60.0 s."
    )
    bench.now_s += 20
    bench.rates.take(limited, 1)
    bench.refused(limited)


def test_tokens_a_minute_are_given_back(bench: Bench) -> None:
    limited = record(KeyLimits(tokens_per_minute=600))
    assert bench.rates.take(limited, 500) == 500
    error = bench.refused(limited, 200)
    assert "on tokens per minute: limit 600, used 500, requested 200" in str(error)
    assert error.retry_after_s == pytest.approx(10)
    bench.rates.give_back(limited.key_id, 450)
    assert bench.rates.take(limited, 550) == 550


def test_a_refusal_by_one_limit_takes_nothing_of_the_other(bench: Bench) -> None:
    limited = record(KeyLimits(requests_per_minute=2, tokens_per_minute=100))
    bench.rates.take(limited, 60)
    for _ in range(5):
        bench.refused(limited, 60)
    bench.rates.take(limited, 40)
    assert "requests per minute" in str(bench.refused(limited))


def test_a_request_that_can_never_pass_says_so(bench: Bench) -> None:
    error = bench.refused(record(KeyLimits(tokens_per_minute=100)), 101)
    assert error.retry_after_s is None
    assert "limit 100, at most 101 would be used" in str(error)


def test_each_key_has_its_own_and_no_limit_is_none(bench: Bench) -> None:
    limits = KeyLimits(requests_per_minute=1)
    for key_id in ("a" * 16, "b" * 16):
        bench.rates.take(record(limits, key_id), 1)
        bench.refused(record(limits, key_id))
    for _ in range(100):
        assert bench.rates.take(record(NO_LIMITS, "c" * 16), 10**9) == 0
    # Bounded: the key that was silent longest is forgotten.
    bench.rates.take(record(limits, "d" * 16), 1)
    bench.rates.take(record(limits, "a" * 16), 1)
    bench.rates.give_back("e" * 16, 5)


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 30)), max_size=60))
def test_no_minute_has_more_than_twice_the_limit(steps: list[tuple[int, int]]) -> None:
    """A full bucket and a minute's refill: what a client can do within any 60 seconds."""
    bench, limited = Bench(), record(KeyLimits(tokens_per_minute=100))
    taken: list[tuple[float, int]] = []
    for tokens, wait_s in steps:
        bench.now_s += wait_s
        try:
            taken.append((bench.now_s, bench.rates.take(limited, tokens)))
        except RateLimitError:
            continue
        window = [amount for at_s, amount in taken if at_s > bench.now_s - 60]
        assert sum(window) <= 200
