"""`node join` and `node leave`: what they refuse before anybody is asked, in one line each."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.enrolment import CERTIFICATE_FILE
from node.settings_file import change_settings_file
from p2p.clock import system_clock_ms
from p2p.node_invites import JoinInvite
from p2p.opening_messages import NodeInvite
from p2p.signing import KeyPair
from resultity.__main__ import main
from resultity.folder_lock import locked_folder
from resultity.node_invites import make_node_invite
from resultity.node_joining import OWED_FILE
from tests.fakes import trust

ADDRESS = f"/ip4/127.0.0.1/tcp/1/p2p/{trust.BOOTSTRAP.peer_id}"


def invite(lifetime_s: int = 60, now_ms: int | None = None) -> JoinInvite:
    now_ms = system_clock_ms() if now_ms is None else now_ms
    return make_node_invite(trust.AUTHORITY, trust.NETWORK, (ADDRESS,), 1, lifetime_s, now_ms)


def run(folder: Path, *words: str, text: str = "") -> Result:
    arguments = ["node", *words, "--data-dir", str(folder / "node")]
    return CliRunner().invoke(main, arguments, input=text)


def error(folder: Path, *words: str, text: str = "") -> str:
    done = run(folder, *words, text=text)
    assert done.exit_code == 1, done.output
    return done.stderr.splitlines()[-1]


def test_strings_that_are_no_invites(tmp_path: Path) -> None:
    good = invite().text()
    for text in (good[:-9], good.replace(good[40], "-" if good[40] != "-" else "_"), "rj_"):
        assert "damaged or not whole" in error(tmp_path, "join", text=text)
    assert "no invite" in error(tmp_path, "join")
    assert "begin with rj_" in error(tmp_path, "join", text="hello")
    assert "nodes join with one of rj_" in error(tmp_path, "join", text="ri_abc")
    assert "an invite is a secret" in error(tmp_path, "join", "--invite-file", good)
    assert "cannot read the invite" in error(tmp_path, "join", "--invite-file", "/nowhere")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert "it is not an invite" in error(tmp_path, "join", "--invite-file", str(binary))
    assert not (tmp_path / "node").exists()


def test_a_string_that_was_broken_into_lines_is_read_from_a_pipe(tmp_path: Path) -> None:
    good = invite(now_ms=1_700_000_000_000).text()
    broken = "\n".join(good[start : start + 76] for start in range(0, len(good), 76))
    assert "has expired" in error(tmp_path, "join", text=f"{broken}\nmore")
    assert "damaged or not whole" in error(tmp_path, "join", text=f"{broken[:-5]}\n\n{good}")


def test_an_end_beyond_all_calendars_is_shown(tmp_path: Path) -> None:
    """Anybody can make such a string: it is no bug of ours."""
    keys = KeyPair.generate()
    document = NodeInvite(keys.public_key, 1, 2**62, 0)
    signed = trust.AUTHORITY.sign(trust.NETWORK, document)
    text = JoinInvite(keys, signed, trust.NETWORK, (ADDRESS,)).text()
    done = run(tmp_path, "join", "--account-file", str(tmp_path / "no"), text=text)
    assert f"until {2**62} ms after 1970" in done.stderr
    assert "there is no account file" in done.stderr


def test_wrong_types_in_the_settings_are_told(tmp_path: Path) -> None:
    for name in ("account_file", "models_dir", "network"):
        folder = tmp_path / name
        change_settings_file(folder / "node", {name: 5})
        assert f"{name} must be a text" in error(folder, "join", text=invite().text())
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "node.toml").write_text("node = 5\n")
    assert "[node] must be a table" in error(tmp_path, "join", text=invite().text())


def test_invites_that_have_ended_or_are_for_elsewhere(tmp_path: Path) -> None:
    ended = invite(now_ms=1_700_000_000_000).text()
    assert "has expired" in error(tmp_path, "join", text=ended)
    change_settings_file(tmp_path / "node", {"network": str(trust.OTHER_NETWORK)})
    assert "belongs to a node of the network other-" in error(
        tmp_path, "join", text=invite().text()
    )
    change_settings_file(tmp_path / "node", {"network": str(trust.NETWORK)})
    with locked_folder(tmp_path / "node"):
        done = run(tmp_path, "join", text=invite().text())
        for words in (("--run",), ("--model", "m.gguf"), ("--listen", "/ip4/0.0.0.0/tcp/0")):
            assert "end it first" in error(tmp_path, "join", *words, text=invite().text())
    assert (done.exit_code, "and it runs" in done.stderr) == (0, True)


def test_what_cannot_be_served_is_said_before_anybody_is_asked(tmp_path: Path) -> None:
    text = invite().text()
    said = error(tmp_path, "join", "--model", "nothing", text=text)
    assert "neither a file nor a model in the node's store" in said
    said = error(tmp_path, "join", "--account-file", str(tmp_path / "no"), text=text)
    assert "there is no account file" in said


def test_the_hidden_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def prompt(text: str, *, hide_input: bool, err: bool) -> str:
        asked.append((text, hide_input and err))
        return invite().text()

    monkeypatch.setattr("click.prompt", prompt)
    monkeypatch.setattr(
        "click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False
    )
    confirmed: list[str] = []
    monkeypatch.setattr("click.confirm", lambda text, **options: confirmed.append(text))
    done = run(tmp_path, "join", "--timeout", "1", "--model", "nothing")
    assert asked == [("Invite (rj_...)", True)]
    assert confirmed == ["Join this network?"]
    assert f"network    {trust.NETWORK}" in done.stderr
    assert f"bootstrap  {ADDRESS}" in done.stderr
    assert "for 1 node, until" in done.stderr
    assert "signed by the network's authority" in done.stderr


def test_leaving(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    assert "has not joined a network" in error(tmp_path, "leave", "--yes")
    change_settings_file(folder, {"network": str(trust.NETWORK), "slots": 3})
    (folder / CERTIFICATE_FILE).write_bytes(b"x")
    (folder / "account.json").write_text("{}")
    assert "say so with --yes" in error(tmp_path, "leave")
    assert (folder / CERTIFICATE_FILE).exists()
    (folder / OWED_FILE).write_bytes(b"")
    assert "has left" in run(tmp_path, "leave", "--yes").stdout
    left = {path.name for path in folder.iterdir()}
    assert {"account.json", OWED_FILE, "node.toml.left"} <= left
    assert not {CERTIFICATE_FILE, "node.toml"} & left


def test_nobody_leaves_while_pay_is_owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "node"
    change_settings_file(folder, {"network": str(trust.NETWORK)})
    monkeypatch.setattr("resultity.commands.node_join.owed_attempts", lambda folder: 2)
    assert "have not settled 2 attempts yet" in error(tmp_path, "leave", "--yes")
    assert (folder / "node.toml").exists()
    assert run(tmp_path, "leave", "--yes", "--force").exit_code == 0
    assert not (folder / "node.toml").exists()
