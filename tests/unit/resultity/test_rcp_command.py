"""The command `rcp`: whole epochs, page by page, and what is not believed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from ledger.rcp import scores_digest
from p2p.types import AccountId
from p2p.usage_messages import RcpEpoch, RcpParameters, RcpQuery, RcpReport, RcpScore
from resultity import rcp
from resultity.__main__ import main
from resultity.errors import GatewayCallError
from resultity.rcp import fetch_epoch, fetch_page
from tests.fakes import trust

DAY = 20_000
SCORES = tuple(
    RcpScore(AccountId(f"acct-{number:040x}"), 1_000 - number, 50, 3) for number in range(7)
)
PARAMETERS = RcpParameters(10**6, 7000, 3000, 0, 0, 10**9)


class FakeCarrier:
    """A ledger with one epoch, three scores a page."""

    def __init__(self, scores: tuple[RcpScore, ...] = SCORES, **changes: Any) -> None:
        epoch = RcpEpoch(
            DAY,
            2,
            1,
            PARAMETERS,
            len(SCORES),
            scores_digest(SCORES),
            trust.START_MS,
            trust.bootstrap_chain(),
        )
        self.signed = trust.BOOTSTRAP.sign(trust.NETWORK, replace(epoch, **changes))
        self.scores = scores
        self.asked: list[RcpQuery] = []

    def send(self, what: str, document: Any, answer: Any) -> Any:
        assert (what, answer) == ("rcp", RcpReport)
        self.asked.append(document)
        if document.account_id:
            at = [s.account_id for s in self.scores].index(document.account_id)
            return RcpReport(self.signed, at, self.scores[at : at + 1])
        first = document.first
        return RcpReport(self.signed, first, self.scores[first : first + 3])


def test_a_whole_epoch() -> None:
    carrier = FakeCarrier()
    epoch = fetch_epoch(carrier, trust.NETWORK, 0)
    assert (epoch.scores, epoch.complete) == (SCORES, True)
    assert [(query.day, query.first) for query in carrier.asked] == [(0, 0), (DAY, 3), (DAY, 6)]
    assert fetch_epoch(carrier, trust.NETWORK, DAY + 1).complete


def test_one_score_that_was_changed_is_found() -> None:
    forged = (*SCORES[:5], replace(SCORES[5], points=999), *SCORES[6:])
    with pytest.raises(GatewayCallError, match="not the scores"):
        fetch_epoch(FakeCarrier(forged), trust.NETWORK, 0)
    with pytest.raises(GatewayCallError, match="fewer scores"):
        fetch_epoch(FakeCarrier(SCORES[:6]), trust.NETWORK, 0)
    with pytest.raises(GatewayCallError, match="other days"):
        fetch_page(FakeCarrier(), trust.NETWORK, RcpQuery(DAY + 2))
    with pytest.raises(GatewayCallError, match="not acceptable"):
        fetch_page(FakeCarrier(chain=trust.gateway_chain()), trust.NETWORK, RcpQuery())


def test_a_very_large_epoch_is_shown_unchecked_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rcp, "PAGES_MAX", 2)
    epoch = fetch_epoch(FakeCarrier(), trust.NETWORK, 0)
    assert (len(epoch.scores), epoch.complete) == (6, False)


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> FakeCarrier:
    found = FakeCarrier()
    monkeypatch.setattr("resultity.commands.rcp.Courier", lambda url: found)
    monkeypatch.setenv("RESULTITY_NETWORK", trust.NETWORK)
    monkeypatch.setenv("RESULTITY_GATEWAY_URL", "http://127.0.0.1:1/v1")
    return found


def run(*arguments: str, expected: int = 0) -> str:
    done = CliRunner().invoke(main, ["rcp", *arguments])
    assert done.exit_code == expected, done.output
    return done.output


@pytest.mark.usefixtures("carrier")
def test_leaderboard() -> None:
    lines = run("leaderboard", "--count", "2").splitlines()
    assert lines[0].startswith("2024-10-04 to 2024-10-05: 7 accounts, frozen by 12D3Koo")
    assert [line.split() for line in lines[1:]] == [
        ["1", "1000", SCORES[0].account_id],
        ["2", "999", SCORES[1].account_id],
    ]
    content = json.loads(run("leaderboard", "--json", "--date", "2024-10-05"))
    assert (len(content["scores"]), content["verified_in_full"]) == (7, True)
    assert "like 2026-01-31" in run("leaderboard", "--date", "yesterday", expected=1)


@pytest.mark.parametrize("pages", [2, 20])
@pytest.mark.usefixtures("carrier")
def test_show(monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    monkeypatch.setattr(rcp, "PAGES_MAX", pages)
    content = json.loads(run("show", "--json", "--account", SCORES[6].account_id))
    assert (content["place"], content["points"], content["uptime_minutes"]) == (7, 994, 3)
    assert content["verified_in_full"] is (pages == 20)
    text = run("show", "--account", SCORES[0].account_id)
    assert "1000 points, place 1 of 7 (work 50 microcredits, uptime 3 minutes, " in text
    assert "not an account ID" in run("show", "--account", "me", expected=1)


@pytest.mark.usefixtures("carrier")
def test_an_account_without_points() -> None:
    assert "0 points, no place of 7" in run("show", "--account", "acct-" + "f" * 40)
