"""`resultity node subclouds`: what is written for the node, what is shown, what stays secret."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from node.observation.subcloud_status import FailedCriterion, SubcloudStatus
from node.subclouds.kept import KeptState, MembershipFile
from node.subclouds.membership_changes import Change
from node.subclouds.membership_rules import Kept
from node.subclouds.wishes import Wish, Wishes, read_wishes, wishes_path
from p2p.subclouds.invites import make_subcloud_invite
from p2p.subclouds.memberships import Membership
from resultity.commands.node_subclouds import subclouds
from resultity.folder_lock import locked_folder
from resultity.node_status import status_table
from tests.fakes.node_status import node_status
from tests.fakes.subclouds import DELEGATE, NOW_MS, a_policy, identity_of

TEAM = identity_of("team")
STATUS = node_status(
    pid=os.getpid(),
    wishes_ns=2**62,
    isolated=TEAM,
    subclouds=(
        SubcloudStatus(
            "team",
            TEAM,
            "suspended",
            "models: wanted at least one that is admitted, found 0 of 1",
            join="open",
            version=3,
            digest="d" * 64,
            joined_ms=NOW_MS,
            isolates=True,
            failed=(FailedCriterion("models", "at least one that is admitted", "0 of 1"),),
            others_judge=("a country that is proven",),
        ),
        SubcloudStatus("nowhere", "", "waiting", "no subcloud is registered under that name (yet)"),
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A node's folder."""
    (tmp_path / "identity.key").write_bytes(b"")
    return tmp_path


@pytest.fixture
def running(folder: Path) -> Iterator[Path]:
    """The folder of one that runs, and answers."""
    (folder / "status.json").write_bytes(STATUS.to_json())
    with locked_folder(folder):
        yield folder


def run(folder: Path, *words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(subclouds, [*words, "--data-dir", str(folder)], input=stdin)


def wishes(folder: Path) -> Wishes:
    return read_wishes(wishes_path(folder))


def test_a_stopped_node_is_told_for_its_next_start(folder: Path) -> None:
    done = run(folder, "join", "team", "--note", "please")
    assert done.exit_code == 0, done.output
    assert "follows when it starts" in done.output
    assert wishes(folder).join == (("team", Wish(note="please")),)
    assert run(folder, "isolate", "team").exit_code == 0
    assert wishes(folder).isolate == "team"
    assert run(folder, "leave", "team").exit_code == 0
    assert wishes(folder) == Wishes(left=("team",), isolate="")
    assert run(folder, "request", "team").exit_code == 0
    assert wishes(folder) == Wishes(join=(("team", Wish()),), isolate="")
    assert run(folder, "isolate", "--none").exit_code == 0


def test_leaving_counts_for_every_name_of_a_subcloud(folder: Path) -> None:
    kept = Kept(Membership(TEAM, bytes(32), NOW_MS))
    MembershipFile(folder / "subclouds").save(KeptState({TEAM: kept}, labels={"team": TEAM}))
    assert run(folder, "join", TEAM).exit_code == 0
    assert run(folder, "leave", "team").exit_code == 0
    assert wishes(folder) == Wishes(left=tuple(sorted(("team", TEAM))), isolate=None)
    assert run(folder, "join", TEAM).exit_code == 0
    assert wishes(folder).left == ()
    listed = run(folder, "list", "--json")
    assert json.loads(listed.stdout)["subcloud_id"] == TEAM


@pytest.mark.parametrize(
    "words",
    [
        ("join", "Not a name"),
        ("join",),
        ("join", "team", "--invite"),
        ("isolate",),
        ("isolate", "team", "--none"),
        ("leave", "../x"),
        ("join", "team", "--note", "x" * 257),
    ],
)
def test_what_makes_no_sense_changes_nothing(folder: Path, words: tuple[str, ...]) -> None:
    done = run(folder, *words)
    assert done.exit_code in (1, 2), done.output
    assert "Traceback" not in done.output
    assert wishes(folder) == Wishes()


def test_an_invite_is_read_but_never_shown_or_an_argument(folder: Path, tmp_path: Path) -> None:
    secret = make_subcloud_invite(
        DELEGATE,
        a_policy(join="private"),
        uses=1,
        lifetime_s=60,
        membership_s=600,
        now_ms=NOW_MS,
    )
    file = tmp_path / "invite"
    file.write_text(secret.text() + "\n")
    for words, stdin in (
        (("join", "--invite-file", str(file)), None),
        (("join", "--invite-file", "-"), secret.text()),
        (("join", "--invite"), secret.text() + "\n"),
    ):
        wishes_path(folder).unlink(missing_ok=True)
        done = run(folder, *words, stdin=stdin)
        assert done.exit_code == 0, done.output
        assert secret.text() not in done.output
        assert wishes(folder).join == ((TEAM, Wish(secret.text())),)
        assert wishes_path(folder).stat().st_mode & 0o077 == 0
    assert secret.text() not in repr(wishes(folder))
    damaged = run(folder, "join", "--invite-file", "-", stdin="rs_nonsense")
    assert damaged.exit_code == 1
    assert "rs_nonsense" not in damaged.output


def test_a_running_node_says_what_came_of_it(running: Path) -> None:
    done = run(running, "join", "team")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("team, suspended (models: wanted at least one")
    assert "isolated for it, open, policy 3" in done.output
    assert "gateways judge: a country that is proven" in done.output


def test_the_list_has_each_criterion_with_its_values(running: Path) -> None:
    shown = run(running, "list")
    assert "  models: wanted at least one that is admitted, found 0 of 1\n" in shown.output
    assert "nowhere, waiting (no subcloud is registered" in shown.output
    entries = [json.loads(line) for line in run(running, "list", "--json").output.splitlines()]
    assert entries[0]["failed"][0]["found"] == "0 of 1"


def test_the_status_shows_memberships_and_why_nothing_runs() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(status_table("node", STATUS, 61_000))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "left the global pool for team" in text
    assert "models: wanted at least one that is admitted, found 0 of 1" in text
    assert STATUS.idle_reason.startswith("it works for team only, and models: wanted")
    plain = dataclasses.replace(STATUS, isolated="", subclouds=())
    assert plain.idle_reason == "no gateway has a job for it"


def test_the_log_is_shown_oldest_first_and_stays_bounded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.subclouds.kept.LOG_LINES_MAX", 10)
    file = MembershipFile(folder / "subclouds")
    for number in range(25):
        file.note([Change(TEAM, "left", f"reason {number}")], number)
    with (folder / "subclouds" / "log.jsonl").open("a") as torn:
        torn.write('{"at_ms": 1')
    shown = run(folder, "log").output.splitlines()
    assert 5 <= len(shown) <= 10
    assert shown[-1] == f"1970-01-01 00:00:00 UTC {TEAM} left: reason 24"
    assert json.loads(run(folder, "log", "--json", "--lines", "1").output)["reason"] == "reason 24"
