"""Owns the tests of the rules by which a node takes an offer and believes a voucher."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.agent.offer_rules import (
    TIME_TO_WORK_MS_MIN,
    Capacity,
    check_offer,
    check_voucher,
)
from p2p.certificates import verify_chain
from p2p.errors import RefusedError, StaleError, UntrustedError
from p2p.job_messages import REFUSALS, Offer
from p2p.ledger_messages import Voucher
from p2p.network_configuration import open_configuration, price_terms
from p2p.prices import charge
from tests.fakes.clocks import START_MS
from tests.fakes.trust import (
    GATEWAY,
    MODEL,
    MODEL_DIGEST,
    NETWORK,
    NODE,
    OTHER_GATEWAY,
    OTHER_NODE,
    configuration,
    gateway_chain,
    node_chain,
)

CONFIGURATION = open_configuration(configuration(), NETWORK)
CERTIFICATE = verify_chain(gateway_chain(), NETWORK, GATEWAY.peer_id, START_MS)
TERMS = price_terms(CONFIGURATION, MODEL)
MAXIMUM = charge(TERMS, 100, 50)
REQUEST = b"{}"
OFFER = Offer(
    job_id=bytes(16),
    attempt=0,
    gateway_id=GATEWAY.peer_id,
    node_id=NODE.peer_id,
    hold_id=bytes([1]) * 16,
    model_digest=MODEL_DIGEST,
    request_hash=hashlib.sha256(REQUEST).digest(),
    request=REQUEST,
    input_tokens_max=100,
    output_tokens_max=50,
    terms=TERMS,
    maximum=MAXIMUM,
    issued_ms=START_MS,
    deadline_ms=START_MS + 60_000,
    seed=0,
)
FREE = Capacity(jobs=0, jobs_max=4, runtime_ready=True, draining=False)


def judge(offer: Offer = OFFER, **changes: Any) -> str:
    """Give the code of the refusal, or an empty text."""
    arguments: dict[str, Any] = {
        "node_id": NODE.peer_id,
        "gateway_id": GATEWAY.peer_id,
        "gateway": CERTIFICATE,
        "configuration": CONFIGURATION,
        "model_digest": MODEL_DIGEST,
        "capacity": FREE,
        "now_ms": START_MS,
        **changes,
    }
    try:
        check_offer(offer, **arguments)
    except RefusedError as error:
        code = error.code
    else:
        return ""
    assert code in REFUSALS
    return code


def test_a_good_offer() -> None:
    assert judge() == ""
    assert judge(replace(OFFER, maximum=MAXIMUM + 1, resume_tokens=(1,) * 50)) == ""
    assert judge(capacity=replace(FREE, jobs=3)) == ""
    assert judge(now_ms=OFFER.deadline_ms - TIME_TO_WORK_MS_MIN) == ""


@pytest.mark.parametrize(
    ("offer_changes", "code"),
    [
        ({"gateway_id": OTHER_GATEWAY.peer_id}, "not_entitled"),
        ({"node_id": OTHER_NODE.peer_id}, "not_entitled"),
        ({"request": b"{ }"}, "not_entitled"),
        ({"request_hash": bytes(32)}, "not_entitled"),
        ({"model_digest": bytes(32)}, "model_not_served"),
        ({"terms": replace(TERMS, output_microcredits_per_million_tokens=1)}, "price"),
        ({"terms": replace(TERMS, input_microcredits_per_million_tokens=10**12)}, "price"),
        ({"terms": replace(TERMS, configuration_version=2)}, "price"),
        ({"terms": replace(TERMS, model_name="other")}, "price"),
        ({"maximum": MAXIMUM - 1}, "price"),
        ({"output_tokens_max": 51}, "price"),
        ({"input_tokens_max": 101}, "price"),
        ({"resume_tokens": (1,) * 51}, "bad_request"),
        ({"deadline_ms": START_MS + TIME_TO_WORK_MS_MIN - 1}, "deadline"),
        ({"deadline_ms": START_MS - 1}, "deadline"),
        ({"deadline_ms": START_MS + 600_000 + 60_001}, "deadline"),
    ],
)
def test_offers_that_are_refused(offer_changes: dict[str, Any], code: str) -> None:
    assert judge(replace(OFFER, **offer_changes)) == code


def other_configuration(**changes: Any) -> Any:
    return open_configuration(configuration(**changes), NETWORK)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"gateway": None}, "not_entitled"),
        (
            {"gateway": verify_chain(node_chain(), NETWORK, NODE.peer_id, START_MS)},
            "not_entitled",
        ),
        ({"gateway_id": OTHER_GATEWAY.peer_id}, "not_entitled"),
        ({"configuration": other_configuration(models=())}, "model_not_served"),
        (
            {"configuration": other_configuration(banned_peers=(GATEWAY.peer_id,))},
            "not_entitled",
        ),
        ({"model_digest": bytes(32)}, "model_not_served"),
        ({"capacity": replace(FREE, draining=True)}, "draining"),
        ({"capacity": replace(FREE, runtime_ready=False)}, "runtime"),
        ({"capacity": replace(FREE, jobs=4)}, "busy"),
        ({"capacity": replace(FREE, jobs_max=0)}, "busy"),
    ],
)
def test_situations_in_which_it_is_refused(changes: dict[str, Any], code: str) -> None:
    assert judge(**changes) == code


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10**6))
def test_a_job_is_never_worth_more_than_its_hold(
    input_tokens: int, output_tokens: int, maximum: int
) -> None:
    offer = replace(
        OFFER, input_tokens_max=input_tokens, output_tokens_max=output_tokens, maximum=maximum
    )
    accepted = judge(offer) == ""
    assert accepted == (charge(TERMS, input_tokens, output_tokens) <= maximum)


# --- vouchers -----------------------------------------------------------------------------------
VOUCHER = Voucher(
    hold_id=OFFER.hold_id,
    job_id=OFFER.job_id,
    gateway_id=OFFER.gateway_id,
    maximum=OFFER.maximum,
    terms=TERMS,
    issued_ms=START_MS,
    expires_ms=START_MS + 120_000,
)


def test_a_good_voucher() -> None:
    check_voucher(VOUCHER, OFFER, START_MS)
    check_voucher(replace(VOUCHER, maximum=MAXIMUM + 1), OFFER, START_MS + 119_999)


@pytest.mark.parametrize(
    "changes",
    [
        {"hold_id": bytes(16)},
        {"job_id": bytes([9]) * 16},
        {"gateway_id": OTHER_GATEWAY.peer_id},
        {"maximum": MAXIMUM - 1},
        {"terms": replace(TERMS, configuration_version=2)},
        {"terms": replace(TERMS, output_microcredits_per_million_tokens=1)},
    ],
)
def test_vouchers_for_something_else(changes: dict[str, Any]) -> None:
    with pytest.raises(UntrustedError):
        check_voucher(replace(VOUCHER, **changes), OFFER, START_MS)


def test_a_voucher_ends() -> None:
    with pytest.raises(StaleError):
        check_voucher(VOUCHER, OFFER, VOUCHER.expires_ms)
