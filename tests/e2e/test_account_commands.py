"""Accounts, namespaces and API keys from the command line, on a network of real processes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from resultity.local.folders import LocalFolders
from tests.fakes.local_network import (
    CAPITAL,
    MODEL,
    REPOSITORY,
    LocalFacts,
    eventually,
    local_network,
    resultity_command,
    run_resultity,
)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFacts]:
    with local_network(tmp_path_factory.mktemp("account_commands"), nodes=1) as facts:
        yield facts


def run(network: LocalFacts, *words: str) -> str:
    done = network.run(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(network: LocalFacts, api_key: str) -> str:
    with openai.OpenAI(base_url=network.base_url, api_key=api_key, max_retries=0) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": CAPITAL}], temperature=0
        )
    return answer.choices[0].message.content or ""


def test_a_key_with_limits_is_created_listed_rotated_and_revoked(network: LocalFacts) -> None:
    made = json.loads(
        run(
            network, "key", "create", "--name", "ci", "--credits-per-day", "0.5",
            "--requests-per-minute", "2", "--source", "127.0.0.0/8", "--json",
        )
    )  # fmt: skip
    assert "Paris" in ask(network, made["api_key"])
    listed = {k["key_id"]: k for k in json.loads(run(network, "key", "list", "--json"))}
    shown = listed[made["key_id"]]
    assert shown["limits"]["microcredits_per_day"] == 500_000
    assert shown["limits"]["source_networks"] == ["127.0.0.0/8"]
    assert "2 requests/min" in run(network, "key", "list")
    ask(network, made["api_key"])
    with pytest.raises(openai.RateLimitError, match="requests per minute: limit 2") as caught:
        ask(network, made["api_key"])
    assert caught.value.code == "rate_limit_exceeded"
    turned = json.loads(
        run(network, "key", "rotate", made["key_id"], "--grace-hours", "0", "--json")
    )
    assert turned["api_key"] != made["api_key"]

    def old_is_refused() -> bool:
        try:
            ask(network, made["api_key"])
        except openai.AuthenticationError:
            return True
        except openai.RateLimitError:
            return False
        return False

    eventually(old_is_refused, "the old secret is refused")
    run(network, "key", "revoke", made["key_id"])
    listed = {k["key_id"]: k for k in json.loads(run(network, "key", "list", "--json"))}
    assert (listed[made["key_id"]]["state"], listed[made["key_id"]]["rotations"]) == ("revoked", 1)


def test_the_cap_of_a_day_blocks_and_says_when_it_resets(network: LocalFacts) -> None:
    key = run(network, "key", "create", "--credits-per-day", "0.000001").strip()
    with pytest.raises(openai.RateLimitError, match="credit cap of a day is 1 micro") as caught:
        ask(network, key)
    assert caught.value.code == "insufficient_quota"
    assert int(caught.value.response.headers["retry-after"]) > 0
    elsewhere = run(network, "key", "create", "--source", "192.0.2.0/24").strip()
    with pytest.raises(openai.PermissionDeniedError, match=r"192\.0\.2\.0/24"):
        ask(network, elsewhere)


def test_the_local_networks_own_key_is_kept_when_it_is_rotated(network: LocalFacts) -> None:
    key_id = network.api_key.split("_")[1]
    renewed = run(network, "key", "rotate", key_id, "--grace-hours", "1").strip()
    assert (Path(network.data_dir) / "api_key").read_text().strip() == renewed
    # Within the grace both are good.
    for key in (renewed, network.api_key):
        assert "Paris" in ask(network, key)


def test_namespaces_are_opened_and_listed(network: LocalFacts) -> None:
    run(network, "namespace", "create", "prod")
    assert "exists already" in run(network, "namespace", "create", "prod")
    found = {n["namespace"]: n for n in json.loads(run(network, "namespace", "list", "--json"))}
    assert set(found) == {"default", "prod"}
    assert found["prod"]["available_microcredits"] == 0
    assert "default" in run(network, "namespace", "list")
    run(network, "key", "create", "--namespace", "prod")
    assert len(json.loads(run(network, "key", "list", "--namespace", "prod", "--json"))) == 1


def test_account_keys_are_rotated_and_the_account_recovered(
    network: LocalFacts, tmp_path: Path
) -> None:
    first, second = tmp_path / "own.account", tmp_path / "second.account"
    account_id = run(network, "account", "create", str(first)).strip()
    run(network, "account", "register", str(first))
    run(network, "account", "key", "add", str(first), str(second))
    old = tmp_path / "old.account"
    old.write_bytes(first.read_bytes())
    old.chmod(0o600)
    run(network, "account", "key", "rotate", str(first))
    done = network.run("namespace", "create", "late", "--account-file", str(old))
    assert (done.returncode, "not signed by a key" in done.stderr) == (1, True)
    shown = json.loads(run(network, "account", "key", "list", str(first), "--json"))
    assert (len(shown["signing_keys"]), shown["key_changes"]) == (2, 2)
    mine, recovery = tmp_path / "mine.account", tmp_path / "own.recovery.key"
    run(
        network, "account", "key", "recover", str(mine), "--account", account_id,
        "--recovery-key", str(recovery),
    )  # fmt: skip
    for path in (first, second):
        assert network.run("account", "key", "list", str(path)).returncode == 1
    run(network, "namespace", "create", "late", "--account-file", str(mine))
    assert "(in this file)" in run(network, "account", "key", "list", str(mine))


def test_earnings_have_not_matured_yet(network: LocalFacts) -> None:
    ask(network, network.api_key)

    def earned() -> bool:
        found = json.loads(run(network, "account", "earnings", "--json"))
        assert found["earned_unmatured_microcredits"] == found["earned_microcredits"]
        assert found["fees_unmatured_microcredits"] == found["fees_microcredits"]
        return bool(found["earned_microcredits"] > 0 and found["fees_microcredits"] > 0)

    eventually(earned, "the operator has earned something")
    assert "mature after 7 days" in run(network, "account", "earnings")


def test_an_account_says_who_referred_it(network: LocalFacts, tmp_path: Path) -> None:
    file = tmp_path / "referred.account"
    account_id = run(network, "account", "create", str(file)).strip()
    run(network, "account", "register", str(file))
    consumer = LocalFolders(Path(network.data_dir)).consumer_account
    referrer = json.loads(consumer.read_text())["account_id"]
    words = ("account", "refer", "--by", referrer, "--account-file", str(file))
    assert f"{account_id} was referred by {referrer}" in run(network, *words)
    assert "recorded before" in run(network, *words)
    for by, reason in ((account_id, "loop"), (referrer, "itself")):
        done = network.run("account", "refer", "--by", by)
        assert (done.returncode, reason in done.stderr) == (1, True)


def test_an_account_runs_a_gateway_of_its_own(network: LocalFacts, tmp_path: Path) -> None:
    folders = LocalFolders(Path(network.data_dir))
    ready, log = tmp_path / "ready.json", tmp_path / "gateway.log"
    identity = tmp_path / "gateway" / "identity.key"
    peer_id = run_resultity("network", "identity", str(identity)).stdout.strip()
    binding = tmp_path / "gateway.binding"
    run(
        network, "account", "certify-gateway", str(folders.consumer_account), peer_id,
        "-o", str(binding),
    )  # fmt: skip
    # Another account's key, with credit: it works at the network's gateway and nowhere private.
    other = tmp_path / "other.account"
    run(network, "account", "create", str(other))
    run(network, "account", "register", str(other))
    foreign = run(network, "key", "create", "--account-file", str(other)).strip()
    process = subprocess.Popen(
        resultity_command(
            "gateway", "run", "--network", network.network, "--bootstrap", network.bootstrap,
            "--binding", str(binding), "--data-dir", str(identity.parent), "--http-port", "0",
            "--ready-file", str(ready), "--log-file", str(log), "--quiet",
        ),
        cwd=REPOSITORY,
    )  # fmt: skip
    try:
        eventually(lambda: ready.exists() or process.poll() is not None, "it serves")
        own = dataclasses.replace(network, base_url=json.loads(ready.read_text())["base_url"])
        eventually(lambda: MODEL in {m.id for m in own.client().models.list().data}, "it has nodes")
        assert "Paris" in ask(own, network.api_key)
        with pytest.raises(openai.PermissionDeniedError, match="its own account's namespaces"):
            ask(own, foreign)
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def by_invite_only(network: LocalFacts, founder: Path) -> Iterator[None]:
    def set_rule(rule: str) -> None:
        shown = run_resultity("network", "show", str(founder)).stdout
        configuration = json.loads(shown)
        configuration["participation"]["accounts"] = rule
        edited = founder.parent / "edited.json"
        edited.write_text(json.dumps(configuration))
        done = run_resultity("network", "sign", str(edited), "--data-dir", str(founder))
        assert done.returncode == 0, done.stderr

    set_rule("invite")
    try:
        yield
    finally:
        set_rule("open")


def test_accounts_and_nodes_by_invite_only(network: LocalFacts, tmp_path: Path) -> None:
    founder = LocalFolders(Path(network.data_dir)).network.folder

    def invite(uses: int) -> str:
        words = ("network", "invite-account", "--uses", str(uses), "--data-dir", str(founder))
        return run_resultity(*words).stdout.strip()

    def register(number: int, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        file = tmp_path / f"{number}.account"
        if not file.exists():
            run(network, "account", "create", str(file))
        return subprocess.run(
            resultity_command("account", "register", str(file), "--data-dir", network.data_dir)
            + list(words),
            cwd=REPOSITORY,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    # Until the bootstrap has read the new rule an account is opened: each try takes a new one.
    tries = itertools.count(10)
    with by_invite_only(network, founder):
        eventually(lambda: "by invite only" in register(next(tries)).stderr, "an invite is needed")
        assert "by invite only" in register(1).stderr
        text = invite(2)
        (tmp_path / "invite.txt").write_text(text)
        assert register(1, "--invite", "-", text=text + "\n").returncode == 0
        assert "a secret" in register(2, "--invite", text).stderr
        # A node opens its account with an invite, and is refused without one.
        account = tmp_path / "node.account"
        run(network, "account", "create", str(account))
        ready, log = tmp_path / "ready.json", tmp_path / "node.log"
        words = resultity_command(
            "node", "run", "--network", network.network, "--bootstrap", network.bootstrap,
            "--model", str(REPOSITORY / "resultity/models/tiny-chat-q8_0.gguf"),
            "--account-file", str(account), "--data-dir", str(tmp_path / "node"),
            "--ready-file", str(ready), "--log-file", str(log), "--quiet",
        )  # fmt: skip
        for more, came in (
            ([], lambda: log.exists() and "by invite only" in log.read_text()),
            (["--invite-file", str(tmp_path / "invite.txt")], ready.exists),
        ):
            node = subprocess.Popen(words + more, cwd=REPOSITORY)
            try:
                eventually(came, "the node is refused, or joins with an invite")
            finally:
                node.terminate()
                node.wait(60)
        done = register(3, "--invite", str(tmp_path / "invite.txt"))
        assert (done.returncode, "opened 2 of 2 accounts" in done.stderr) == (1, True)
        assert register(1).returncode == 0
    folder = Path(network.data_dir) / "bootstrap"
    words = ["--data-dir", str(folder), "--network", network.network, "--json"]
    audit = run_resultity("ledger", "audit", *words)
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert json.loads(audit.stdout)["checked"]["uses of invites"] == 2
