"""The command line: amounts, addresses, log lines, tables, and what an error looks like."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from p2p.errors import P2PError
from resultity.__main__ import COMMANDS, main
from resultity.accounts import parse_credits, show_credits
from resultity.commands.explore import models_table, peers_table, rows_of
from resultity.commands.up import status_line
from resultity.errors import GatewayCallError, SettingsError
from resultity.http_json import gateway_root
from resultity.log_setup import LineFormatter
from resultity.role_process import describe, ready_facts, reported_errors, write_ready_file


@given(st.integers(min_value=1, max_value=10**17))
def test_credits_are_exact(microcredits: int) -> None:
    assert parse_credits(show_credits(microcredits)) == microcredits


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "0.0000001", "1e30", "NaN", "inf"])
def test_bad_amounts(text: str) -> None:
    with pytest.raises(SettingsError, match="amount of credits"):
        parse_credits(text)


def test_gateway_addresses() -> None:
    assert gateway_root("http://127.0.0.1:8420/v1") == "http://127.0.0.1:8420"
    assert gateway_root("https://host/base/v1/") == "https://host/base"
    with pytest.raises(SettingsError, match="not a gateway's URL"):
        gateway_root("127.0.0.1:8420")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage:" in done.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing"], "No such command"),
        (["up", "--nodes", "0"], "--nodes"),
        (["up", "--json"], "--json needs --detach"),
        (["up", "--port", "70000"], "--port"),
        (["ask"], "QUESTION"),
        (["node", "run", "--config", "/does/not/exist"], "--config"),
        (["network", "certify", "--data-dir", "x", "--role", "node", "--output", "y"], "--role"),
    ],
)
def test_bad_arguments_exit_with_two(arguments: list[str], complaint: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert complaint in done.output


def test_our_errors_become_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESULTITY_DEBUG", raising=False)
    with pytest.raises(click.ClickException) as caught, reported_errors():
        raise ExceptionGroup("x", [ExceptionGroup("y", [P2PError("one\nline")])])
    assert caught.value.message == "one line"
    assert caught.value.exit_code == 1
    bug = "internal error, please report it: KeyError"
    with pytest.raises(click.ClickException, match=bug), reported_errors():
        raise KeyError("x")


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESULTITY_DEBUG", "1")
    with pytest.raises(P2PError), reported_errors():
        raise P2PError("x")


def record_with_error(text: str) -> logging.LogRecord:
    try:
        raise ValueError("inner\ntext")
    except ValueError as error:
        details = (type(error), error, error.__traceback__)
        return logging.LogRecord("a.b", logging.ERROR, "f", 1, text, (), details)


def test_a_record_is_one_line() -> None:
    line = LineFormatter(tracebacks=False).format(record_with_error("bad\nthing"))
    assert "\n" not in line
    assert "ERROR a.b: bad\\nthing (ValueError: inner\\ntext)" in line
    assert line[10] == "T"
    assert line.split(" ")[0].endswith("Z")
    with_traceback = LineFormatter(tracebacks=True).format(record_with_error("bad"))
    assert "\n" not in with_traceback
    assert "Traceback" in with_traceback


def test_ready_file_is_whole(tmp_path: Path) -> None:
    class Running:
        peer_id = "12D3"
        addresses = ("/ip4/127.0.0.1/tcp/1",)
        base_url = "http://127.0.0.1:1/v1"

    path = tmp_path / "run" / "ready.json"
    write_ready_file(path, ready_facts("gateway", Running()))
    facts = json.loads(path.read_text())
    assert facts["role"] == "gateway"
    assert facts["addresses"] == ["/ip4/127.0.0.1/tcp/1"]
    assert facts["base_url"] == "http://127.0.0.1:1/v1"
    assert list(path.parent.iterdir()) == [path]


def test_settings_are_shown_without_secrets() -> None:
    from bootstrap.settings import BootstrapSettings

    network = "t-" + "0" * 32
    settings = BootstrapSettings(
        Path("/d"), network, Path("/c"), Path("/n"), database_url="postgresql://u:secret@h/d"
    )
    assert "secret" not in describe(settings)
    assert network in describe(settings)


def shown(table: Table) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_tables() -> None:
    node = {"role": "node", "peer_id": "x", "models": [{"name": "m"}], "last_seen_ms": 1_000}
    text = shown(peers_table([node, {"role": "gateway", "peer_id": "y"}], 3_000))
    assert "2 s ago" in text
    assert text.index("gateway") < text.index("node")
    model = {"name": "m", "digest": "ab" * 32, "input_microcredits_per_million_tokens": 500_000}
    assert "0.500000" in shown(models_table([model]))


def test_only_lists_are_shown() -> None:
    assert rows_of({"peers": [{"a": 1}]}, "peers") == [{"a": 1}]
    for answer in ({"error": 1}, [], {"models": 1}, {"models": [1]}):
        with pytest.raises(GatewayCallError, match="no list of models"):
            rows_of(answer, "models")


def test_status_line() -> None:
    status = {"nodes_connected": 2, "nodes_known": 3, "jobs_running": 1, "jobs_done": 7}
    assert status_line(status).plain == "2 of 3 nodes connected, 1 jobs running, 7 done"
    assert "gone" in status_line({"error": "gone"}).plain
