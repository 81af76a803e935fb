"""`subcloud delegate|members|token|status|steward`: over a gateway's real endpoints."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from p2p.account_file import store_account
from p2p.clock import system_clock_ms
from p2p.identity import load_key, store_key
from p2p.subclouds.invites import parse_subcloud_invite
from p2p.subclouds.tokens import open_token, parse_token
from resultity.commands.subcloud_delegate import delegate
from resultity.commands.subcloud_members import members
from resultity.commands.subcloud_status import status
from resultity.commands.subcloud_steward import steward
from resultity.commands.subcloud_token import token
from resultity.errors import GatewayCallError
from resultity.subclouds.client import PAGE_DOCUMENTS_MIN
from resultity.subclouds.watching import show_changes
from tests.fakes import trust
from tests.fakes.clocks import FakeClock
from tests.fakes.subcloud_board import (
    DAY_MS,
    DELEGATE,
    OWNER,
    URL,
    Board,
    a_policy,
    a_request,
    serve,
)

NODE = trust.NODE.peer_id
TEAM = a_policy().identity


class Bench:
    """The commands with a delegate's key, a gateway and a network."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now_ms = system_clock_ms()
        self.folder = folder
        self.policy = a_policy(issued_ms=now_ms, expires_ms=now_ms + DAY_MS)
        self.board = Board(FakeClock(now_ms), self.policy)
        serve(self.board, monkeypatch)
        self.key = folder / "delegate.key"
        store_key(self.key, DELEGATE)
        self.environment = {
            "RESULTITY_DELEGATE_KEY": str(self.key),
            "RESULTITY_NETWORK": trust.NETWORK,
            "RESULTITY_GATEWAY_URL": URL,
            "RESULTITY_DATA_DIR": str(folder),
        }
        self.rows: list[dict[str, Any]] = []
        module = "resultity.commands.subcloud_status"
        monkeypatch.setattr(f"{module}.subcloud_usage", lambda *args: list(self.rows))
        monkeypatch.setattr(f"{module}.row_as_record", dict)

    def run(self, command: click.Command, *words: object, text: str | None = None) -> Result:
        arguments = [*map(str, words)]
        if command is not delegate and "show" not in arguments:
            arguments += ["--data-dir", str(self.folder)]
        return CliRunner().invoke(command, arguments, env=self.environment, input=text)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_a_delegates_key(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / "new.key"
    done = bench.run(delegate, "new", "-o", path)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == load_key(path).public_key.hex()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert bench.run(delegate, "show", path).stdout == done.stdout
    again = bench.run(delegate, "new", "-o", path)
    assert (again.exit_code, "exists already" in again.output) == (1, True)
    assert load_key(path).public_key.hex() == done.stdout.strip()


def test_listing_approving_denying(bench: Bench) -> None:
    bench.board.requests[NODE] = a_request(trust.NODE, TEAM, system_clock_ms(), "our \x1b[2J rack")
    bench.board.would[NODE] = {"qualifies": False, "failed": [{"criterion": "region"}]}
    shown = bench.run(members, "list", "team")
    assert shown.exit_code == 0, shown.output
    assert "1 ask to join" in shown.stdout
    assert "region: wanted none, found none" in shown.stdout
    assert "\x1b" not in shown.stdout
    record = json.loads(bench.run(members, "list", "team", "--json").stdout)
    assert record["waiting"][0]["account_id"] == trust.SOME_ACCOUNT
    done = bench.run(members, "approve", "team", NODE, "--for", "7d")
    assert (done.exit_code, "is admitted for 7d" in done.stdout) == (0, True)
    assert NODE in bench.board.certificates
    assert bench.board.book.revocations(TEAM) is not None  # without a list it would not count
    denied = bench.run(members, "deny", "team", NODE, "--reason", "no")
    assert denied.exit_code == 0, denied.output


def test_approving_keeps_to_members_max(bench: Bench) -> None:
    known = bench.board.book.get(TEAM)
    assert known is not None
    full = a_policy(
        version=2,
        predecessor_digest=known.digest,
        members_max=1,
        issued_ms=bench.policy.issued_ms,
        expires_ms=bench.policy.expires_ms,
    )
    bench.board.offer(full)
    bench.board.join(trust.OTHER_NODE.peer_id)
    done = bench.run(members, "approve", "team", NODE)
    assert (done.exit_code, "1 members already" in done.output) == (1, True)
    assert bench.run(members, "approve", "team", trust.OTHER_NODE.peer_id).exit_code == 0


def test_banning_and_revoking(bench: Bench) -> None:
    assert "1 banned" in bench.run(members, "ban", "team", NODE).stdout
    refused = bench.run(members, "approve", "team", NODE)
    assert (refused.exit_code, "is banned" in refused.output) == (1, True)
    assert "0 banned" in bench.run(members, "unban", "team", NODE).stdout
    assert bench.run(members, "approve", "team", NODE).exit_code == 0
    assert "1 certificates" in bench.run(members, "revoke", "team", NODE).stdout
    nobody = bench.run(members, "revoke", "team", trust.OTHER_NODE.peer_id)
    assert (nobody.exit_code, "no certificate that holds" in nobody.output) == (1, True)
    assert "nothing to revoke" in bench.run(members, "revoke", "team").output
    done = bench.run(members, "revoke", "team", "--invite", "ab" * 16)
    assert "1 invites" in done.stdout


def test_the_log_of_joins_has_every_page_and_the_list_names_the_banned(bench: Bench) -> None:
    for number in range(PAGE_DOCUMENTS_MIN + 1):
        bench.board.join(NODE, "left" if number % 2 else "joined")
    lines = bench.run(members, "log", "team").stdout.splitlines()
    assert len(lines) == PAGE_DOCUMENTS_MIN + 1
    assert lines[1].endswith(f"UTC  {NODE}  left")
    entry = json.loads(bench.run(members, "log", "team", "--json").stdout.splitlines()[-1])
    assert (entry["number"], entry["what"]) == (PAGE_DOCUMENTS_MIN + 1, "joined")
    bench.run(members, "ban", "team", NODE)
    assert f"{NODE}  banned" in bench.run(members, "list", "team").stdout
    assert json.loads(bench.run(members, "list", "team", "--json").stdout)["banned"] == [NODE]


@pytest.mark.parametrize("words", [("ban", "team", "me"), ("approve", "team", "12D3KooWxx")])
def test_what_is_no_peer_id(bench: Bench, words: tuple[str, ...]) -> None:
    done = bench.run(members, *words)
    assert (done.exit_code, "not a peer ID" in done.output) == (1, True)


def test_another_key_and_another_subcloud(bench: Bench, tmp_path: Path) -> None:
    store_key(tmp_path / "other.key", trust.STRANGER)
    done = bench.run(members, "list", "team", "--delegate-key", tmp_path / "other.key")
    assert (done.exit_code, "no delegate's key" in done.output) == (1, True)
    unknown = bench.run(members, "list", "nobodys")
    assert (unknown.exit_code, "there is no subcloud nobodys" in unknown.output) == (1, True)


def test_invites_go_to_a_file_or_standard_output(bench: Bench, tmp_path: Path) -> None:
    done = bench.run(members, "invite", "team", "--uses", 3, "--membership", "10d", "--slots", 2)
    assert done.exit_code == 0, done.output
    found = parse_subcloud_invite(done.stdout, trust.NETWORK).document
    assert (found.uses, found.membership_s, found.slots_max) == (3, 10 * 86_400, 2)
    assert "admits 3 nodes within 7d" in done.stderr
    path = tmp_path / "invite"
    told = json.loads(bench.run(members, "invite", "team", "-o", path, "--json").stdout)
    assert "invite" not in told
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert parse_subcloud_invite(path.read_text()).invite_id.hex() == told["invite_id"]
    again = bench.run(members, "invite", "team", "-o", path)
    assert (again.exit_code, "exists already" in again.output) == (1, True)
    short = bench.run(members, "invite", "team", "--membership", "1m")
    assert (short.exit_code, "5m to 90d" in short.output) == (1, True)


def test_tokens(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "token"
    words = ("issue", "team", "--uses", 5, "--account", OWNER.account_id, "--namespace", "dev")
    done = bench.run(token, *words, "-o", path)
    assert done.exit_code == 0, done.output
    signed = parse_token(path.read_text())
    found = open_token(signed, bench.policy, system_clock_ms() + 1)
    assert (found.uses, found.account, found.namespace) == (5, OWNER.account_id, "dev")
    for shown in (
        bench.run(token, "show", path),
        bench.run(token, "show", text=path.read_text()),
    ):
        assert f"paid by  {OWNER.account_id}/dev" in shown.stdout
    facts = json.loads(bench.run(token, "show", path, "--json").stdout)
    assert facts["token_id"] == found.token_id.hex()
    secret = bench.run(token, "show", path.read_text().strip())
    assert (secret.exit_code, "is a secret" in secret.output) == (1, True)
    assert path.read_text().strip() not in secret.output
    assert "1 tokens" in bench.run(token, "revoke", "team", found.token_id.hex()).stdout
    taken = bench.board.book.revocations(TEAM)
    assert taken is not None
    assert taken.revoked_tokens == (found.token_id,)
    alone = bench.run(token, "issue", "team", "--namespace", "dev")
    assert (alone.exit_code, "needs --account" in alone.output) == (1, True)


def test_the_status_of_a_subcloud(bench: Bench, tmp_path: Path) -> None:
    bench.board.shown = {
        "policy": {"version": 1, "digest": "other"},
        "revocation_list": {"number": 4, "age_s": 4000},
        "members": [
            {
                "peer_id": NODE,
                "qualifies": False,
                "failed": [{"criterion": "uptime", "wanted": 9900, "found": 5000}],
                "slots": 4,
                "jobs_running": 1,
                "service": {"jobs": 30, "first_token_ms": 210.4, "uptime": 5000},
            }
        ],
        "refusals": {"region": 3},
    }
    bench.rows = [{"jobs": 2, "charged": 1_500_000, "income": 75_000}, {"jobs": 1, "failed": 1}]
    shown = bench.run(status, "team")
    assert shown.exit_code == 0, shown.output
    for text in (
        "this gateway goes by another version",
        "revocation list 4, 1:06:40 old (at most 1:00:00): TOO OLD",
        "1 members (at most 10000), 0 qualify",
        "uptime: wanted 99%, found 50%",
        "3 jobs (1 failed",
        "charged 1.5, income 0.075 credits",
        "3  region",
    ):
        assert text in shown.stdout, shown.stdout
    account = tmp_path / "owner.account"
    store_account(account, OWNER)
    del bench.environment["RESULTITY_DELEGATE_KEY"]
    record = json.loads(bench.run(status, "team", "--json", "--account-file", account).stdout)
    assert (record["members"][0]["peer_id"], record["usage"]["jobs"]) == (NODE, 3)
    nobody = bench.run(status, "team")
    assert (nobody.exit_code, "who asks?" in nobody.output) == (1, True)


def test_a_steward_for_one_round(bench: Bench) -> None:
    bench.board.requests[NODE] = a_request(trust.NODE, TEAM, system_clock_ms())
    bench.board.would[NODE] = {"qualifies": True}
    done = bench.run(steward, "team", "--once", "--auto-approve")
    assert done.exit_code == 0, done.output
    assert NODE in bench.board.certificates
    assert bench.board.book.revocations(TEAM) is not None
    bench.board.unreachable = True
    failed = bench.run(steward, "team", "--once")
    assert (failed.exit_code, "cannot reach" in failed.output) == (1, True)


def test_watching_shows_changes_and_outlives_a_restart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = GatewayCallError("cannot reach the gateway")
    seen: list[object] = ["a", "a", gone, gone, "a", "b", GatewayCallError("no", status=403)]
    pauses: list[float] = []

    def look() -> str:
        found = seen.pop(0)
        if isinstance(found, Exception):
            raise found
        return str(found)

    with pytest.raises(GatewayCallError, match="no"):
        show_changes(look, str.upper, watch=True, pause=pauses.append)
    shown = capsys.readouterr()
    assert (shown.out, len(pauses)) == ("A\nB\n", 6)
    assert shown.err == "cannot reach the gateway (it is tried again)\n"
    seen[:] = [gone]
    with pytest.raises(GatewayCallError, match="cannot reach"):
        show_changes(look, str.upper, watch=True)
    seen[:] = ["x"]
    show_changes(look, str.upper, watch=False)
