"""What a node keeps of its memberships, what it is told, and what its operator promised."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.agent.refusal_log import RefusalLog
from node.serving.opening import _runtime_log
from node.settings import NodeSettings
from node.subclouds.candidates import names_of
from node.subclouds.kept import KeptState, MembershipFile
from node.subclouds.manager import SubcloudManager
from node.subclouds.membership_rules import Kept
from node.subclouds.settings import SubcloudSettings
from node.subclouds.wishes import Wish, Wishes, changing_wishes, forget_invite, read_wishes
from p2p.errors import MalformedError
from p2p.subclouds.memberships import Membership
from tests.fakes.member_desk import MemberDesk
from tests.fakes.member_nodes import a_certificate
from tests.fakes.subclouds import NOW_MS, identity_of
from tests.fakes.trust import NETWORK

A, B = identity_of("a"), identity_of("b")
names = st.sampled_from(["a", "b", A, B])


# --- memberships on disk ------------------------------------------------------------------------
def test_what_is_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    state = KeptState(
        {
            A: Kept(Membership(A, bytes(32), NOW_MS, isolates=True)),
            B: Kept(Membership(B, bytes(32), 1, certificate=a_certificate(B)), unmet_ms=7),
        },
        {A: 5},
        {"a": A},
        spoke=True,
    )
    MembershipFile(tmp_path).save(state)
    assert MembershipFile(tmp_path).load() == state
    assert (tmp_path / "memberships.json").stat().st_mode & 0o077 == 0
    assert MembershipFile(tmp_path / "none").load() == KeptState()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "other"}', "\x00"])
def test_a_damaged_file_is_said_because_a_consent_may_be_in_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "memberships.json").write_text(text)
    with pytest.raises(MalformedError, match=r"memberships\.json is damaged"):
        MembershipFile(tmp_path).load()


def test_nothing_is_in_force_that_is_not_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = MemberDesk(tmp_path)
    desk.publish()

    def full(self: MembershipFile, state: KeptState) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(MembershipFile, "save", full)
    desk.manager.evaluate()
    assert desk.manager.joined(desk.owner.identity) is None
    assert desk.manager.statement() is None
    monkeypatch.undo()
    desk.manager.evaluate()
    assert desk.manager.joined(desk.owner.identity) is not None


def test_a_label_stays_with_what_it_first_led_to(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path, auto_join=("cloud-1",))
    desk.publish()
    desk.manager.evaluate()
    assert desk.manager.unresolved() == {"cloud-1"}
    desk.manager.remember_label("cloud-1", desk.owner.identity)
    desk.manager.evaluate()
    desk.restart()
    assert desk.manager.unresolved() == frozenset()
    assert isinstance(desk.agent.subclouds, SubcloudManager)
    assert desk.manager.joined(desk.owner.identity) is not None


# --- wishes ---------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "isolate", "none"]), names)))
def test_the_last_word_about_a_subcloud_counts(said: list[tuple[str, str]]) -> None:
    wishes = Wishes()
    for word, name in said:
        match word:
            case "join":
                wishes = wishes.with_join(name, Wish())
            case "leave":
                wishes = wishes.with_left(name)
            case "isolate":
                wishes = wishes.with_isolate(name)
            case "none":
                wishes = wishes.with_isolate("")
    joined = {name for name, _ in wishes.join}
    assert not joined & set(wishes.left)
    assert not wishes.isolate or wishes.isolate in joined
    for name in ("a", "b", A, B):
        last = [word for word, other in said if other == name and word != "none"]
        if last:
            assert (name in wishes.left) == (last[-1] == "leave")


def test_wishes_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "subclouds" / "wishes.json"
    assert read_wishes(path) == Wishes()
    with changing_wishes(path) as box:
        box[0] = Wishes((("a", Wish("rs_secret", "hello")),), (B,), "a")
    assert read_wishes(path) == Wishes((("a", Wish("rs_secret", "hello")),), (B,), "a")
    forget_invite(path, "a")
    assert read_wishes(path).wish("a") == Wish(note="hello")
    assert "rs_secret" not in path.read_text()
    path.write_text(path.read_text().replace('"a"', '"Not a name"'))
    with pytest.raises(MalformedError):
        read_wishes(path)


# --- names and settings -------------------------------------------------------------------------
def test_patterns_are_compared_with_registered_labels_only() -> None:
    settings = SubcloudSettings(auto_join=("a*", "b"))
    found = names_of(settings, Wishes(), {"b": B}, {identity_of("ab"): "ab", A: ""})
    assert found.matched == {identity_of("ab")}
    assert (found.named, found.unresolved) == ({B}, set())
    assert names_of(settings, Wishes(), {}, {}).unresolved == {"b"}


def test_a_command_overrides_the_setting_of_isolation() -> None:
    settings = SubcloudSettings(isolate=A)
    assert names_of(settings, Wishes(), {}, {}).isolate == A
    assert names_of(settings, Wishes(isolate=""), {}, {}).isolate is None
    assert names_of(settings, Wishes(isolate=B), {}, {}).isolate == B
    assert names_of(settings, Wishes(), {}, {}).named == {A}


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_join": ("Not a name",)},
        {"auto_join": ("",)},
        {"auto_join": ("x",) * 101},
        {"isolate": "eu-*"},
        {"isolate": "-"},
    ],
)
def test_settings_that_cannot_work(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        SubcloudSettings(**fields)


def node_settings(folder: Path, **fields: Any) -> NodeSettings:
    return NodeSettings(folder, NETWORK, ("/ip4/127.0.0.1/tcp/1/p2p/x",), **fields)


@pytest.mark.parametrize("country", ["de", "DEU", "D", "ÄÖ", "1A"])
def test_a_country_has_two_capital_letters(tmp_path: Path, country: str) -> None:
    with pytest.raises(MalformedError, match="ISO 3166"):
        node_settings(tmp_path, country=country)
    assert node_settings(tmp_path, country="DE").country == "DE"


# --- the promise to store no content ------------------------------------------------------------
def test_with_the_promise_nothing_that_may_quote_a_request_is_written(tmp_path: Path) -> None:
    plain = node_settings(tmp_path)
    assert _runtime_log(plain) == tmp_path / "runtime.log"
    assert _runtime_log(node_settings(tmp_path, stores_no_content=True)) == Path(os.devnull)
    refusals = RefusalLog()
    refusals.quotes = False
    refusals.note("bad_request", "unknown role 'a secret'", 1)
    assert refusals.last_reason == "bad_request"
    refusals.note("busy", "3 jobs are running", 1)
    assert refusals.last_reason == "busy: 3 jobs are running"
