"""Owns docs/reference/cli.md: made from the commands themselves, so that it is never out of date.

`python -m resultity.cli_reference > docs/reference/cli.md` writes it; a test compares it.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from resultity.__main__ import main

WIDTH = 100
INTRODUCTION = """# Command line

Made by `python -m resultity.cli_reference`. Errors are one line on stderr that starts with
`Error:`; exit codes: 0 done, 1 failed, 2 bad arguments or settings, 130 ended by a second signal.
`RESULTITY_DEBUG=1` shows tracebacks. Settings of the three roles may also come from the environment
or a file: see [settings.md](settings.md).
"""


def cli_reference() -> str:
    """Give the whole reference as Markdown."""
    root = click.Context(main, info_name="resultity", terminal_width=WIDTH)
    return INTRODUCTION + "".join(
        f"\n## {context.command_path}\n\n```\n{context.get_help()}\n```\n"
        for context in _commands(root)
    )


def _commands(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            inner = click.Context(command, parent=context, info_name=name, terminal_width=WIDTH)
            yield from _commands(inner)


if __name__ == "__main__":
    print(cli_reference(), end="")
