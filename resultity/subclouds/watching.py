"""Owns `--watch`: shows something again when it has changed, and outlives a gateway's restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import click

from resultity.errors import GatewayCallError
from resultity.role_process import one_line

T = TypeVar("T")
INTERVAL_S = 2.0
HTTP_FAILED = 500


def show_changes(
    look: Callable[[], T],
    show: Callable[[T], str],
    *,
    watch: bool,
    essence: Callable[[T], object] = lambda seen: seen,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Print what is seen; with `watch` for ever, each time that its `essence` is another.

    Raises: what `look` raises, but while watching not that a gateway cannot be reached.
    """
    before: object = None
    trouble = ""
    while True:
        try:
            seen = look()
        except GatewayCallError as error:
            passing = error.status == 0 or error.status >= HTTP_FAILED
            if not watch or before is None or not passing:
                raise
            if one_line(error) != trouble:
                trouble = one_line(error)
                click.echo(f"{trouble} (it is tried again)", err=True)
        else:
            trouble = ""
            now = essence(seen)
            if now != before:
                click.echo(show(seen))
            before = now
        if not watch:
            return
        pause(INTERVAL_S)
