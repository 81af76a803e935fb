"""The adapter of the payment port: what it believes, what it refuses, what it makes of an event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.limits import AMOUNT_MICROCREDITS_MAX
from resultity.payments.errors import ForgedWebhookError, MalformedEventError, SecretError
from resultity.payments.limits import TOLERANCE_S
from resultity.payments.port import Payment
from resultity.payments.signed_webhook import SignedWebhook, signature, signature_header
from resultity.payments.webhook_secrets import check_secret, load_secrets, store_new_secret

SECRET, OLD_SECRET = b"0123456789abcdef" * 2, b"fedcba9876543210" * 2
NOW_S = 1_800_000_000
ACCOUNT = "acct-" + "a" * 40
PROVIDER = SignedWebhook("bank", [SECRET, OLD_SECRET], {"EUR": 10_000})


def event(**changes: Any) -> dict[str, Any]:
    plain = {
        "id": "evt_1",
        "type": "payment.succeeded",
        "account": ACCOUNT,
        "namespace": "default",
        "amount_microcredits": 5_000_000,
        "reference": "invoice 7",
    }
    return {name: value for name, value in (plain | changes).items() if value is not None}


def verify(body: bytes | dict[str, Any], header: str | None = None, now_s: int = NOW_S) -> Any:
    raw = json.dumps(body).encode() if isinstance(body, dict) else body
    sent = signature_header([SECRET], NOW_S, raw) if header is None else header
    return PROVIDER.verify({"webhook-signature": sent}, raw, now_s)


def test_a_signed_payment_is_read() -> None:
    assert verify(event()) == Payment("bank", "evt_1", ACCOUNT, "default", 5_000_000, "invoice 7")
    in_euro = event(amount_microcredits=None, amount={"currency": "EUR", "minor_units": 1250})
    assert verify(in_euro).amount == 12_500_000
    assert verify(event(reference=None)).reference == ""
    assert verify(event(type="payment.failed")) is None


def test_the_signature_is_what_the_documentation_says() -> None:
    # printf '%s' '1700000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac <secret>
    assert signature(SECRET, 1_700_000_000, b'{"id":"evt_1"}') == (
        "5815f7d6d473ae7d0b8a17f678bd83446fe9f1456bc1161e16ec253f529cc979"
    )


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=1,v1=",
        f"v1={'0' * 64}",
        f"t={NOW_S}",
        f"t={NOW_S},t={NOW_S},v1={'0' * 64}",
        f"t={NOW_S},v1={'0' * 64}",
        f"t=x,v1={'0' * 64}",
        f"t={NOW_S},v1=é",
        "t=" + "9" * 5000 + ",v1=00",
        f"t={NOW_S}," + ",".join(f"v1={'0' * 64}" for _ in range(9)),
    ],
)
def test_forged_signatures(header: str) -> None:
    with pytest.raises(ForgedWebhookError):
        verify(event(), header)


def test_a_signature_binds_body_time_and_secret() -> None:
    raw = json.dumps(event()).encode()
    good = signature(SECRET, NOW_S, raw)
    assert verify(raw, f"t={NOW_S},v1={good}") is not None
    assert verify(raw, f"t={NOW_S},v1={'0' * 64},v1={good}") is not None
    assert verify(raw, signature_header([OLD_SECRET], NOW_S, raw)) is not None
    for header, body in (
        (f"t={NOW_S + 1},v1={good}", raw),
        (f"t={NOW_S},v1={good}", raw + b" "),
        (f"t={NOW_S},v1={good[:-1]}", raw),
        (signature_header([b"another secret of enough length.."], NOW_S, raw), raw),
    ):
        with pytest.raises(ForgedWebhookError):
            verify(body, header)


@pytest.mark.parametrize("age_s", [-TOLERANCE_S - 1, TOLERANCE_S + 1, 86_400])
def test_stale_and_future_signatures(age_s: int) -> None:
    with pytest.raises(ForgedWebhookError, match="clocks"):
        verify(event(), now_s=NOW_S + age_s)
    assert verify(event(), now_s=NOW_S + TOLERANCE_S) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 50_000,
        b'{"type": "payment.succeeded", "type": "x"}',
        event(amount_microcredits=1.5),
        event(amount_microcredits=True),
        event(amount_microcredits="5"),
        event(amount_microcredits=0),
        event(amount_microcredits=-1),
        event(amount_microcredits=AMOUNT_MICROCREDITS_MAX + 1),
        event(amount={"currency": "EUR", "minor_units": 1}),
        event(amount_microcredits=None),
        event(amount_microcredits=None, amount={"currency": "USD", "minor_units": 1}),
        event(amount_microcredits=None, amount={"currency": "EUR", "minor_units": 10**18}),
        event(amount_microcredits=None, amount={"currency": "EUR"}),
        event(amount_microcredits=None, amount=5),
        event(account="acct-1"),
        event(namespace="No Namespace"),
        event(namespace=None),
        event(id=""),
        event(id="e" * 101),
        event(id="evt 1"),
        event(id=5),
        event(reference="r" * 101),
        event(reference="é" * 60),
        event(reference="\ud800"),
        event(reference="two\nlines"),
    ],
)
def test_malformed_events(body: Any) -> None:
    with pytest.raises(MalformedEventError):
        verify(body)


def test_a_grants_id_is_the_providers_and_the_events() -> None:
    payment = verify(event())
    other_amount = verify(event(amount_microcredits=1))
    assert payment.grant_id == other_amount.grant_id
    assert len(payment.grant_id) == 16
    names = [("bank", "evt_1"), ("ban", "kevt_1"), ("bank", "evt_2"), ("bank2", "evt_1")]
    ids = {Payment(p, e, payment.account_id, "a", 1, "").grant_id for p, e in names}
    assert len(ids) == len(names)


@given(st.binary(max_size=200), st.text(max_size=200))
def test_no_input_ends_in_anything_but_a_refusal(body: bytes, header: str) -> None:
    with pytest.raises(ForgedWebhookError):
        verify(body, header)
    with pytest.raises(MalformedEventError):
        verify(b"\x00" + body)


def test_secrets_are_strong_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    store_new_secret(path)
    (secret,) = load_secrets(path)
    assert len(secret) == 64
    with pytest.raises(SecretError, match="exists"):
        store_new_secret(path)
    path.write_bytes(secret + b"\n" + SECRET + b"\n")
    assert load_secrets(path) == (secret, SECRET)
    path.write_bytes(b"\n".join([secret, SECRET, OLD_SECRET]))
    with pytest.raises(SecretError, match="at most 2"):
        load_secrets(path)
    path.chmod(0o640)
    with pytest.raises(SecretError, match="chmod 600"):
        load_secrets(path)
    for weak in (b"", b"secret", b"a" * 64, b"0123456789" * 4):
        with pytest.raises(SecretError, match="random"):
            check_secret(weak, "here")
