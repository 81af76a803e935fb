"""The rules of the model store that touch nothing: states, sources, manifests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.agent.runtime_port import ModelState
from node.store import states
from node.store.adding import parse_digest
from node.store.errors import ModelStateError, ModelStoreError, SourceError
from node.store.manifest import (
    MODEL_NAME,
    FileStamp,
    StoredModel,
    model_name_of,
    read_manifest,
    write_manifest,
)
from node.store.sources import (
    FileSource,
    HubSource,
    UrlSource,
    check_redirect,
    parse_source,
    same_origin,
    shown_url,
    stem_of_url,
)

# --- states ---------------------------------------------------------------------------------------

EVENTS: dict[str, Callable[[ModelState], ModelState]] = {
    **{f"mark {state}": lambda now, to=state: states.marked(now, to) for state in ModelState},
    "verified": states.verified,
    "broken": states.broken,
    "archived": states.archived,
    "restored": states.restored,
}


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=40))
def test_states_follow_the_rules(events: list[str]) -> None:
    state = ModelState.PENDING
    for event in events:
        before = state
        try:
            state = EVENTS[event](state)
        except ModelStateError:
            continue
        if before is ModelState.FAILED and state is not before:
            assert event in ("verified", "archived")  # no node's word makes a bad file good
        if before is ModelState.ARCHIVED and state is not before:
            assert event in ("restored", "broken")  # no node takes back what its operator put aside
        if state is ModelState.ARCHIVED and before is not state:
            assert event == "archived"
        if state is ModelState.ACTIVE and before is not state:
            assert event == "mark active"
            assert before in states.LOADABLE


def test_what_may_be_loaded() -> None:
    for state in ModelState:
        loadable = state not in (ModelState.FAILED, ModelState.ARCHIVED)
        assert (state in states.LOADABLE) == loadable


# --- manifests ------------------------------------------------------------------------------------

MODEL = StoredModel(
    name="some/model:1", path=Path("/models/blobs/sha256-00"), in_place=False, size_bytes=10,
    digest=bytes(32), model_id=b"\1" * 32, tensor_digest=b"\2" * 32,
    chat_template_digest=b"\3" * 32, architecture="llama", version="1", context_tokens=128,
    quantisation="Q8_0", parameter_count=5, tasks=("chat",), licence="mit", source="x",
    added_ms=1, stamp=FileStamp(10, 2, 3, 4), verified_ms=1, state=ModelState.FAILED, reason="why",
)  # fmt: skip


def test_a_manifest_comes_back() -> None:
    assert read_manifest(write_manifest(MODEL)) == MODEL
    more = json.loads(write_manifest(MODEL)) | {"of_a_later_version": 1}
    assert read_manifest(json.dumps(more).encode()) == MODEL


@given(
    st.sampled_from(sorted(json.loads(write_manifest(MODEL)))),
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers())),
)
def test_a_damaged_manifest_is_refused(field: str, value: object) -> None:
    facts = json.loads(write_manifest(MODEL)) | {field: value}
    try:
        model = read_manifest(json.dumps(facts).encode())
    except ModelStoreError:
        return
    assert isinstance(getattr(model, field), type(getattr(MODEL, field)))
    assert MODEL_NAME.fullmatch(model.name)


@given(st.binary(max_size=100))
def test_any_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises(ModelStoreError):
        read_manifest(data)


@given(st.text(), st.text())
def test_every_model_gets_a_name(name: str, unnamed: str) -> None:
    assert MODEL_NAME.fullmatch(model_name_of(name, unnamed))


# --- sources --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("https://x.org/a.gguf?k=1", UrlSource("https://x.org/a.gguf?k=1")),
        ("http://127.0.0.1:80/a.gguf", UrlSource("http://127.0.0.1:80/a.gguf")),
        ("http://[::1]/a.gguf", UrlSource("http://[::1]/a.gguf")),
        ("hf:some/model", HubSource("some", "model", None, "main")),
        ("some/model", HubSource("some", "model", None, "main")),
        ("hf:some/model@v1.0", HubSource("some", "model", None, "v1.0")),
        ("hf:some/model/q/m.GGUF@refs/pr/1", HubSource("some", "model", "q/m.GGUF", "refs/pr/1")),
    ],
)
def test_sources(text: str, source: object) -> None:
    assert parse_source(text) == source


def test_a_file_comes_before_the_hub() -> None:
    assert parse_source("some/model", exists=True) == FileSource(Path("some/model"))
    assert parse_source("hf:some/model", exists=True) == HubSource("some", "model", None, "main")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://x.org/a.gguf", "not https"),
        ("http://127.0.0.1.x.org/a.gguf", "not https"),
        ("ftp://x.org/a", "not supported"),
        ("file:///etc/passwd", "not supported"),
        ("https://user:secret@x.org/a", "password"),
        ("https:///a", "no host"),
        ("https://x.org/a b", "printable"),
        ("https://x.org/\x00", "printable"),
        ("https://x.org:99999/", "not a URL"),
        ("https://x.org/" + "a" * 5000, "at most"),
        ("model.gguf", "there is no file model.gguf"),
        ("./some/model", "there is no file"),
        ("some/", "no file some/, and it is no name on a hub"),
        ("hf:some", "owner/repo"),
        ("hf:../model", "owner/repo"),
        ("hf:some/model/../x.gguf", "GGUF file"),
        ("hf:some/model/x.bin", "GGUF file"),
        ("hf:some/model@", "revision"),
        ("hf:some/model@a..b", "revision"),
        ("hf:some/model@" + "a" * 300, "revision"),
    ],
)
def test_what_is_no_source(text: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason) as caught:
        parse_source(text)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_source_or_refused(text: str) -> None:
    for exists in (False, True):
        try:
            parse_source(text, exists=exists)
        except SourceError:
            pass


def test_https_never_leads_to_http() -> None:
    with pytest.raises(SourceError, match="from https to http://127"):
        check_redirect("https://x.org/a", "http://127.0.0.1/a", allow_http=True)
    check_redirect("http://127.0.0.1/a", "https://x.org/a", allow_http=False)
    check_redirect("http://x.org/a", "http://y.org/a", allow_http=True)


def test_what_a_url_shows() -> None:
    assert shown_url("https://u:p@x.org/a/b.gguf?token=1#2") == "https://x.org/a/b.gguf"
    assert shown_url("https://x.org?token=1") == "https://x.org"
    assert stem_of_url("https://x.org/a/b%20c.gguf?x=/d.gguf") == "b c"
    assert stem_of_url("https://x.org/") == "model"
    assert same_origin("https://x.org/a", "https://x.org:443/b")
    assert not same_origin("https://x.org/a", "https://x.org.evil/a")
    assert not same_origin("https://x.org/a", "http://x.org/a")


def test_digests() -> None:
    for text in ("AB" * 32, "sha256:" + "ab" * 32, " sha256-" + "ab" * 32):
        assert parse_digest(text) == b"\xab" * 32
    for text in ("", "ab" * 31, "zz" * 32):
        with pytest.raises(SourceError, match="64 hex"):
            parse_digest(text)
