"""`/resultity/v1/subclouds...`: what is shown, what is carried, and everything that is refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from starlette.testclient import TestClient

from gateway.backend import CourierAnswer
from gateway.errors import StoppingError
from p2p.codec import Message, decode_message, encode_message
from p2p.signing import KeyPair, Signed
from p2p.subclouds.directory_messages import MemberEntry
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.records import PolicyRecord, verify_record
from p2p.subclouds.requests import sign_request
from tests.fakes import trust
from tests.fakes.clocks import FakeClock
from tests.fakes.subcloud_board import DELEGATE, OWNER, Board, a_policy, a_record, web

ROOT = "/resultity/v1/subclouds"
TEAM = a_policy().identity
NODE = trust.NODE.peer_id


def text_of(document: Message) -> str:
    return base64.b64encode(encode_message(document)).decode()


@pytest.fixture
def board() -> Board:
    return Board(FakeClock(), a_policy())


@pytest.fixture
def http(board: Board) -> TestClient:
    return web(board)


def ask(
    board: Board, http: TestClient, path: str, key: KeyPair = DELEGATE, what: str = "", **more: Any
) -> Any:
    signed = sign_request(key, trust.NETWORK, TEAM, what or path, board.now_ms())
    return http.post(f"{ROOT}/team/{path}", json={"signed": text_of(signed), **more})


def test_a_policy_is_shown_with_what_proves_it(board: Board, http: TestClient) -> None:
    for name in ("team", TEAM):
        shown = http.get(f"{ROOT}/{name}").json()
        record = decode_message(base64.b64decode(shown["record"]), PolicyRecord)
        known = verify_record(record, trust.NETWORK)
        assert (shown["id"], shown["digest"], shown["version"]) == (TEAM, known.digest, 1)
        assert shown["policy"]["join"] == "semi-open"
        assert shown["source"] == "bootstrap"
    (entry,) = http.get(ROOT).json()["subclouds"]
    assert (entry["id"], entry["label"], entry["owner"]) == (TEAM, "team", OWNER.account_id)
    (version,) = http.get(f"{ROOT}/team/history").json()["versions"]
    assert version == shown["record"]


def test_without_a_bootstrap_the_gateways_own_is_shown(
    board: Board, http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(method: str, body: bytes, client: str = "") -> CourierAnswer:
        raise StoppingError("No bootstrap answers.", retry_after_s=2)

    monkeypatch.setattr(board, "carry", nobody)
    assert http.get(f"{ROOT}/team").json()["source"] == "gateway"
    for path in ("/nobodys", "/team/history", ""):
        assert http.get(ROOT + path).status_code == 503


def test_publishing_and_forks(board: Board, http: TestClient) -> None:
    first = http.post(ROOT, json={"record": text_of(a_record(a_policy("lab")))})
    assert first.json() == {"id": a_policy("lab").identity, "label": "lab"}
    fork = http.post(ROOT, json={"record": text_of(a_record(a_policy("lab", members_max=5)))})
    assert (fork.status_code, fork.json()["error"]["code"]) == (403, "untrusted")
    (kept,) = http.get(f"{ROOT}/lab/evidence").json()["evidence"]
    assert kept["kind"] == "fork"
    assert b'"members_max":5' in decode_message(base64.b64decode(kept["offered"]), Signed).body


def test_a_record_that_does_not_verify_goes_nowhere(board: Board, http: TestClient) -> None:
    good = a_record(a_policy("lab"))
    stranger = PolicyRecord(
        Signed(good.policy.body, trust.STRANGER.public_key, bytes(64)), (), good.accounts
    )
    done = http.post(ROOT, json={"record": text_of(stranger)})
    assert (done.status_code, done.json()["error"]["param"]) == (400, "record")
    assert not board.asked


def test_revocation_lists_come_and_go(board: Board, http: TestClient) -> None:
    assert http.get(f"{ROOT}/team/revocations").json() == {"signed": None}
    signed = DELEGATE.sign(trust.NETWORK, RevocationList(TEAM, 1, board.now_ms(), (NODE,)))
    put = http.post(f"{ROOT}/team/revocations", json={"signed": text_of(signed)})
    assert (put.status_code, put.json()) == (200, {})
    assert http.get(f"{ROOT}/team/revocations").json() == {"signed": text_of(signed)}
    foreign = trust.STRANGER.sign(trust.NETWORK, RevocationList(TEAM, 2, board.now_ms()))
    done = http.post(f"{ROOT}/team/revocations", json={"signed": text_of(foreign)})
    assert done.status_code == 403


def test_strangers_use_up_nothing_that_a_delegate_needs(board: Board, http: TestClient) -> None:
    codes = set()
    for number in range(2, 50):
        junk = trust.STRANGER.sign(trust.NETWORK, RevocationList(TEAM, number, board.now_ms()))
        codes.add(http.post(f"{ROOT}/team/revocations", json={"signed": text_of(junk)}).status_code)
    assert codes == {403, 429}
    assert len(board.asked) < 40
    signed = DELEGATE.sign(trust.NETWORK, RevocationList(TEAM, 1, board.now_ms(), (NODE,)))
    put = http.post(f"{ROOT}/team/revocations", json={"signed": text_of(signed)})
    assert put.status_code == 200


def test_members_and_joins(board: Board, http: TestClient) -> None:
    board.join(NODE)
    board.times[NODE] = MemberEntry(TEAM, NODE, 5, 7)
    assert ask(board, http, "members").json() == {
        "members": [{"peer_id": NODE, "joined_ms": 5, "left_ms": 7}]
    }
    (event,) = ask(board, http, "joins").json()["events"]
    assert (event["peer_id"], event["what"]) == (NODE, "joined")


@pytest.mark.parametrize("key", [DELEGATE, OWNER.signing])
def test_the_view_is_for_owner_and_delegates_once(
    board: Board, http: TestClient, key: KeyPair
) -> None:
    board.shown = {"members": [], "refusals": {"region": 2}}
    board.would = {"a": {"qualifies": True}}
    signed = text_of(sign_request(key, trust.NETWORK, TEAM, "view", board.now_ms()))
    body = {"signed": signed, "candidates": ["a", "b"]}
    shown = http.post(f"{ROOT}/team/view", json=body).json()
    assert shown["refusals"] == {"region": 2}
    assert shown["candidates"] == {"a": {"qualifies": True}}
    again = http.post(f"{ROOT}/team/view", json=body)
    assert (again.status_code, "replay" in again.json()["error"]["message"]) == (403, True)
    board.clock.advance(61)
    old = text_of(sign_request(key, trust.NETWORK, TEAM, "view", board.now_ms() - 61_000))
    assert http.post(f"{ROOT}/team/view", json={"signed": old}).status_code == 403


@pytest.mark.parametrize("what", ["view", "requests", "issued", "joins", "members"])
def test_nobody_else_sees_it(board: Board, http: TestClient, what: str) -> None:
    done = ask(board, http, what, trust.STRANGER, "certificates" if what == "issued" else what)
    assert done.status_code == 403
    other = ask(board, http, what, DELEGATE, "something else")
    assert other.status_code == 403


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", b"["),
        ("", b"[]"),
        ("", b"{}"),
        ("", b'{"record": 5}'),
        ("", b'{"record": "AAAA"}'),
        ("/team/view", b'{"signed": "!"}'),
        ("/team/view", b'{"signed": "AAAA"}'),
        ("/team/revocations", b'{"signed": null}'),
        ("/team/requests", b"{" * 10_000),
        ("/" + "x" * 400 + "/view", b"{}"),
    ],
)
def test_bad_bodies(http: TestClient, path: str, body: bytes) -> None:
    done = http.post(ROOT + path, content=body)
    assert done.status_code == 400, done.text
    assert done.json()["error"]["type"] == "invalid_request_error"


def test_bounds(board: Board, http: TestClient) -> None:
    assert http.post(ROOT, content=b"x" * (512 * 1024 + 1)).status_code == 413
    many = ask(board, http, "view", candidates=["a"] * 201)
    assert (many.status_code, many.json()["error"]["param"]) == (400, "candidates")
    assert http.get(f"{ROOT}/nobodys").status_code == 404
    assert http.get(f"{ROOT}/team/history?below=x").status_code == 400
    codes = [http.get(f"{ROOT}/team").status_code for _ in range(100)]
    assert codes[0] == 200
    assert 429 in codes
