"""Every command that the documentation names exists, with the options that it is given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from resultity.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SAID = re.compile(r"(?:^|[`(\s])resultity ([a-z][^`\n]*)")
ELSEWHERE = {"decisions", "cli.md"}
"""What was decided once, and what is made from the commands themselves."""


def complaint(words: list[str]) -> str:
    """What is wrong with a command; empty if nothing is."""
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        if found is None:
            return f"there is no command {words[0]!r}"
        command, context, words = found, click.Context(found, parent=context), words[1:]
    options = {name for option in command.params for name in option.opts + option.secondary_opts}
    given = {word.split("=")[0] for word in words if re.match("--?[a-z]", word)}
    unknown = given - options - {"--help"}
    return f"{context.command_path} has no {sorted(unknown)}" if unknown else ""


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if not ELSEWHERE & {*page.parts}],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_commands_are_there(page: Path) -> None:
    found = []
    for said in SAID.finditer(page.read_text().replace("\\\n", " ")):
        text = re.split(r"[#|>)]| (?:and|or|is|does|asks|has|with) ", said[1])[0]
        try:
            words = shlex.split(text)
        except ValueError:
            continue  # a sentence with an apostrophe
        if problem := complaint(words):
            found.append(f"resultity {text}: {problem}")
    assert not found
