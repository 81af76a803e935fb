"""Settings: which source wins, how texts become values, what a complaint says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node.agent.admission_rules import OperatorRules
from node.settings import NodeSettings
from p2p.errors import MalformedError
from resultity.errors import SettingsError
from resultity.settings_sources import collect_settings, default_data_dir, read_table


@dataclass(frozen=True, slots=True)
class ToySettings:
    network: str
    data_dir: Path
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    slots: int | None = None
    grace_s: float = 5.0
    open: bool = False

    def __post_init__(self) -> None:
        if self.slots is not None and self.slots < 1:
            raise ValueError("slots must be at least 1")


def collect(
    options: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    table: dict[str, Any] | None = None,
) -> ToySettings:
    base = {"network": "n", "data_dir": "/d"}
    made = collect_settings(
        ToySettings, "node", base | (options or {}), environment or {}, table or {}
    )
    assert isinstance(made, ToySettings)
    return made


def test_option_beats_environment_beats_file_beats_default() -> None:
    environment, table = {"RESULTITY_NODE_SLOTS": "2"}, {"slots": 3}
    assert collect({"slots": 1}, environment, table).slots == 1
    assert collect({"slots": None}, environment, table).slots == 2
    assert collect({}, {}, table).slots == 3
    assert collect().slots is None


def test_texts_become_values() -> None:
    made = collect(
        environment={
            "RESULTITY_NODE_LISTEN": "/ip4/1.2.3.4/tcp/1, /ip4/1.2.3.4/tcp/2",
            "RESULTITY_NODE_GRACE_S": "2.5",
            "RESULTITY_NODE_OPEN": "yes",
        }
    )
    assert made.listen == ("/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/2")
    assert made.grace_s == 2.5
    assert made.open is True
    assert made.data_dir == Path("/d")


@pytest.mark.parametrize(
    ("environment", "table", "complaint"),
    [
        ({"RESULTITY_NODE_SLOTS": "many"}, {}, "RESULTITY_NODE_SLOTS must be a whole number"),
        ({}, {"slots": 1.5}, r"\[node\] slots must be a whole number"),
        ({}, {"slots": True}, "whole number"),
        ({}, {"grace_s": "soon"}, "must be a number"),
        ({}, {"open": "perhaps"}, "true or false"),
        ({}, {"listen": 7}, "must be a list"),
        ({}, {"colour": "red"}, r"\[node\] has no setting 'colour': known are network"),
        ({"RESULTITY_NODE_SLOTS": "0"}, {}, "node: slots must be at least 1"),
    ],
)
def test_a_complaint_names_the_setting(
    environment: dict[str, str], table: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        collect({}, environment, table)


def test_a_missing_setting_says_where_it_may_stand() -> None:
    with pytest.raises(SettingsError, match=r"--data-dir, RESULTITY_NODE_DATA_DIR, or data_dir"):
        collect_settings(ToySettings, "node", {"network": "n"}, {}, {})


def test_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('[node]\nslots = 4\nlisten = ["/ip4/0.0.0.0/tcp/4001"]\n[gateway]\nx = 1\n')
    made = collect({}, {}, read_table(file, "node"))
    assert made.slots == 4
    assert made.listen == ("/ip4/0.0.0.0/tcp/4001",)
    assert read_table(file, "bootstrap") == {}


def test_bad_toml_files(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    with pytest.raises(SettingsError, match="cannot read"):
        read_table(file, "node")
    file.write_text("[node")
    with pytest.raises(SettingsError, match="not valid TOML"):
        read_table(file, "node")
    file.write_text("node = 1")
    with pytest.raises(SettingsError, match="must be a table"):
        read_table(file, "node")


def test_data_dir_from_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESULTITY_DATA_DIR", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("RESULTITY_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert default_data_dir() == tmp_path / "xdg" / "resultity"


# --- tables of their own ------------------------------------------------------------------------
def collect_node(environment: dict[str, str], table: dict[str, Any]) -> NodeSettings:
    base = {"network": "n-" + "0" * 32, "data_dir": "/d", "bootstraps": ("/x",), "model": "m"}
    made = collect_settings(NodeSettings, "node", base, environment, table)
    assert isinstance(made, NodeSettings)
    return made


def test_rules_are_a_table_of_their_own() -> None:
    assert collect_node({}, {}).rules == OperatorRules()
    table = {"rules": {"models": ["tiny-*"], "jobs_max": 3, "schedule": ["mon 09:00-10:00"]}}
    environment = {"RESULTITY_NODE_RULES_JOBS_MAX": "2", "RESULTITY_NODE_RULES_MODELS": "a,b"}
    made = collect_node({}, table).rules
    assert (made.models, made.jobs_max, made.schedule) == (("tiny-*",), 3, ("mon 09:00-10:00",))
    assert collect_node(environment, table).rules.models == ("a", "b")
    assert collect_node(environment, table).rules.jobs_max == 2


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"rules": 5}, "node.rules.* must be a table"),
        ({"rules": {"model": ["x"]}}, r"\[node.rules\] has no setting 'model'"),
        ({"rules": {"jobs_max": "many"}}, r"\[node.rules\] jobs_max must be a whole number"),
        ({"rules": {"jobs_max": 0}}, "jobs_max must be at least 1"),
        ({"rules": {"schedule": ["sometimes"]}}, "'sometimes' is not a window"),
    ],
)
def test_rules_that_are_wrong(table: dict[str, Any], words: str) -> None:
    with pytest.raises((SettingsError, MalformedError), match=words):
        collect_node({}, table)
