"""The error tree: each leaf knows what a client is told; refusals become the right leaf."""

from __future__ import annotations

import pytest

from gateway import errors
from gateway.errors import GatewayError, GatewaySetupError
from gateway.peer.attempt import Refusal
from gateway.peer.ledger_port import as_client_error
from gateway.peer.routing import Choice
from gateway.peer.verdicts import Verdicts, client_error, is_blamed
from p2p.errors import DeadlineError, PeerUnavailableError, RefusedError, UntrustedError
from p2p.job_messages import REFUSALS


def leaves() -> list[type[GatewayError]]:
    found = [getattr(errors, name) for name in dir(errors)]
    return [e for e in found if isinstance(e, type) and issubclass(e, GatewayError)]


def test_every_error_has_a_shape() -> None:
    for error_class in leaves():
        body = error_class("why", param="p").body()["error"]
        assert body["message"] == "why"
        assert body["type"]
        assert body["code"]
        if not issubclass(error_class, GatewaySetupError):
            assert 400 <= error_class.status < 600


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("key_unknown", 401),
        ("key_revoked", 401),
        ("key_expired", 401),
        ("insufficient_funds", 429),
        ("key_cap", 429),
        ("key_not_allowed", 403),
        ("caller_not_allowed", 403),
        ("caller_token", 403),
        ("gateway_not_admitted", 403),
        ("gateway_private", 403),
        ("subcloud_closed", 403),
        ("subcloud_price", 403),
        ("subcloud_model", 404),
        ("subcloud_policy", 503),
        ("subcloud_unknown", 503),
        ("ledger_busy", 503),
        ("ledger_integrity", 503),
        ("mirror_reads_only", 503),
        ("value_refused", 500),
    ],
)
def test_ledger_refusals(code: str, status: int) -> None:
    assert as_client_error(RefusedError(code, "why")).status == status


def test_a_ledger_that_does_not_answer() -> None:
    for error in (DeadlineError("x"), PeerUnavailableError("x"), UntrustedError("x")):
        answer = as_client_error(error)
        assert answer.status == 503
        assert answer.retry_after_s is not None


def test_node_refusals() -> None:
    mendable = {"context_length_exceeded", "bad_request", "unsupported"}
    for code in REFUSALS:
        refusal = Refusal(code, "because", 0, 2000, 1024)
        error = client_error(refusal, longer_context_exists=False)
        assert (error is not None) == (code in mendable), code
        if error is not None:
            assert error.status == 400
    long_prompt = Refusal("context_length_exceeded", "", 0, 2000, 1024)
    assert client_error(long_prompt, longer_context_exists=True) is None
    assert is_blamed("runtime")
    for code in ("busy", "not_resumable", "caller_not_allowed", "price_too_low", "outside_hours"):
        assert not is_blamed(code), code
    assert not is_blamed("too_large")


def test_nobody_left() -> None:
    verdicts = Verdicts()
    verdicts.note("busy", 4000)
    error = verdicts.nobody_left("m", Choice(None, {"tried": 1}), output_began=False)
    assert (error.status, error.retry_after_s) == (503, 4.0)
    assert verdicts.nobody_left("m", Choice(None), output_began=True).status == 502
    images = Verdicts().nobody_left("m", Choice(None, {"images": 2}), output_began=False)
    assert images.status == 400
