"""`node.toml`: what is written is read back, and what the operator added stays."""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.settings_file import (
    SETTINGS_FILE,
    change_settings_file,
    read_settings_file,
    to_toml,
)
from p2p.errors import MalformedError

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
SCALARS = (
    st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | TEXTS
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.just(datetime.UTC))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_any_document_is_read_back(document: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(document)) == document


def test_joining_again_keeps_what_the_operator_added(tmp_path: Path) -> None:
    assert read_settings_file(tmp_path) == {}
    assert change_settings_file(tmp_path, {"network": "a", "listen": []})
    path = tmp_path / SETTINGS_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text('[node]\nnetwork = "a"\nslots = 4\nrules = {callers = ["x"]}\n[other]\na = 1\n')
    assert not change_settings_file(tmp_path, {"network": "a"})
    assert change_settings_file(tmp_path, {"network": "b", "slots": None, "model": "/m.gguf"})
    assert read_settings_file(tmp_path) == {
        "node": {"network": "b", "rules": {"callers": ["x"]}, "model": "/m.gguf"},
        "other": {"a": 1},
    }


@pytest.mark.parametrize("content", [b"[node", b"\xff", b"node = 1\n", b"#" * 300_000])
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SETTINGS_FILE).write_bytes(content)
    with pytest.raises(MalformedError):
        change_settings_file(tmp_path, {"network": "a"})
