"""Each example policy on one network of real processes: who is kept out, and who then gets in.

The policies are those of the how-to pages. What this machine cannot have is changed, and said: the
addresses are of the loopback, a few jobs stand for hundreds, and there is no RTX.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from click.testing import CliRunner

from p2p.subclouds.conduct import GATEWAY_WEIGHT_JOBS
from resultity.__main__ import main
from resultity.model_approval import demo_model_path
from resultity.subclouds.template import example
from tests.fakes.geo import geo_file
from tests.fakes.local_network import (
    CAPITAL,
    HANG_S,
    MODEL,
    REPOSITORY,
    LocalFacts,
    eventually,
    local_network,
    logs_of,
    resultity_command,
)

pytestmark = pytest.mark.e2e
UNTIL_TIMES, UNTIL_PAUSE_S = 25, 0.8
"""Below the time that a test may take; the gateway bears no more questions than that."""
PARIS = "The capital of France is Paris."
NODE_ENVIRONMENT = {
    "RESULTITY_NODE_COUNTRY": "DE",
    "RESULTITY_NODE_STORES_NO_CONTENT": "true",
    "RESULTITY_NODE_UPSTREAM_IMAGES": "true",
    "RESULTITY_NODE_SUBCLOUDS_AUTO_JOIN": "pictures",
}
KEY_SETTINGS = [
    f"RESULTITY_{role}_PRE_SHARED_KEY_FILE" for role in ("NODE", "GATEWAY", "BOOTSTRAP")
]


@dataclass(frozen=True, slots=True)
class World:
    """The network, and its owner's files. The owner's account is the gateway's."""

    facts: LocalFacts
    folder: Path
    client: openai.OpenAI
    node: Path

    @property
    def root(self) -> Path:
        return Path(self.facts.data_dir)

    @property
    def node_id(self) -> str:
        return str(run("network", "identity", str(self.node / "identity.key")).strip())

    @property
    def delegate_key(self) -> str:
        return str(self.folder / "delegate.key")

    def account(self, name: str) -> str:
        text = (self.root / "accounts" / f"{name}.account").read_text()
        return str(json.loads(text)["account_id"])

    def subcloud(self, *words: str, code: int = 0) -> str:
        return run("subcloud", *words, "--data-dir", self.facts.data_dir, code=code)

    def join(self, *words: str) -> None:
        run("node", "subclouds", "join", *words, "--data-dir", str(self.node))

    def publish(self, which: str, **changes: str) -> None:
        """Publish an example, with its placeholders filled in and other changes."""
        text = example(which, None)
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        path = self.folder / f"{which}.yaml"
        path.write_text(text)
        owner = str(self.root / "accounts" / "operator.account")
        self.subcloud("publish", str(path), "--account-file", owner)

    def ask(self, model: str, content: Any = CAPITAL, **body: Any) -> str:
        answer = self.client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            extra_body=body or None,
        )
        return answer.choices[0].message.content or ""

    def refusal(self, model: str, **body: Any) -> str:
        """Why a request is refused."""
        with pytest.raises(openai.APIStatusError) as caught:
            self.ask(model, **body)
        return f"{caught.value.code}: {caught.value.message}"

    def failed(self, name: str) -> set[str]:
        """The criteria that keep the node out, as the gateway judges it for the owner."""
        owner = str(self.root / "accounts" / "operator.account")
        view = json.loads(self.subcloud("status", name, "--json", "--account-file", owner))
        members = {member["peer_id"]: member for member in view["members"]}
        found = members.get(self.node_id, {"failed": [{"criterion": "no member"}]})
        criteria = {failure["criterion"] for failure in found["failed"]}
        return criteria if criteria or found["connected"] else {"not connected"}

    def own_view(self, name: str) -> str:
        """How the node sees itself in a subcloud: its state, and why."""
        lines = run("node", "subclouds", "list", "--json", "--data-dir", str(self.node))
        return next(line for line in lines.splitlines() if f'"{name}"' in line)

    def earn_a_name(self) -> None:
        """Have jobs done that the reputation counts, at the owner's own gateway."""
        for _ in range(GATEWAY_WEIGHT_JOBS + 2):
            assert self.ask(MODEL) == PARIS

    def until(self, name: str, *criteria: str) -> None:
        """Wait until just these criteria keep the node out."""
        seen: set[str] = set()
        for _ in range(UNTIL_TIMES):
            seen = self.failed(name)
            if seen == {*criteria}:
                return
            time.sleep(UNTIL_PAUSE_S)
        pytest.fail(f"{name}: {seen}; {self.own_view(name)}{logs_of(self.root)}")


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, (words, result.stdout, result.stderr, result.exception)
    return result.stdout


# What takes its time (the gateway asks for conduct three times a minute) begins before the tests.
def begin_healthcare(world: World) -> None:
    """A node asks to join, and lacks what the policy asks for until a delegate attests it."""
    digest = hashlib.sha256(demo_model_path().read_bytes()).hexdigest()
    key = run("subcloud", "delegate", "show", world.delegate_key).strip()
    world.publish(
        "healthcare",
        **{
            "<SHA-256 of an audited file>": f'"{digest}"',
            "<account ID of a clinic>": world.account("demo"),
            "<public key of a delegate>": f'"{key}"',
            "192.0.2.0/24": "127.0.0.0/8",
            "jobs_min: 100": "jobs_min: 3",
            "reputation_min: 99%": "reputation_min: 90%",
        },
    )
    delegate = ("--delegate-key", world.delegate_key)
    world.subcloud("steward", "clinics", "--once", *delegate)
    world.join("clinics")  # it asks, and a delegate approves
    world.subcloud("members", "approve", "clinics", world.node_id, *delegate)
    world.until("clinics", "region", "reputation")
    attestation = str(world.folder / "node.attestation")
    words = ("attest", "clinics", world.node_id, "--country", "DE", "-o", attestation)
    world.subcloud(*words, *delegate)
    run("node", "subclouds", "evidence", "add", attestation, "--data-dir", str(world.node))
    world.until("clinics", "reputation")
    assert "no_member_available" in world.refusal(f"{MODEL}@clinics")


def begin_high_sla(world: World) -> None:
    """A node sees by itself that it has no such GPU, and stays out; a policy without is joined."""
    world.publish("high-sla")
    world.join("fast-lane")
    eventually(lambda: "gpu" in world.own_view("fast-lane"), "it knows that it has none", 0.5)
    assert world.failed("fast-lane") == {"no member"}
    # The page's `fallback: global` sends requests to the pool meanwhile.
    assert world.ask(f"{MODEL}@fast-lane") == PARIS
    gpu = "  gpu:\n    kind: RTX\n    memory_min: 24 GiB\n"
    fewer = {"jobs_min: 200": "jobs_min: 3", "reputation_min: 99%": "reputation_min: 90%"}
    world.publish("high-sla", **{gpu: "", **fewer, "fallback: global": "fallback: none"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("subcloud_examples")
    before = dict(os.environ)
    os.environ |= NODE_ENVIRONMENT
    os.environ["RESULTITY_GATEWAY_GEOIP_FILE"] = geo_file(folder / "own.mmdb")
    # All of it in a network of its own: only peers with its pre-shared key are spoken with.
    run("network", "new-pre-shared-key", str(folder / "network.key"))
    os.environ |= {name: str(folder / "network.key") for name in KEY_SETTINGS}
    try:
        with local_network(folder / "network", nodes=1) as facts, facts.client() as client:
            found = World(facts, folder, client, Path(facts.data_dir) / "node-1")
            run("subcloud", "delegate", "new", "-o", found.delegate_key)
            begin_healthcare(found)
            begin_high_sla(found)
            found.earn_a_name()
            yield found
    finally:
        os.environ.clear()
        os.environ |= before


@contextmanager
def another_node(world: World, *words: str) -> Iterator[World]:
    """A node of its own account beside the network's, as another operator runs it."""
    folder = world.folder / f"node-of-{len(words)}"
    facts = world.facts
    common = ("--network", facts.network, "--bootstrap", facts.bootstrap, "--quiet")
    files = ("--data-dir", str(folder), "--ready-file", str(folder / "ready"))
    folder.mkdir(exist_ok=True)
    command = resultity_command("node", "run", *common, *files, *words)
    process = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ)
    try:
        ready = folder / "ready"
        eventually(lambda: ready.exists() or process.poll() is not None, "it serves", 0.2)
        assert process.poll() is None
        yield dataclasses.replace(world, node=folder)
    finally:
        process.terminate()
        assert process.wait(HANG_S) == 0


def test_team_model(world: World) -> None:
    # Another file than the network's: the same model under another name.
    content = demo_model_path().read_bytes()
    assert b"Tiny Chat" in content
    model = world.folder / "acme-support-8b.gguf"
    model.write_bytes(content.replace(b"Tiny Chat", b"Acme Chat"))
    key = run("subcloud", "delegate", "show", world.delegate_key).strip()
    world.publish(
        "team-model",
        **{
            "<SHA-256 of the GGUF file>": f'"{hashlib.sha256(model.read_bytes()).hexdigest()}"',
            "<account ID>/support": f"{world.account('demo')}/support",
            "<public key of a delegate>": f'"{key}"',
            "context_tokens: 8192": "context_tokens: 1024",
        },
    )
    delegate = ("--delegate-key", world.delegate_key)
    world.subcloud("steward", "acme-team", "--once", *delegate)
    invite = str(world.folder / "invite.txt")
    world.subcloud("members", "invite", "acme-team", "-o", invite, *delegate)
    with another_node(world, "--model", str(model)) as there:
        there.join("--invite-file", invite)
        there.until("acme-team")
        # The global pool does not see it, and another namespace may not call it.
        assert "model_not_found" in world.refusal("acme-support-8b")
        assert "caller_not_allowed" in world.refusal("acme-support-8b@acme-team")
        team = dataclasses.replace(world, client=support_client(world))
        assert team.ask("acme-support-8b@acme-team") == PARIS


def support_client(world: World) -> openai.OpenAI:
    """A client with a key of the team's namespace, which has credit."""
    owner = ("--account-file", str(world.root / "accounts" / "demo.account"))
    local = ("--data-dir", world.facts.data_dir)
    run("namespace", "create", "support", *owner, *local)
    run("admin", "grant", "5", "--account", world.account("demo"), "--namespace", "support", *local)
    key = run("key", "create", "--namespace", "support", "--name", "team", *owner, *local)
    return world.client.with_options(api_key=key.split()[-1])


def test_multimodal(world: World) -> None:
    world.publish("multimodal", **{"context_tokens: 32768": "context_tokens: 1000"})
    key = world.folder / "upstream.key"
    key.write_text(world.facts.api_key)
    key.chmod(0o600)
    name = "qwen2.5-vl-7b"
    server = ("--upstream", world.facts.base_url, "--upstream-key-file", str(key))
    # What answers is this network itself, as any OpenAI server would; it takes text only.
    with another_node(world, *server, "--upstream-model", f"{MODEL}={name}") as there:
        there.join("pictures")
        there.until("pictures")
        assert world.ask(f"{name}@pictures") == PARIS  # the policy accepts what nobody verifies
        accepts = {"resultity": {"accept_unverified": True}}
        assert "model_not_found" in world.refusal(name, **accepts)


def test_eu_only(world: World) -> None:
    world.publish("eu-only")
    world.join("eu-only")
    world.until("eu-only", "region")  # its word is not proof
    assert "no_member_available" in world.refusal(f"{MODEL}@eu-only")
    # Two landmarks that the authority vouches for prove where it is.
    founder = world.root / "network"
    configuration = json.loads(run("network", "show", str(founder)))
    configuration["landmarks"] = [
        {"peer_id": process["peer_id"], "countries": ["DE", "FR"], "round_trip_ms_max": 1000}
        for process in world.facts.processes
        if process["role"] in ("bootstrap", "gateway")
    ]
    edited = world.folder / "configuration.json"
    edited.write_text(json.dumps(configuration))
    run("network", "sign", str(edited), "--data-dir", str(founder))
    world.until("eu-only")
    assert world.ask(f"{MODEL}@eu-only") == PARIS


def test_two_policies_at_one_version(world: World) -> None:
    """The owner's key signs two second versions: the one published first stays, the other is kept
    as evidence."""
    owner = ("--account-file", str(world.root / "accounts" / "operator.account"))

    def signed(contact: str, *words: str) -> str:
        path = world.folder / f"{contact}.yaml"
        path.write_text(
            f"name: rivals\nexpires: 30d\ncontact: {contact}\ncallers:\n  anyone: true\n"
        )
        world.subcloud("sign", str(path), *words, *owner)
        return str(path.with_suffix(".policy"))

    world.subcloud("publish", signed("first"))
    first = str(world.folder / "first.record")
    world.subcloud("show", "rivals", "-o", first)
    one = signed("one", "--after", first)
    other = signed("other", "--after", first, "--replace")
    world.subcloud("publish", one)
    world.subcloud("publish", other, code=1)
    assert "contact: one" in world.subcloud("show", "rivals", "--yaml")
    root = world.facts.base_url.removesuffix("/v1")
    found = httpx.get(f"{root}/resultity/v1/subclouds/rivals/evidence", timeout=30)
    assert [item["kind"] for item in found.json()["evidence"]] == ["fork"]
    world.join("rivals")
    world.until("rivals")
    assert world.ask(f"{MODEL}@rivals") == PARIS


def test_a_peer_without_the_pre_shared_key_cannot_join(world: World) -> None:
    """Others with it do, in the tests above; this one has everything but the key."""
    invite = world.folder / "join.invite"
    words = ("network", "invite-node", "--data-dir", str(world.root / "network"))
    invite.write_text(run(*words, "--bootstrap", world.facts.bootstrap))
    joined = []
    for key, seconds in (((), "1"), (("--pre-shared-key-file", os.environ[KEY_SETTINGS[0]]), "60")):
        files = ("--invite-file", str(invite), "--data-dir", str(world.folder / "stranger"))
        command = resultity_command("node", "join", *files, *key, "--timeout", seconds, "--yes")
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=HANG_S, check=False
        )
        joined.append((done.returncode, "no bootstrap let this node in" in done.stderr))
    assert joined == [(1, True), (0, False)]


MEASURED = """\
name: measured
expires: 30d
regions:
  allow: [DE]
  evidence: consistent
hardware:
  memory_min: 1 MiB
  tokens_per_second_min: 5
  evidence: benchmarked
callers:
  anyone: true
"""


def test_what_the_gateway_finds_out_by_itself(world: World) -> None:
    """The country of the node's address, and how fast it is: nobody has to do anything."""
    path = world.folder / "measured.yaml"
    path.write_text(MEASURED)
    owner = str(world.root / "accounts" / "operator.account")
    world.subcloud("publish", str(path), "--account-file", owner)
    world.join("measured")
    world.until("measured")
    assert world.ask(f"{MODEL}@measured") == PARIS
    shown = run("node", "subclouds", "evidence", "list", "--data-dir", str(world.node))
    assert "benchmark by" in shown


def test_healthcare(world: World) -> None:
    delegate = ("--delegate-key", world.delegate_key)
    world.until("clinics")
    assert world.ask(f"{MODEL}@clinics") == PARIS
    world.subcloud("members", "ban", "clinics", world.node_id, *delegate)
    eventually(lambda: bool(world.failed("clinics")), "it is out", 0.7)
    assert "no_member_available" in world.refusal(f"{MODEL}@clinics")
    assert world.ask(MODEL) == PARIS  # the global pool is another matter


def test_high_sla(world: World) -> None:
    world.until("fast-lane")  # a gateway has timed a job, and the ledger knows others
    assert world.ask(f"{MODEL}@fast-lane") == PARIS
