"""Owning a subcloud, with real processes: requests, approval, bans in mid-stream, invites, tokens,
the steward; the owner's key is not there, and for most of it no delegate's process either."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from resultity.__main__ import main
from tests.fakes.real_network import (
    HANG_S,
    MODEL,
    REPOSITORY,
    TOKENS,
    RealNetwork,
    StreamSeen,
    read_stream,
)

pytestmark = pytest.mark.e2e
IN_FORCE_S = 10.0
"""What a revocation may take, with contact."""


def until(look: Callable[[], bool], what: str, timeout_s: float = HANG_S) -> None:
    """Look twice a second: a gateway takes ten questions a second from one address."""
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.5)


class Delegate:
    """A delegate's key, a gateway's URL, and nothing else of the owner's."""

    def __init__(self, network: RealNetwork, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.key = folder / "delegate.key"
        self.environment = {
            "RESULTITY_DATA_DIR": str(folder / "data"),
            "RESULTITY_DELEGATE_KEY": str(self.key),
            "RESULTITY_GATEWAY_URL": network.base_url,
            "RESULTITY_NETWORK": network.network,
        }
        self.public_key = self.run("delegate", "new", "-o", str(self.key)).strip()

    def run(self, *words: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, ["subcloud", *words], env=self.environment)
        assert done.exit_code == code, (words, done.output, done.exception)
        return done.output if code else done.stdout

    def publish(self, name: str, text: str) -> None:
        """The owner publishes a policy, with a key that is not here."""
        path = self.folder / f"{name}.yaml"
        path.write_text(
            f"name: {name}\nexpires: 2099-01-01\ndelegate_keys: [{self.public_key}]\n{text}"
        )
        owner = self.network.data_dir / "accounts" / "operator.account"
        self.run("publish", str(path), "--account-file", str(owner))

    def members(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.run("members", "list", name, "--json")))

    def qualified(self, name: str) -> set[str]:
        return {m["peer_id"] for m in self.members(name)["members"] if m["qualifies"]}

    def waits(self, name: str, peer_id: str) -> bool:
        return peer_id in {asked["peer_id"] for asked in self.members(name)["waiting"]}

    def join(self, number: int, *words: str) -> str:
        """A node's operator joins; gives the node's peer ID."""
        folder = self.network.data_dir / f"node-{number}"
        arguments = ["node", "subclouds", "join", *words, "--data-dir", str(folder)]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, (words, done.output)
        identity = ["network", "identity", str(folder / "identity.key")]
        return CliRunner().invoke(main, identity).stdout.strip()

    def ask(self, client: openai.OpenAI, name: str, token: str = "", **more: Any) -> Any:
        return client.chat.completions.create(
            model=f"{MODEL}@{name}",
            messages=[{"role": "user", "content": "Say some words."}],
            extra_headers={"Resultity-Subcloud-Token": token} if token else {},
            **{"max_tokens": 2} | more,
        )

    def refusal(self, name: str, token: str = "") -> str:
        """The code with which a request is refused; empty if it is answered."""
        try:
            with self.network.client() as client:
                self.ask(client, name, token)
        except openai.APIStatusError as error:
            return str(error.code)
        return ""


class Steward:
    """`subcloud steward` as a process."""

    def __init__(self, delegate: Delegate, *words: str) -> None:
        network = delegate.network
        command = [sys.executable, "-m", "resultity", "subcloud", "steward", *words]
        self.process = subprocess.Popen(
            [*command, "--interval", "1"],
            cwd=REPOSITORY,
            env=network._environment | delegate.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.folder = delegate.folder / "data" / "delegate" / network.network / "steward"

    def log(self) -> str:
        """What it has logged so far."""
        return (self.folder / "steward.log").read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, errors


@pytest.fixture
def stewards() -> Iterator[list[Steward]]:
    started: list[Steward] = []
    yield started
    for steward in started:
        if steward.process.poll() is None:
            steward.kill()


@pytest.fixture
def delegate(network: RealNetwork, tmp_path: Path) -> Delegate:
    return Delegate(network, tmp_path)


def test_from_a_request_to_a_ban_in_mid_stream_and_a_steward(
    delegate: Delegate, stewards: list[Steward]
) -> None:
    delegate.publish("guild", "join: semi-open\nmembers_max: 1\ncallers:\n  anyone: true\n")
    assert delegate.refusal("guild") == "no_member_available"
    first = delegate.join(1, "guild", "--note", "rack 7")
    until(lambda: delegate.waits("guild", first), "the request is seen")
    delegate.run("members", "approve", "guild", first)
    until(lambda: delegate.qualified("guild") == {first}, "the node is a member")
    status = json.loads(delegate.run("status", "guild", "--json"))
    assert (status["qualified"], status["revocation_list"]["number"]) == (1, 1)
    second = delegate.join(2, "guild")
    with delegate.network.client() as client:
        stream, seen = delegate.ask(client, "guild", stream=True, max_tokens=TOKENS), StreamSeen()
        read_stream(stream, seen, until_characters=10)
        delegate.run("members", "ban", "guild", first)
        until(lambda: delegate.refusal("guild") == "no_member_available", "none starts", IN_FORCE_S)
        read_stream(stream, seen)
    assert (seen.error, seen.finish_reason) == (None, "stop")  # running_jobs: finish
    assert f"word{TOKENS - 1}" in seen.text
    assert "is banned" in delegate.run("members", "approve", "guild", first, code=1)
    stewards.append(Steward(delegate, "guild", "--auto-approve"))
    until(lambda: delegate.qualified("guild") == {second}, "the steward let the other one in")
    stewards[0].kill()
    assert not delegate.refusal("guild")  # nobody notices
    stewards.append(Steward(delegate, "guild"))
    delegate.run("members", "revoke", "guild", second)
    until(lambda: delegate.refusal("guild") == "no_member_available", "none starts", IN_FORCE_S)
    until(lambda: "left" in stewards[1].log(), "the steward tells")
    stewards[1].stop()
    assert "the steward ended" in stewards[1].log()


def test_an_invite_works_while_nobody_is_online(delegate: Delegate) -> None:
    network = delegate.network
    gateway = network.part("gateway").peer_id
    delegate.publish(
        "lodge", f"join: private\ncallers:\n  tokens: true\ngateways:\n  peers: [{gateway}]\n"
    )
    invite, token_file = delegate.folder / "invite", delegate.folder / "token"
    delegate.run("members", "invite", "lodge", "-o", str(invite))
    invite_id = json.loads(
        delegate.run("members", "invite", "lodge", "-o", f"{invite}-2", "--json")
    )["invite_id"]
    delegate.run("token", "issue", "lodge", "--uses", "2", "-o", str(token_file))
    token_id = json.loads(delegate.run("token", "show", str(token_file), "--json"))["token_id"]
    first = delegate.join(1, "--invite-file", str(invite))
    until(lambda: delegate.qualified("lodge") == {first}, "the invited node is a member")
    delegate.join(2, "--invite-file", str(invite))  # one use is all that it has
    token = token_file.read_text().strip()
    assert delegate.refusal("lodge") == "caller_not_allowed"
    assert [delegate.refusal("lodge", token) for _ in range(3)] == ["", "", "caller_token_refused"]
    assert delegate.qualified("lodge") == {first}
    second = delegate.join(2, "--invite-file", f"{invite}-2")
    until(lambda: delegate.qualified("lodge") == {first, second}, "the second came in")
    delegate.run("members", "revoke", "lodge", "--invite", invite_id)
    until(lambda: delegate.qualified("lodge") == {first}, "it went with the invite")
    delegate.run("token", "revoke", "lodge", token_id)
