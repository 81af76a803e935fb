"""Owns `subcloud new|check`: policy files, without keys and network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from p2p.clock import system_clock_ms
from p2p.errors import MalformedError
from p2p.files import write_atomically
from p2p.subclouds.identity import check_label
from resultity.commands.options import EXISTING, PATH
from resultity.errors import DataFolderError, SettingsError
from resultity.role_process import reported_errors
from resultity.subclouds.notes import notes_about
from resultity.subclouds.policy_file import (
    NOBODY,
    Origin,
    PolicyFile,
    read_policy_file,
)
from resultity.subclouds.template import EXAMPLES, example, template
from resultity.subclouds.yaml_nodes import FILE_BYTES_MAX, PolicyFileError


@contextmanager
def reported_problems(path: Path) -> Iterator[None]:
    """Print what is wrong in a policy file, a line each, and exit with 1."""
    try:
        yield
    except PolicyFileError as error:
        for line in str(error).splitlines():
            click.echo(f"{path}: {line}", err=True)
        raise click.exceptions.Exit(1) from error


def load_policy_file(path: Path) -> PolicyFile:
    """Read a policy file. Raises: PolicyFileError, DataFolderError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        return read_policy_file(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataFolderError(f"{path} is not a text in UTF-8: {error.reason}") from error


@click.command("new")
@click.argument("file", type=PATH)
@click.option("--name", help="Of the subcloud; default: the file's name.")
@click.option("--from", "which", type=click.Choice(EXAMPLES), help="Begin with an example.")
def new(file: Path, name: str | None, which: str | None) -> None:
    """Write a policy file to begin with: every field explained, or an example.

    Each example has a page of its own in docs/how-to.
    """
    with reported_errors():
        if file.exists():
            raise DataFolderError(f"{file} exists already: choose another name")
        label = name or (None if which else file.stem)
        if label is not None:
            try:
                check_label(label)
            except MalformedError as error:
                raise SettingsError(f"{error}: give --name") from error
        text = example(which, label) if which else template(label or "")
        write_atomically(file, text.encode())
        click.echo(f"{file} is a beginning: edit it, then `resultity subcloud check {file}`")


@click.command("check")
@click.argument("file", type=EXISTING)
def check(file: Path) -> None:
    """Say everything that is wrong in FILE, each with its line and column; 1 if anything is.

    Needs no network. What is allowed but hardly meant is noted.
    """
    with reported_errors(), reported_problems(file):
        found = load_policy_file(file)
        policy = found.policy(Origin(NOBODY.network, NOBODY.owner, system_clock_ms()))
        for note in notes_about(policy):
            click.echo(f"{file}: note: {note}", err=True)
        click.echo(f"{file}: the policy of {found.name} is well-formed")
