"""The operator's own rules: what is taken, what is refused, with which code, and when."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.agent.admission_rules import (
    NO_RULES,
    OperatorRules,
    check_begin,
    check_input,
    check_rules,
    jobs_of_a_model_max,
    model_refused,
    seconds_until_begin,
)
from node.agent.job_pace import JobPace
from node.agent.refusal_log import RefusalLog
from p2p.errors import MalformedError, RefusedError
from p2p.job_messages import REFUSALS, Offer
from p2p.network_configuration import open_configuration, price_terms
from tests.fakes.clocks import START_MS
from tests.fakes.trust import (
    GATEWAY,
    MODEL,
    MODEL_DIGEST,
    NETWORK,
    NODE,
    OTHER_GATEWAY,
    configuration,
)

TERMS = price_terms(open_configuration(configuration(), NETWORK), MODEL)
PRICES = (
    TERMS.input_microcredits_per_million_tokens,
    TERMS.output_microcredits_per_million_tokens,
)
OFFER = Offer(
    job_id=bytes(16),
    attempt=0,
    gateway_id=GATEWAY.peer_id,
    node_id=NODE.peer_id,
    hold_id=bytes(16),
    model_digest=MODEL_DIGEST,
    request_hash=bytes(32),
    request=b"{}",
    input_tokens_max=100,
    output_tokens_max=50,
    terms=TERMS,
    maximum=10**6,
    issued_ms=START_MS,
    deadline_ms=START_MS + 60_000,
    seed=0,
)


def judged(rules: OperatorRules, *, jobs: int = 0, now_ms: int = START_MS, choices: int = 1) -> str:
    """The code of the refusal, or an empty text."""
    try:
        check_rules(
            rules,
            rules.hours(),
            OFFER,
            gateway_id=GATEWAY.peer_id,
            jobs=jobs,
            now_ms=now_ms,
            choices=choices,
        )
    except RefusedError as error:
        code = error.code
    else:
        return ""
    assert code in REFUSALS
    return code


def test_without_rules_everything_is_taken() -> None:
    assert judged(NO_RULES, jobs=10**6) == ""
    check_input(NO_RULES, 10**9)


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"models": ("tiny-*",)}, ""),
        ({"models": ("other", "t?ny-ch[a-c]t")}, ""),
        ({"models": ("TINY-*",)}, "model_not_served"),
        ({"callers_allowed": (GATEWAY.peer_id,)}, ""),
        ({"callers_allowed": (OTHER_GATEWAY.peer_id,)}, "caller_not_allowed"),
        ({"callers_denied": (OTHER_GATEWAY.peer_id,)}, ""),
        ({"callers_denied": (GATEWAY.peer_id,)}, "caller_not_allowed"),
        (
            {"callers_allowed": (GATEWAY.peer_id,), "callers_denied": (GATEWAY.peer_id,)},
            "caller_not_allowed",
        ),
        ({"input_microcredits_per_million_tokens_min": PRICES[0]}, ""),
        ({"input_microcredits_per_million_tokens_min": PRICES[0] + 1}, "price_too_low"),
        ({"output_microcredits_per_million_tokens_min": PRICES[1]}, ""),
        ({"output_microcredits_per_million_tokens_min": PRICES[1] + 1}, "price_too_low"),
        ({"output_tokens_max": 50}, ""),
        ({"output_tokens_max": 49}, "too_large"),
    ],
)
def test_each_rule(rules: dict[str, Any], code: str) -> None:
    assert judged(OperatorRules(**rules)) == code


def test_the_load() -> None:
    assert judged(OperatorRules(jobs_max=3), jobs=2) == ""
    assert judged(OperatorRules(jobs_max=3), jobs=3) == "busy"
    assert judged(OperatorRules(jobs_max=3), jobs=1, choices=2) == ""
    assert judged(OperatorRules(jobs_max=3), jobs=2, choices=2) == "busy"
    assert judged(OperatorRules(jobs_max=3), choices=4) == "too_many_choices"
    assert jobs_of_a_model_max(NO_RULES, 4, 16) == 20
    assert jobs_of_a_model_max(OperatorRules(slots_share_max=0.5), 4, 16) == 2
    assert jobs_of_a_model_max(OperatorRules(slots_share_max=0.01), 4, 16) == 1


def test_the_hours() -> None:
    # START_MS is some moment; half of the week is open, the other half closed.
    minutes = range(0, 7 * 24 * 60, 97)
    rules = OperatorRules(schedule=("mon-fri 08:00-18:00",))
    hours = rules.hours()
    for minute in minutes:
        now_ms = START_MS + minute * 60_000
        assert judged(rules, now_ms=now_ms) == ("" if hours.is_open(now_ms) else "outside_hours")


def test_the_input_is_known_later() -> None:
    check_input(OperatorRules(input_tokens_max=10), 10)
    with pytest.raises(RefusedError) as refused:
        check_input(OperatorRules(input_tokens_max=10), 11)
    assert refused.value.code == "too_large"


@pytest.mark.parametrize(
    "wrong",
    [
        {"jobs_max": 0},
        {"input_tokens_max": 0},
        {"output_tokens_max": -1},
        {"slots_share_max": 0.0},
        {"slots_share_max": 1.1},
        {"slots_share_max": float("nan")},
        {"input_microcredits_per_million_tokens_min": -1},
        {"models": ("x",) * 1001},
        {"callers_denied": (GATEWAY.peer_id[:-1],)},
        {"callers_allowed": ("bogus",)},
        {"schedule": ("always",)},
        {"time_zone": "Mars/Olympus"},
    ],
)
def test_rules_that_cannot_work(wrong: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        OperatorRules(**wrong)


RULES = st.builds(
    OperatorRules,
    models=st.sampled_from([(), ("tiny-*",), ("other",)]),
    callers_allowed=st.sampled_from([(), (GATEWAY.peer_id,), (OTHER_GATEWAY.peer_id,)]),
    callers_denied=st.sampled_from([(), (GATEWAY.peer_id,)]),
    input_microcredits_per_million_tokens_min=st.sampled_from([0, PRICES[0], PRICES[0] + 1]),
    output_microcredits_per_million_tokens_min=st.sampled_from([0, PRICES[1], PRICES[1] + 1]),
    schedule=st.sampled_from([(), ("00:00-24:00",), ("mon 10:00-11:00",)]),
    jobs_max=st.none() | st.integers(1, 5),
    output_tokens_max=st.none() | st.integers(1, 100),
)


@given(RULES, st.integers(0, 6), st.integers(0, 7 * 24 * 60))
def test_taken_is_what_no_rule_forbids(rules: OperatorRules, jobs: int, minute: int) -> None:
    now_ms = START_MS + minute * 60_000
    forbidden = {
        "caller_not_allowed": GATEWAY.peer_id in rules.callers_denied
        or (bool(rules.callers_allowed) and GATEWAY.peer_id not in rules.callers_allowed),
        "outside_hours": not rules.hours().is_open(now_ms),
        "model_not_served": rules.models == ("other",),
        "price_too_low": rules.input_microcredits_per_million_tokens_min > PRICES[0]
        or rules.output_microcredits_per_million_tokens_min > PRICES[1],
        "too_large": rules.output_tokens_max is not None and rules.output_tokens_max < 50,
        "busy": rules.jobs_max is not None and jobs >= rules.jobs_max,
    }
    code = judged(rules, jobs=jobs, now_ms=now_ms)
    assert (code == "") == (not any(forbidden.values()))
    assert not code or forbidden[code]
    # A model is not even offered exactly if its own rules would refuse each offer.
    assert bool(model_refused(rules, "tiny-chat", TERMS)[0]) == (
        forbidden["model_not_served"] or forbidden["price_too_low"]
    )


# --- deadlines ------------------------------------------------------------------------------------
@given(
    st.integers(0, 100),
    st.integers(1, 16),
    st.floats(0, 1000),
    st.floats(0, 1000),
)
def test_waiting(jobs: int, slots: int, tokens: float, per_s: float) -> None:
    def wait_s(jobs: int) -> float:
        return seconds_until_begin(
            jobs=jobs, slots=slots, output_tokens_mean=tokens, output_tokens_per_s=per_s
        )

    assert wait_s(jobs) >= 0
    assert wait_s(jobs) <= wait_s(jobs + 1)
    if jobs < slots or per_s == 0:
        assert wait_s(jobs) == 0, "a free slot, or nothing measured: nobody is refused for that"


def test_what_cannot_begin_in_time() -> None:
    # 4 slots make 100 tokens a second, answers have 50: two ends a second.
    wait_s = seconds_until_begin(jobs=13, slots=4, output_tokens_mean=50, output_tokens_per_s=100)
    assert wait_s == 5.0
    check_begin(START_MS + 5000, START_MS, wait_s)
    with pytest.raises(RefusedError, match=r"in 5.0 s .* 0.5 s after the deadline") as refused:
        check_begin(START_MS + 4500, START_MS, wait_s)
    assert (refused.value.code, refused.value.retry_after_s) == ("deadline", 5.0)
    with pytest.raises(RefusedError, match=r"in 7\.0 s"):
        check_begin(START_MS + 6000, START_MS, wait_s, prefill_s=2.0)


def test_what_is_learnt_of_jobs() -> None:
    pace = JobPace()
    assert pace.prefill_s(1000) == 0
    pace.note_prefill(63, 1.0)
    assert pace.prefill_s(1000) == 0, "a short input says nothing"
    pace.note_prefill(1000, 2.0)
    assert pace.prefill_s(1000) == 2.0
    pace.note_prefill(1000, 1.0)
    assert 1.0 < pace.prefill_s(1000) < 2.0
    for tokens in (10, 20):
        pace.note_answer(tokens)
    assert pace.output_tokens == 12.0


def test_refusals_are_remembered_for_a_while() -> None:
    log = RefusalLog()
    for second in range(2000):
        log.note("busy" if second % 2 else "deadline", "full", second * 1000)
    assert log.counts == {"busy": 1000, "deadline": 1000}
    assert log.recent(2_000_000).total() == 300
    assert log.recent(10**9).total() == 0
    assert log.last_reason == "busy: full"
    log.note("needs_voucher", "too much for a lease", 2_000_000)  # it comes back with a voucher
    assert log.recent(2_000_000).total() == 300
    assert log.last_reason == "busy: full"
