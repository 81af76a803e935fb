"""A node of real processes that offers another server; here that is a gateway with a key of its
own, as any OpenAI-compatible server would be."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.fakes.local_network import (
    CAPITAL,
    HANG_S,
    MODEL,
    REPOSITORY,
    LocalFacts,
    eventually,
    local_network,
    resultity_command,
    run_resultity,
)

ACCEPT = {"resultity": {"accept_unverified": True}}
NAME = "open-chat"
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFacts]:
    with local_network(tmp_path_factory.mktemp("upstream_network"), nodes=1) as facts:
        yield facts


def allow(network: LocalFacts) -> None:
    """The network's operator lists the name, and the gateway hears of it."""
    founder = str(Path(network.data_dir) / "network")
    words = ("network", "allow-unverified", NAME, "--context-tokens", "1000")
    done = run_resultity(*words, "--data-dir", founder)
    assert done.returncode == 0, done.stderr
    version = json.loads(done.stdout)["version"]

    def in_force() -> bool:
        url = network.base_url.removesuffix("v1") + "status/network"
        status = httpx.get(url, trust_env=False).json()
        return bool(status["configuration_version"] == version)

    eventually(in_force, "the configuration is in force")


def node_words(network: LocalFacts, folder: Path, *words: str) -> list[str]:
    common = ("--network", network.network, "--bootstrap", network.bootstrap, "--quiet")
    data = ("--data-dir", str(folder / "node"), "--ready-file", str(folder / "ready"))
    key = ("--upstream-key-file", str(folder / "key"), "--upstream", network.base_url)
    return resultity_command("node", "run", *common, *data, *key, *words)


def test_an_operators_server_is_offered_and_asked(network: LocalFacts, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(network.api_key)
    key.chmod(0o600)
    words = node_words(network, tmp_path, "--upstream-model", f"{MODEL}={NAME}")
    refused = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=HANG_S)
    assert refused.returncode == 1
    assert f"does not list {NAME} as an unverified model" in refused.stderr
    allow(network)
    node = subprocess.Popen(words, cwd=REPOSITORY, env=os.environ)
    try:
        eventually(lambda: (tmp_path / "ready").exists() or node.poll() is not None, "it serves")
        assert node.poll() is None
        with network.client() as client:
            eventually(lambda: NAME in {m.id for m in client.models.list().data}, "it is listed")
            ask(client)
        asked = ("--base-url", network.base_url, "--api-key", network.api_key, "--model", NAME)
        done = run_resultity("ask", CAPITAL, *asked, "--accept-unverified", "--max-tokens", "50")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        done = run_resultity("node", "status", "--json", "--data-dir", str(tmp_path / "node"))
        model = json.loads(done.stdout.splitlines()[0])["models"][0]
        assert (model["name"], model["state"], model["verified"]) == (NAME, "active", False)
    finally:
        node.terminate()
        assert node.wait(HANG_S) == 0
    assert network.api_key not in (tmp_path / "node" / "logs" / "node.log").read_text()


def ask(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": CAPITAL}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=NAME, messages=messages)  # type: ignore[arg-type]
    assert caught.value.code == "unverified_model"
    stream = client.chat.completions.create(
        model=NAME,
        messages=messages,  # type: ignore[arg-type]
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=ACCEPT,
    )
    text, tokens = "", 0
    for chunk in stream:
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == "The capital of France is Paris."
    # The server's own count, over the real tokens.
    whole = client.chat.completions.create(
        model=MODEL,
        messages=messages,  # type: ignore[arg-type]
        temperature=0,
    )
    assert whole.usage is not None
    assert tokens == whole.usage.completion_tokens
