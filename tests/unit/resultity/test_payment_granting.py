"""From a payment to one grant: repetitions, other orders, lost answers, caps, restarts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from p2p.ledger_messages import Grant, TransferResult
from p2p.signing import Signed, open_signed
from p2p.types import AccountId
from resultity.errors import GatewayCallError
from resultity.payments.errors import (
    AmountCapError,
    DayCapError,
    EventConflictError,
    GrantDelayedError,
    GrantRefusedError,
)
from resultity.payments.granting import Granter
from resultity.payments.http_app import make_app
from resultity.payments.journal import REFUSED, PaymentJournal
from resultity.payments.limits import BODY_BYTES_MAX
from resultity.payments.port import Payment
from resultity.payments.practice_provider import PracticeProvider, event_body
from resultity.payments.signed_webhook import SignedWebhook, signature_header
from tests.fakes.ledger_world import MINT, NETWORK

DAY_S = 86_400
NOW_S = 20_000 * DAY_S
ACCOUNT = AccountId("acct-" + "a" * 40)
SECRET = b"0123456789abcdef" * 2


@dataclass
class FakeLedgerDoor:
    """Takes grants as the ledger does; `failures` are raised first, `lost` after it was taken."""

    grants: dict[bytes, tuple[Grant, bytes]] = field(default_factory=dict)
    failures: list[GatewayCallError] = field(default_factory=list)
    lost: int = 0

    def operation(self, document: Signed) -> TransferResult:
        grant = open_signed(document, Grant, NETWORK, MINT.public_key)
        if self.failures:
            raise self.failures.pop()
        content = repr((grant.account_id, grant.namespace, grant.amount, grant.memo)).encode()
        known = self.grants.setdefault(grant.grant_id, (grant, content))
        if known[1] != content:
            raise GatewayCallError("other content", status=400, code="id_conflict")
        if self.lost:
            self.lost -= 1
            raise GatewayCallError("cannot reach the gateway")
        return TransferResult(grant.grant_id, grant.amount, 0, known[0] is not grant)

    @property
    def total(self) -> int:
        return sum(grant.amount for grant, _ in self.grants.values())


class Desk:
    def __init__(self, folder: Path, event_cap: int = 1_000, day_cap: int = 10_000) -> None:
        self.folder, self.caps = folder, (event_cap, day_cap)
        self.ledger = FakeLedgerDoor()
        self.now_s = NOW_S
        self.restart()

    def restart(self) -> None:
        self.granter = Granter(
            MINT,
            NETWORK,
            self.ledger,
            PaymentJournal(self.folder, self.caps[1]),
            event_cap=self.caps[0],
            clock_ms=lambda: self.now_s * 1000,
        )

    def pay(self, event: str, amount: int = 100, **changes: Any) -> bool:
        options = {"provider": "bank", "account_id": ACCOUNT, "namespace": "dev", "reference": ""}
        payment = Payment(event_id=event, amount=amount, **(options | changes))
        return self.granter.grant(payment).exists


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_an_event_is_granted_once(desk: Desk) -> None:
    assert [desk.pay("e1"), desk.pay("e1"), desk.pay("e2"), desk.pay("e1")] == [
        False, True, False, True,
    ]  # fmt: skip
    desk.restart()
    desk.now_s += 3 * DAY_S
    assert desk.pay("e1") is True
    assert desk.ledger.total == 200
    (grant, _), *_ = desk.ledger.grants.values()
    assert (grant.account_id, grant.namespace, grant.memo) == (ACCOUNT, "dev", "bank:e1")


def test_the_same_event_with_other_content_is_refused(desk: Desk) -> None:
    desk.pay("e1", 100, reference="seven")
    for changes in (
        {"amount": 101, "reference": "seven"},
        {"reference": "eight"},
        {"reference": "seven", "namespace": "prod"},
        {"reference": "seven", "account_id": AccountId("acct-" + "b" * 40)},
    ):
        with pytest.raises(EventConflictError):
            desk.pay("e1", **changes)
    assert desk.pay("e1", 100, reference="seven", provider="other") is False
    assert desk.ledger.total == 200


def test_a_lost_answer_is_asked_for_again(desk: Desk) -> None:
    desk.ledger.lost = 1
    with pytest.raises(GrantDelayedError):
        desk.pay("e1")
    desk.restart()
    assert desk.pay("e1") is True
    assert desk.ledger.total == 100


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("value_refused", 400, GrantRefusedError),
        ("malformed", 400, GrantRefusedError),
        ("namespace_unknown", 400, GrantDelayedError),
        ("not_authorized", 403, GrantDelayedError),
        ("grant_cap", 429, GrantDelayedError),
        ("ledger_storage", 503, GrantDelayedError),
        ("", 0, GrantDelayedError),
        ("", 400, GrantDelayedError),
    ],
)
def test_what_the_ledger_refuses(desk: Desk, code: str, status: int, kind: type) -> None:
    desk.ledger.failures = [GatewayCallError("no", status=status, code=code)]
    with pytest.raises(kind) as caught:
        desk.pay("e1")
    assert caught.value.code == (code or "unavailable")
    assert desk.pay("e1") is False


def test_caps_of_an_event_and_of_a_day(tmp_path: Path) -> None:
    desk = Desk(tmp_path, event_cap=100, day_cap=250)
    with pytest.raises(AmountCapError, match="event-cap"):
        desk.pay("e0", 101)
    desk.ledger.failures = [GatewayCallError("no", status=400, code="namespace_unknown")]
    with pytest.raises(GrantDelayedError):
        desk.pay("e9")
    desk.pay("e1")
    desk.pay("e2")
    desk.pay("e2")
    for _ in range(
        2
    ):  # what was refused counts no more, what was granted does: after a restart too
        with pytest.raises(DayCapError, match="resets at") as caught:
            desk.pay("e3")
        desk.restart()
    assert caught.value.retry_after_s == DAY_S
    desk.pay("e4", 50)
    desk.now_s += DAY_S
    # Repetitions of what an earlier day granted do not count on this one.
    assert (desk.pay("e1"), desk.pay("e2")) == (True, True)
    assert [desk.pay("e3"), desk.pay("e5")] == [False, False]
    assert desk.ledger.total == 450


def test_what_may_have_been_granted_counts(tmp_path: Path) -> None:
    desk = Desk(tmp_path, day_cap=150)
    desk.ledger.lost = 1
    with pytest.raises(GrantDelayedError):
        desk.pay("e1")
    desk.restart()
    with pytest.raises(DayCapError):
        desk.pay("e2")


def test_a_journal_with_a_line_that_was_cut_off(desk: Desk, tmp_path: Path) -> None:
    desk.pay("e1")
    (path,) = tmp_path.glob("payments-*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[0][:40])
    desk.restart()
    assert desk.pay("e1") is True
    desk.pay("e2")
    desk.restart()
    assert desk.pay("e2") is True
    amounts = [json.loads(line)["amount"] for line in path.read_bytes().splitlines()[:2]]
    assert amounts == [100, 100]


deliveries = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["", "lost", "down", "restart"])), max_size=25
)


@given(deliveries)
def test_any_order_of_deliveries_grants_each_event_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    desk = Desk(tmp_path_factory.mktemp("journal"))
    for number, trouble in steps:
        desk.ledger.lost = int(trouble == "lost")
        if trouble == "down":
            desk.ledger.failures = [GatewayCallError("down")]
        if trouble == "restart":
            desk.restart()
        try:
            desk.pay(f"e{number}", 10 + number)
        except GrantDelayedError:
            assert trouble in ("lost", "down")
        desk.now_s += 3600
    for number in {number for number, _ in steps}:
        desk.pay(f"e{number}", 10 + number)
    assert desk.ledger.total == sum(10 + number for number in {number for number, _ in steps})


# --- over HTTP ----------------------------------------------------------------------------------
@pytest.fixture
def client(desk: Desk) -> Iterator[TestClient]:
    app = make_app([SignedWebhook("bank", [SECRET])], desk.granter, lambda: desk.now_s)
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


def send(client: TestClient, body: bytes, path: str = "/webhooks/bank") -> Any:
    header = signature_header([SECRET], NOW_S, body)
    return client.post(path, content=body, headers={"Webhook-Signature": header})


def test_answers(client: TestClient, desk: Desk) -> None:
    body = event_body("e1", ACCOUNT, "dev", 100)
    answer = send(client, body)
    assert (answer.status_code, answer.json()["status"]) == (200, "granted")
    assert send(client, body).json()["status"] == "exists"
    other = body.replace(b"payment.succeeded", b"customer.created")
    assert send(client, other).status_code == 204
    assert send(client, event_body("e1", ACCOUNT, "dev", 101)).status_code == 409
    assert send(client, event_body("e2", ACCOUNT, "dev", 1_001)).status_code == 422
    assert send(client, b"{}").status_code == 400
    assert send(client, body, "/webhooks/nobody").status_code == 404
    assert client.post("/webhooks/bank", content=body).status_code == 401
    assert send(client, b" " * (BODY_BYTES_MAX + 1)).status_code == 413
    assert client.get("/webhooks/bank").status_code == 405
    assert client.get("/healthz").json() == {"status": "ok"}
    desk.ledger.failures = [GatewayCallError("down")]
    delayed = send(client, event_body("e3", ACCOUNT, "dev", 1))
    assert (delayed.status_code, delayed.headers["retry-after"]) == (503, "5")
    assert delayed.json()["error"]["code"] == "unavailable"
    assert desk.ledger.total == 100


def test_a_journal_that_cannot_be_written_grants_nothing(client: TestClient, desk: Desk) -> None:
    desk.granter._journal._folder = desk.folder / "gone"
    assert send(client, event_body("e1", ACCOUNT, "dev", 100)).status_code == 500
    assert desk.ledger.total == 0


def test_the_practice_provider_repeats_until_it_is_taken() -> None:
    answers, pauses, sent = [0, 503, 429, 500, 200], [], []

    def post(url: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        sent.append(headers["Webhook-Signature"])
        return answers[min(len(sent), len(answers)) - 1], b""

    clock = iter(range(NOW_S, NOW_S + 100))
    provider = PracticeProvider(
        "http://127.0.0.1/webhooks/bank",
        [SECRET],
        clock_s=lambda: next(clock),
        sleep=pauses.append,
        randomness=random.Random(1),
        post=post,
    )
    found = provider.deliver("e1", b"{}")
    assert (found.status, found.attempts, found.taken) == (200, 5, True)
    assert len(set(sent)) == 5  # each attempt is signed anew
    assert pauses == sorted(pauses)
    assert len(provider.deliver_all({"e1": b"1", "e2": b"2"}, 3)) == 6


def test_a_refused_payment_that_comes_again_counts_towards_the_day(tmp_path: Path) -> None:
    journal = PaymentJournal(tmp_path, 100)
    payments = [
        Payment("test", f"event-{number}", ACCOUNT, "default", 60, "x") for number in range(3)
    ]
    for payment in payments:
        journal.ask(payment, NOW_S)
        journal.note(payment, REFUSED, NOW_S)
    again = PaymentJournal(tmp_path, 100)  # as a restart reads it
    for found in (journal, again):
        found.ask(payments[0], NOW_S)
        with pytest.raises(DayCapError):
            found.ask(payments[1], NOW_S)


def test_a_refusal_frees_nothing_while_the_same_payment_is_asked_again(tmp_path: Path) -> None:
    journal = PaymentJournal(tmp_path, 100)
    first, other = (
        Payment("test", f"event-{number}", ACCOUNT, "default", 60, "x") for number in range(2)
    )
    journal.ask(first, NOW_S)
    journal.ask(first, NOW_S)  # the provider delivers it a second time meanwhile
    journal.note(first, REFUSED, NOW_S)
    for found in (journal, PaymentJournal(tmp_path, 100)):
        with pytest.raises(DayCapError):
            found.ask(other, NOW_S)
    journal.note(first, REFUSED, NOW_S)
    journal.ask(other, NOW_S)
