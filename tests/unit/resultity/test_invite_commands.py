"""The commands around invites and payments: what they make, what they refuse before any call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2p.clock import system_clock_ms
from p2p.identity import load_key, load_or_create_key
from p2p.opening_messages import AccountInvite, parse_invite
from p2p.signing import open_signed
from resultity.__main__ import main
from resultity.account_invites import parse_duration_s
from resultity.errors import SettingsError
from resultity.network_files import found_network

ACCOUNT = "acct-" + "a" * 40


def run(*words: object, text: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], input=text)


@pytest.fixture
def founder(tmp_path: Path) -> Path:
    found_network(tmp_path / "founder", "test", [], system_clock_ms)
    return tmp_path / "founder"


@pytest.mark.parametrize(
    ("text", "seconds"), [("1m", 60), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "7 d", "7y", "1.5h", "9999999d"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_duration_s(text)


def test_invites_by_the_authority_and_by_a_delegate(founder: Path, tmp_path: Path) -> None:
    network = (founder / "network.id").read_text().strip()
    done = run("network", "invite-account", "--uses", 3, "--data-dir", founder, "--json")
    facts = json.loads(done.stdout)
    found = parse_invite(facts["invite"], network)
    document = open_signed(found.invite, AccountInvite, network)
    assert (document.uses, document.expires_ms) == (3, facts["expires_ms"])
    assert document.expires_ms - document.issued_ms == 7 * 86_400_000
    assert found.invite.signer == load_key(founder / "authority.key").public_key
    key = tmp_path / "delegate.key"
    shown = run("network", "identity", key, "--public-key").stdout.strip()
    assert shown == load_or_create_key(key).public_key.hex()
    done = run("network", "invite-account", "--key", key, "--network", network, "--expires", "12h")
    invite = parse_invite(done.stdout.strip(), network)
    assert invite.invite.signer.hex() == shown
    assert "its ID is" in done.stderr
    for words in ((), ("--key", key, "--data-dir", founder)):
        assert run("network", "invite-account", *words).exit_code == 2
    assert run("network", "invite-account", "--data-dir", founder, "--expires", "7").exit_code == 1


def test_an_invite_is_never_an_argument(founder: Path, tmp_path: Path) -> None:
    network = (founder / "network.id").read_text().strip()
    invite = run("network", "invite-account", "--data-dir", founder).stdout.strip()
    file = tmp_path / "me.account"
    words = ("account", "create", file, "--network", network, "--gateway", "http://127.0.0.1:1")
    done = run(*words, "--invite", invite)
    assert (done.exit_code, "a secret" in done.stderr) == (1, True)
    assert invite not in done.stderr
    done = run(*words, "--invite", "-", text="nonsense\n")
    assert (done.exit_code, "not an invite" in done.stderr) == (1, True)
    assert run(*words, "--invite", tmp_path / "nowhere").exit_code == 1
    assert not file.exists()  # nothing was made before the invite was found good
    done = run(*words, "--invite", "-", text=f"{invite}\n")
    assert (done.exit_code, "cannot reach" in done.stderr) == (1, True)
    assert run("account", "create", tmp_path / "b", "--network", network, "--invite", "-").exit_code


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--webhook-secret-file", "Bank=secret"), "provider's name"),
        (("--webhook-secret-file", "bank=secret", "--rate", "EUR=1.5"), "EUR=10000"),
        (("--webhook-secret-file", "bank=secret", "--event-cap", "0"), "more than zero"),
        (("--webhook-secret-file", "a=secret", "--webhook-secret-file", "a=secret"), "named once"),
        (("--webhook-secret-file", "a=secret", "--webhook-secret-file", "b=secret"), "of its own"),
        (("--webhook-secret-file", "bank=weak"), "random text"),
        (("--webhook-secret-file", "nowhere"), "nowhere"),
    ],
)
def test_payments_refuse_what_cannot_work(
    founder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("payments", "new-secret", "secret").exit_code == 0
    (tmp_path / "weak").write_text("password")
    (tmp_path / "weak").chmod(0o600)
    done = run(
        "payments", "run", *words, "--mint-key", founder / "mint.key", "--port", 0,
        "--network", (founder / "network.id").read_text().strip(),
        "--gateway", "http://127.0.0.1:1", "--data-dir", tmp_path / "payments",
    )  # fmt: skip
    assert (done.exit_code, complaint in done.stderr) == (1, True), done.stderr


def test_the_test_provider_needs_an_account_and_a_url(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    run("payments", "new-secret", secret)
    words = ("payments", "test-provider", "pay", "--amount", 1, "--secret-file", secret)
    done = run(*words, "--account", "acct-1", "--webhook-url", "http://127.0.0.1:1/webhooks/bank")
    assert (done.exit_code, "not an account ID" in done.stderr) == (1, True)
    done = run(*words, "--account", ACCOUNT, "--webhook-url", "ftp://x")
    assert (done.exit_code, "not a webhook's URL" in done.stderr) == (1, True)
    done = run(
        *words, "--account", ACCOUNT, "--webhook-url", "http://127.0.0.1:1/x", "--attempts", 1
    )
    assert (done.exit_code, json.loads(done.stdout)["status"]) == (1, 0)
