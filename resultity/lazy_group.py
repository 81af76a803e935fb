"""Owns a click group that imports a command's module only when that command is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click


class LazyGroup(click.Group):
    """A group whose commands are `name -> ("module:attribute", short help)`.

    The short help stands here, so that `--help` lists the commands without importing them.
    """

    def __init__(
        self, *args: object, lazy: Mapping[str, tuple[str, str]] | None = None, **rest: object
    ) -> None:
        super().__init__(*args, **rest)  # type: ignore[arg-type]
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in the order in which they were declared."""
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing the lazy ones."""
        rows = [(name, help_text) for name, (_, help_text) in self._lazy.items()]
        own = super().list_commands(ctx)
        rows += [(name, self.commands[name].get_short_help_str(limit=100)) for name in own]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
