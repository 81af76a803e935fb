"""What is found out about a server, and when a model of it is served."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.agent.admission_rules import OperatorRules
from node.agent.runtime_port import ModelState
from node.settings import NodeSettings
from node.upstream.client import UpstreamClient, UpstreamTimes
from node.upstream.errors import UpstreamError, UpstreamSetupError
from node.upstream.facts import Server, UpstreamFacts
from node.upstream.keys import KEY_VARIABLE, read_key
from node.upstream.making import open_upstream
from node.upstream.names import model_names, server_root
from node.upstream.probing import declared, probe, try_out
from node.upstream.served import Declared, UpstreamModel
from p2p.approved_models import ApprovedModel, UnverifiedModel, unverified_digest
from p2p.errors import MalformedError, RefusedError
from tests.fakes import trust
from tests.fakes.upstream_server import FakeUpstream, error, run_upstream

MODEL = UnverifiedModel(
    name="big",
    context_tokens=4096,
    input_microcredits_per_million_tokens=1,
    output_microcredits_per_million_tokens=1,
    modalities=("text", "image"),
    image_tokens_max=100,
)
TIMES = UpstreamTimes(connect_s=20, first_byte_s=20, stall_s=20, probe_s=20)
GUARD_S = 60
TWO_SLOTS = Declared(slots=2)

LLAMA = FakeUpstream(
    [{"id": "big", "owned_by": "llamacpp", "meta": {"n_ctx_train": 131072}}],
    {
        "/props": {
            "default_generation_settings": {"n_ctx": 2048},
            "total_slots": 3,
            "modalities": {"vision": True, "audio": False},
        }
    },
)
OLLAMA = FakeUpstream(
    [{"id": "big:latest", "owned_by": "library"}],
    {
        "/api/show": {
            "model_info": {"llama.context_length": 131072},
            "parameters": 'stop "<|eot_id|>"\nnum_ctx    8192\n',
            "capabilities": ["completion", "tools"],
        },
        "/api/ps": {"models": [{"name": "other", "context_length": 1}]},
    },
)
OLLAMA_LOADED = FakeUpstream(
    OLLAMA.models,
    {**OLLAMA.documents, "/api/ps": {"models": [{"name": "big:latest", "context_length": 4096}]}},
)
OLLAMA_SILENT = FakeUpstream(
    OLLAMA.models, {"/api/show": {"model_info": {"llama.context_length": 131072}}}
)
LM_STUDIO = FakeUpstream(
    [{"id": "big", "owned_by": "organization_owner"}],
    {
        "/api/v0/models": {
            "data": [
                {
                    "id": "big",
                    "type": "vlm",
                    "max_context_length": 32768,
                    "loaded_context_length": 6000,
                    "capabilities": ["tool_use"],
                }
            ]
        }
    },
)
OTHER = FakeUpstream([{"id": "big", "owned_by": "me"}])


@pytest.mark.parametrize(
    ("server", "kind", "context", "images", "tools"),
    [
        (FakeUpstream(), Server.VLLM, 4096, True, True),
        (FakeUpstream(tools=False, images=False), Server.VLLM, 4096, False, False),
        (LLAMA, Server.LLAMA, 2048, True, True),
        (OLLAMA, Server.OLLAMA, 8192, False, True),
        (OLLAMA_LOADED, Server.OLLAMA, 4096, False, True),
        (OLLAMA_SILENT, Server.OLLAMA, 4096, False, True),
        (LM_STUDIO, Server.LM_STUDIO, 6000, True, True),
        (OTHER, Server.OTHER, None, False, True),
    ],
)
async def test_what_servers_tell_and_what_is_tried_out(
    server: FakeUpstream, kind: Server, context: int | None, images: bool, tools: bool
) -> None:
    async with run_upstream(server):
        client = UpstreamClient(server.url, key=None, connections=2, times=TIMES)
        facts = await try_out(client, await probe(client, "big"))
        await client.close()
    assert facts.server is kind
    assert (facts.context_tokens, facts.images, facts.tools) == (context, images, tools)


@pytest.mark.parametrize(
    "documents",
    [
        {"/props": []},
        {"/props": {"default_generation_settings": {"n_ctx": "x"}, "total_slots": -1}},
        {"/props": {"default_generation_settings": 7, "modalities": 7}},
    ],
)
async def test_nonsense_is_as_good_as_silence(documents: dict[str, Any]) -> None:
    async with run_upstream(FakeUpstream(LLAMA.models, documents)) as server:
        client = UpstreamClient(server.url, key=None, connections=2, times=TIMES)
        facts = await probe(client, "big")
        await client.close()
    assert (facts.context_tokens, facts.slots, facts.images) == (None, None, None)


def test_the_operators_word_and_the_shorter_context_win() -> None:
    facts = UpstreamFacts("big", context_tokens=4096, images=True, tools=True)
    said = {"images": None, "tools": False, "share_cache": True}
    found = declared(facts, context_tokens=8192, **said)  # type: ignore[arg-type]
    assert (found.context_tokens, found.images, found.tools) == (4096, True, False)
    assert declared(facts, context_tokens=100, **said).context_tokens == 100  # type: ignore[arg-type]
    with pytest.raises(UpstreamSetupError, match="upstream-context-tokens"):
        declared(UpstreamFacts("big"), context_tokens=None, **said)  # type: ignore[arg-type]


@asynccontextmanager
async def offered(
    server: FakeUpstream, *, operator: Declared = TWO_SLOTS, name: str = "big"
) -> AsyncIterator[tuple[UpstreamModel, Any]]:
    book = trust.book_with(trust.configuration(unverified_models=(MODEL,)))
    async with (
        run_upstream(server),
        trio.open_nursery() as nursery,
        open_upstream(
            server.url + "/v1",
            (name,),
            key_file=None,
            operator=operator,
            configuration=book,
            network=trust.NETWORK,
            on_change=lambda: None,
            environment={},
            times=TIMES,
        ) as models,
    ):
        await nursery.start(models[0].run)
        yield models[0], book
        nursery.cancel_scope.cancel()


async def until(found: Callable[[], bool]) -> None:
    with trio.fail_after(GUARD_S):
        while not found():
            await trio.sleep(0.01)


async def test_a_model_is_active_after_the_test_inference_and_advertised_as_unverified() -> None:
    async with offered(FakeUpstream()) as (model, _):
        assert model.state is ModelState.ACTIVE
        facts = model.facts
        assert (facts.verified, facts.resumable) == (False, False)
        advert = model.advert()
        assert advert is not None
        assert not advert.verified
        assert advert.digest == unverified_digest(trust.NETWORK, "big")
        assert (advert.context_tokens, advert.slots) == (4096, 2)
        assert advert.modalities == ("text", "image")
        assert await model.runtime(1.0) is not None


async def test_slots_are_the_servers_unless_declared() -> None:
    async with offered(LLAMA, operator=Declared()) as (model, _):
        assert model.slots == 3


async def test_a_model_that_is_unloaded_while_idle_is_not_tested_again() -> None:
    server = FakeUpstream(OLLAMA.models, dict(OLLAMA_LOADED.documents))
    async with offered(server) as (model, _):
        tested = len(server.questions)
        server.documents["/api/ps"] = {"models": []}
        asked = len(server.heads)
        model._look.set()
        await until(lambda: len(server.heads) >= asked + 3)
        model._look.set()
        await until(lambda: len(server.heads) >= asked + 6)
        assert model.state is ModelState.ACTIVE
        assert len(server.questions) == tested
        advert = model.advert()
        assert advert is not None
        assert advert.context_tokens == 4096
        server.documents["/api/ps"] = {"models": [{"name": "big:latest", "context_length": 512}]}
        model._look.set()
        await until(lambda: len(server.questions) > tested)


async def test_a_server_that_is_down_is_tried_again_and_its_failures_are_noticed() -> None:
    server = FakeUpstream(down=True)
    async with offered(server) as (model, _):
        assert model.state is ModelState.FAILED
        assert model.advert() is None
        with pytest.raises(RefusedError):
            await model.runtime(1.0)
        server.down = False
        await until(lambda: model.state is ModelState.ACTIVE)
        server.down = True
        model._on_result(UpstreamError("failed", "it died", sick=True))
        await until(lambda: model.state is ModelState.FAILED)


async def test_a_server_whose_answers_fail_is_tested_again_before_it_serves() -> None:
    server = FakeUpstream()
    async with offered(server) as (model, _):
        server.reply = error(500)
        for _ in range(3):
            model._on_result(UpstreamError("failed", "it died", sick=True))
        await until(lambda: model.state is ModelState.FAILED)
        assert "test inference" in model.reason
        server.reply = None
        await until(lambda: model.state is ModelState.ACTIVE)
        assert model.counters.restarts == 1


async def test_a_request_that_is_refused_says_nothing_against_the_server() -> None:
    async with offered(FakeUpstream()) as (model, _):
        for _ in range(9):
            model._on_result(UpstreamError("bad_request", "no"))
        assert model._failures == 0


async def test_a_name_that_is_no_longer_listed_is_not_served() -> None:
    async with offered(FakeUpstream()) as (model, book):
        signed = trust.configuration(2, book.signed)
        book.offer(signed)
        await until(lambda: model.state is ModelState.INACTIVE)
        book.offer(trust.configuration(3, signed, unverified_models=(MODEL,)))
        await until(lambda: model.state is ModelState.ACTIVE)


async def test_the_operators_rules_decide_about_it_too() -> None:
    rules = OperatorRules(output_microcredits_per_million_tokens_min=2)
    async with offered(FakeUpstream(), operator=Declared(slots=2, rules=rules)) as (model, book):
        assert model.state is ModelState.INACTIVE
        assert model.reason == (
            "the operator asks for 2 microcredits for a million output tokens, big pays 1"
        )
        assert model.advert() is None
        better = MODEL.model_copy(update={"output_microcredits_per_million_tokens": 2})
        book.offer(trust.configuration(2, book.signed, unverified_models=(better,)))
        await until(lambda: model.state is ModelState.ACTIVE)


async def test_a_model_that_the_server_does_not_have_fails_with_what_it_has() -> None:
    async with offered(FakeUpstream(), name="huge=big") as (model, _):
        assert model.state is ModelState.FAILED
        assert "no model huge (it has big)" in model.reason


async def open_and_close(url: str, models: tuple[str, ...]) -> tuple[str, ...]:
    book = trust.book_with(trust.configuration(unverified_models=(MODEL,)))
    async with open_upstream(
        url,
        models,
        key_file=None,
        operator=Declared(),
        configuration=book,
        network=trust.NETWORK,
        on_change=lambda: None,
        times=TIMES,
        environment={},
    ) as made:
        return tuple(model.name for model in made)


async def test_without_names_all_that_are_listed_are_offered() -> None:
    async with run_upstream(FakeUpstream([{"id": "big"}, {"id": "other"}])) as server:
        assert await open_and_close(server.url, ()) == ("big",)
        assert await open_and_close(server.url, ("other=big",)) == ("big",)
        with pytest.raises(UpstreamSetupError, match="does not list other"):
            await open_and_close(server.url, ("other",))
        server.models = [{"id": "other"}]
        with pytest.raises(UpstreamSetupError, match=r"none of the server's models \(other\)"):
            await open_and_close(server.url, ())
    with pytest.raises(UpstreamSetupError, match="start it, or name"):
        await open_and_close(server.url, ())


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("https://gpu.lan/llm/v1/", "https://gpu.lan/llm"),
    ],
)
def test_addresses(url: str, root: str) -> None:
    assert server_root(url) == root


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://a/",
        "file:///etc/passwd",
        "http://",
        "http://user:word@a/",
        "http://a/?key=1",
        "http://a:99999/",
        "http://a b/",
        "http://[::1/",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(MalformedError):
        server_root(url)


def test_names_of_models() -> None:
    assert model_names(("llama3.2:3b", "a/b=c")) == (("llama3.2:3b", "llama3.2:3b"), ("a/b", "c"))
    for bad in (("=x",), ("a= ",), ("a=x", "b=x")):
        with pytest.raises(MalformedError):
            model_names(bad)


def test_keys(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-secret\n")
    file.chmod(0o640)
    with pytest.raises(UpstreamSetupError, match="chmod 600"):
        read_key(file, {})
    file.chmod(0o600)
    assert read_key(file, {KEY_VARIABLE: "other"}) == "sk-secret"
    assert read_key(None, {KEY_VARIABLE: " other "}) == "other"
    assert read_key(None, {}) is None
    file.write_text("two\nlines")
    for bad in (file, tmp_path, tmp_path / "missing"):
        with pytest.raises(UpstreamSetupError):
            read_key(bad, {})


async def test_the_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with run_upstream() as server:
        server.reply = error(401)
        client = UpstreamClient(server.url, key="sk-secret", connections=2, times=TIMES)
        with pytest.raises(UpstreamError) as caught:
            await client.post_json("/v1/chat/completions", {"stream": False, "messages": []})
        await client.close()
        assert any("sk-secret" in head for head in server.heads)
    assert "sk-secret" not in caplog.text + str(caught.value) + repr(caught.value)


def test_settings() -> None:
    def settings(**fields: Any) -> NodeSettings:
        common = {"data_dir": Path("x"), "network": trust.NETWORK, "bootstraps": ("/a",)}
        return NodeSettings(**{**common, **fields})

    good = settings(upstream="http://127.0.0.1:1/v1", upstream_models=("a=b",), upstream_slots=3)
    assert (good.model, good.upstream_slots) == (None, 3)
    for bad in (
        {"upstream": "nonsense"},
        {"upstream": "http://a", "upstream_models": ("a=x", "b=x")},
        {"upstream_models": ("a",)},
        {"upstream_key_file": Path("k")},
        {"upstream": "http://a", "upstream_slots": 0},
    ):
        with pytest.raises(MalformedError):
            settings(**bad)


async def test_a_policy_may_list_what_the_configuration_does_not() -> None:
    listed: list[ApprovedModel] = []
    digest = unverified_digest(trust.NETWORK, "big")
    own = Declared(
        slots=2, own_model=lambda wanted: next((m for m in listed if wanted == digest), None)
    )
    async with offered(FakeUpstream(), operator=own) as (model, book):
        book.offer(trust.configuration(2, book.signed))
        await until(lambda: model.state is ModelState.INACTIVE)
        listed.append(trust.MODEL.model_copy(update={"name": "big", "digest": digest.hex()}))
        await until(lambda: model.state is ModelState.ACTIVE)
        advert = model.advert()
        assert advert is not None
        assert (advert.digest, advert.verified) == (digest, False)
        listed.clear()
        assert model.advert() is None
