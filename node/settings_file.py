"""Owns `node.toml`: what a node that joined is run with, in its data folder.

`node join` writes it and `node run` reads it, like any file that `--config` names; the operator may
edit it. Joining again changes what joining decides and keeps the rest (but for comments).
"""

from __future__ import annotations

import datetime
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2p.errors import MalformedError
from p2p.files import write_atomically

SETTINGS_FILE = "node.toml"
_MODE = 0o600
_BYTES_MAX = 256 * 1024
_HEAD = """\
# How this node runs: `resultity node run` reads it. Written by `resultity node join`; add what you
# like under [node] (docs/reference/settings.md), joining again keeps it, but for comments.
"""


def read_settings_file(folder: Path) -> dict[str, Any]:
    """Give the whole of a folder's file; {} if there is none.

    Raises: MalformedError, OSError.
    """
    path = folder / SETTINGS_FILE
    if not path.exists():
        return {}
    if path.stat().st_size > _BYTES_MAX:
        raise MalformedError(f"{path} is larger than {_BYTES_MAX} bytes")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedError(f"{path} is not valid TOML: {error}") from error


def change_settings_file(folder: Path, changes: Mapping[str, Any]) -> bool:
    """Set these values of the table `[node]` (None: take it out); tells whether that changed it.

    Raises: as `read_settings_file`.
    """
    document = read_settings_file(folder)
    before = document.get("node", {})
    if not isinstance(before, dict):
        raise MalformedError(f"{folder / SETTINGS_FILE}: [node] must be a table")
    after = {**before, **changes}
    after = {name: value for name, value in after.items() if value is not None}
    if after == before:
        return False
    text = _HEAD + to_toml({**document, "node": after})
    write_atomically(folder / SETTINGS_FILE, text.encode(), _MODE)
    return True


def to_toml(document: Mapping[str, Any]) -> str:
    """Write a document as TOML; tables within tables are written in one line.

    https://toml.io/en/v1.0.0
    """
    lines = [
        f"{_key(name)} = {_value(value)}"
        for name, value in document.items()
        if not isinstance(value, dict)
    ]
    for name, table in document.items():
        if isinstance(table, dict):
            lines += ["", f"[{_key(name)}]"]
            lines += [f"{_key(inner)} = {_value(value)}" for inner, value in table.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case int():
            return str(value)
        case float():
            return repr(value)  # nan and inf are what TOML calls them
        case list() | tuple():
            return f"[{', '.join(_value(item) for item in value)}]"
        case dict():
            pairs = ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case _:
            raise MalformedError(f"TOML has no {type(value).__name__}")


def _key(name: str) -> str:
    plain = name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
    return name if plain else _text(name)


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
