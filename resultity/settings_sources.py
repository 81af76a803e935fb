"""Owns where settings come from: option, then environment, then TOML file, then default.

Theory of operation. Each role has one frozen dataclass of settings. A field `context_tokens` of the
node is given by the option `--context-tokens`, the variable `RESULTITY_NODE_CONTEXT_TOKENS`, or the
line `context_tokens = 1024` in the table `[node]` of the file that `--config` names. The first of
these that is there wins. Fields with several values are repeated options, separated by commas in
the environment, and arrays in TOML. A field that is a dataclass itself is a table of its own:
`[node.rules]`, or `RESULTITY_NODE_RULES_...`.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resultity.errors import SettingsError

SETTINGS_BYTES_MAX = 256 * 1024
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def default_data_dir() -> Path:
    """The folder where state lives: RESULTITY_DATA_DIR, or the system's folder for user data."""
    given = os.environ.get("RESULTITY_DATA_DIR")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return platformdirs.user_data_path("resultity")


def read_table(path: Path, role: str) -> dict[str, Any]:
    """Read the table `[role]` of a TOML file. Raises: SettingsError."""
    try:
        if path.stat().st_size > SETTINGS_BYTES_MAX:
            raise SettingsError(f"{path} is larger than {SETTINGS_BYTES_MAX} bytes")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    table = document.get(role, {})
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: [{role}] must be a table")
    return table


def collect_settings(
    settings_class: Any,
    role: str,
    options: Mapping[str, Any],
    environment: Mapping[str, str],
    table: Mapping[str, Any],
) -> Any:
    """Make a role's settings from all sources.

    Args:
        options: what the command line gave; None and empty tuples mean "not given".
        table: the role's table of the TOML file, {} without one.
    Raises: SettingsError that names the setting and where it came from.
    """
    hints = typing.get_type_hints(settings_class)
    fields = {field.name: field for field in dataclasses.fields(settings_class)}
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise SettingsError(
            f"[{role}] has no setting {unknown[0]!r}: known are {', '.join(fields)}"
        )
    values: dict[str, Any] = {}
    for name, field in fields.items():
        variable = f"RESULTITY_{role.upper().replace('.', '_')}_{name.upper()}"
        if dataclasses.is_dataclass(hints[name]):
            own = table.get(name, {})
            if not isinstance(own, dict):
                raise SettingsError(f"[{role}.{name}] must be a table")
            values[name] = collect_settings(hints[name], f"{role}.{name}", {}, environment, own)
            continue
        option = options.get(name)
        if option is not None and option != ():
            values[name] = convert(option, hints[name], option_of(name))
        elif variable in environment:
            values[name] = convert(environment[variable], hints[name], variable)
        elif name in table:
            values[name] = convert(table[name], hints[name], f"[{role}] {name}")
        elif _is_required(field):
            raise SettingsError(
                f"{name} is missing: give {option_of(name)}, {variable}, "
                f"or {name} under [{role}] in a --config file"
            )
    try:
        return settings_class(**values)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{role}: {error}") from error


def option_of(name: str) -> str:
    """Give the command-line option of a settings field (a repeatable one is named in singular)."""
    return "--bootstrap" if name == "bootstraps" else f"--{name.replace('_', '-')}"


def convert(value: Any, hint: Any, where: str) -> Any:
    """Turn a text or TOML value into what a field wants. Raises: SettingsError."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        return convert(value, inner[0], where)
    hint = getattr(hint, "__supertype__", hint)
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise SettingsError(f"{where} must be a list")
        element = typing.get_args(hint)[0]
        return tuple(
            convert(item.strip() if isinstance(item, str) else item, element, where)
            for item in items
            if item != ""
        )
    if hint is bool:
        return _boolean(value, where)
    if hint is Path:
        if not isinstance(value, str | Path):
            raise SettingsError(f"{where} must be a path")
        return Path(value).expanduser()
    if hint in (int, float):
        return _number(value, hint, where)
    if not isinstance(value, str):
        raise SettingsError(f"{where} must be a text")
    return value


def _boolean(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in TRUE + FALSE:
        return value.lower() in TRUE
    raise SettingsError(f"{where} must be true or false, not {value!r}")


def _number(value: Any, kind: type, where: str) -> Any:
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        return kind(value)
    except (ValueError, TypeError) as error:
        word = "a whole number" if kind is int else "a number"
        raise SettingsError(f"{where} must be {word}, not {value!r}") from error


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing
