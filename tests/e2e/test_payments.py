"""Payments over real processes: webhooks, the gateway, the ledger, and what breaks in between."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2p.account_file import load_account
from p2p.types import parse_network_id
from resultity.local.folders import LocalFolders
from resultity.payments.practice_provider import event_body, post_webhook
from resultity.payments.signed_webhook import signature_header
from resultity.payments.webhook_secrets import load_secrets
from tests.fakes.real_network import HANG_S, RealNetwork, eventually

pytestmark = pytest.mark.e2e


class Payments:
    """A payments process beside a network, with one provider and its secret."""

    def __init__(self, network: RealNetwork, folder: Path) -> None:
        self.network, self.folder = network, folder
        folders = LocalFolders(network.data_dir)
        network_id = parse_network_id(network.network)
        self.account = load_account(folders.consumer_account, network_id).account_id
        self.mint = folders.network.mint_path
        self.secret = folder / "secret"
        assert network.run("payments", "new-secret", str(self.secret)).returncode == 0
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        port = self.url.rpartition(":")[2].partition("/")[0] or "0"
        self.process = self.network.start(
            "payments", "run", "--webhook-secret-file", f"bank={self.secret}",
            "--mint-key", str(self.mint), "--gateway", self.network.base_url,
            "--network", self.network.network, "--port", port,
            "--data-dir", str(self.folder / "payments"), "--ready-file", str(ready),
        )  # fmt: skip
        facts = json.loads(eventually(lambda: ready.exists() and ready.read_text(), "it serves"))
        self.url = f"{facts['base_url']}/webhooks/bank"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate(timeout=HANG_S)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        _, errors = self.process.communicate(timeout=HANG_S)
        assert self.process.returncode == 0, errors

    def pay_words(self, amount: str, *words: str) -> tuple[str, ...]:
        return (
            "payments", "test-provider", "pay", "--account", self.account, "--amount", amount,
            "--webhook-url", self.url, "--secret-file", str(self.secret), *words,
        )  # fmt: skip

    def pay(self, amount: str, *words: str) -> list[dict[str, Any]]:
        done = self.network.run(*self.pay_words(amount, *words))
        assert done.returncode == 0, done.stderr + done.stdout
        return [json.loads(line) for line in done.stdout.splitlines()]

    def send(self, body: bytes, age_s: int = 0, secret: bytes | None = None) -> tuple[int, str]:
        secrets = [secret] if secret else load_secrets(self.secret)
        header = signature_header(secrets, int(time.time()) - age_s, body)
        status, answer = post_webhook(self.url, body, {"Webhook-Signature": header})
        return status, json.loads(answer)["error"]["code"] if status >= 400 else ""

    def granted(self) -> int:
        return int(self.network.balance()["granted_microcredits"])


@pytest.fixture
def payments(network: RealNetwork, tmp_path: Path) -> Iterator[Payments]:
    found = Payments(network, tmp_path)
    found.start()
    try:
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            found.kill()


def test_payments_become_credit_exactly_once(payments: Payments) -> None:
    before = payments.granted()
    found = payments.pay("1.5", "--count", "3", "--repeat", "4")
    assert len(found) == 12
    statuses = [json.loads(one["answer"])["status"] for one in found]
    assert (statuses.count("granted"), statuses.count("exists")) == (3, 9)
    assert payments.granted() - before == 3 * 1_500_000
    # A forged, a stale, a changed and a too large one: none makes credit.
    body = event_body("evt_forged", payments.account, "default", 1_000_000)
    assert payments.send(body, secret=b"0123456789abcdef" * 2) == (401, "signature")
    assert payments.send(body, age_s=301) == (401, "signature")
    again = event_body(found[0]["event"], payments.account, "default", 9_000_000)
    assert payments.send(again) == (409, "event_conflict")
    assert payments.send(event_body("evt_big", payments.account, "default", 10**10)) == (
        422,
        "amount_cap",
    )
    assert payments.send(event_body("evt_n", payments.account, "nowhere", 1)) == (
        503,
        "namespace_unknown",
    )
    assert payments.granted() - before == 3 * 1_500_000
    # After a kill and a restart the same events make nothing new.
    payments.kill()
    payments.start()
    (repeated,) = payments.pay("1.5", "--event-id", found[0]["event"])
    assert json.loads(repeated["answer"])["status"] == "exists"
    payments.stop()
    assert payments.granted() - before == 3 * 1_500_000


def test_the_ledger_is_down_and_the_payment_arrives_later(payments: Payments) -> None:
    network = payments.network
    before = payments.granted()
    network.part("bootstrap").kill()
    words = payments.pay_words("2", "--event-id", "evt_late", "--repeat", "2", "--attempts", "60")
    provider = network.start(*words)
    body = event_body("evt_probe", payments.account, "default", 1_000_000)
    eventually(lambda: payments.send(body)[0] == 503, "the payment is put off")
    payments.kill()  # killed while it was told to come again, and restarted
    payments.start()
    network.heal()
    _, errors = provider.communicate(timeout=HANG_S)
    assert provider.returncode == 0, errors
    (repeated,) = payments.pay("2", "--event-id", "evt_late")
    assert json.loads(repeated["answer"])["status"] == "exists"
    assert payments.granted() - before == 2_000_000
    assert network.ledger_sum() == 0
