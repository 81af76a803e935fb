"""Owns `node models add|list|show|verify|restore|remove`: the model files of a node."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from node.errors import ModelFileError
from node.store.adding import Adder, Keeping, Wishes, parse_digest
from node.store.http_client import open_client
from node.store.leftovers import find_leftovers, remove_leftovers
from node.store.manifest import StoredModel, manifest_facts
from node.store.settings import ModelStoreSettings
from node.store.sources import parse_source
from node.store.store import ModelStore
from resultity.errors import SettingsError
from resultity.role_process import one_line, reported_errors
from resultity.settings_sources import collect_settings, default_data_dir, read_table
from resultity.transfer_progress import TransferProgress

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)


def store_options(function: F) -> F:
    """Add the options that say which store is meant."""
    for option in (
        click.option("--config", type=EXISTING, help="TOML file with a table [node]."),
        click.option("--models-dir", type=PATH, help="Default: models in the data folder."),
        click.option("--data-dir", type=PATH, help="Of the node."),
    ):
        function = option(function)
    return function


def _settings(given: dict[str, Any]) -> ModelStoreSettings:
    config: Path | None = given.pop("config")
    names = {field.name for field in dataclasses.fields(ModelStoreSettings)}
    table = read_table(config, "node") if config is not None else {}
    own = {name: value for name, value in table.items() if name in names}
    if (
        given.get("data_dir") is None
        and "RESULTITY_NODE_DATA_DIR" not in os.environ
        and "data_dir" not in own
    ):
        given["data_dir"] = default_data_dir() / "node"
    try:
        settings = collect_settings(ModelStoreSettings, "node", given, os.environ, own)
    except SettingsError as error:
        raise click.UsageError(one_line(error)) from error
    assert isinstance(settings, ModelStoreSettings)
    return settings


def _store(settings: ModelStoreSettings) -> ModelStore:
    os.umask(0o077)
    return ModelStore(settings.folder, size_bytes_max=settings.models_disk_bytes_max)


@click.group()
def models() -> None:
    """Keep the model files of a node: get them, check them, remove them."""


@models.command("add")
@click.argument("source")
@click.option("--name", help="What the model is called here; default: what it calls itself.")
@click.option("--sha256", help="The digest that the file must have.")
@click.option("--copy", is_flag=True, help="Copy a file; default: a hard link where possible.")
@click.option("--in-place", is_flag=True, help="Leave a file where it is, and only describe it.")
@click.option("--allow-http", is_flag=True, help="Take a URL that is not https.")
@click.option("--restart", is_flag=True, help="Forget what was downloaded before.")
@click.option("--disk-bytes-max", "models_disk_bytes_max", type=click.IntRange(0),
              help="What all files of the store may take together.")  # fmt: skip
@click.option("--hub-endpoint", help="Model hub; default: HF_ENDPOINT or https://huggingface.co.")
@click.option("--hub-token-file", type=EXISTING, help="File (0600) with a token for the hub.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@store_options
def add(
    source: str,
    name: str | None,
    sha256: str | None,
    copy: bool,
    in_place: bool,
    allow_http: bool,
    restart: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Add a model from a file, an https URL, or a hub (hf:owner/repo[/file.gguf][@revision]).

    A download that breaks is kept: the same command goes on where it ended. The token for the hub
    comes from --hub-token-file or RESULTITY_NODE_HUB_TOKEN.
    """
    if copy and in_place:
        raise click.UsageError("--copy and --in-place exclude each other")
    with reported_errors():
        settings = _settings(given)
        found = parse_source(source, allow_http=allow_http, exists=Path(source).exists())
        wishes = Wishes(
            name=name,
            digest=parse_digest(sha256) if sha256 is not None else None,
            keeping=Keeping.COPY if copy else Keeping.IN_PLACE if in_place else Keeping.LINK,
            allow_http=allow_http,
            restart=restart,
        )
        with TransferProgress(quiet=quiet) as shown:
            hub = settings.hub(os.environ)
            adder = Adder(_store(settings), shown.stage, shown.say, hub, open_client)
            model = adder.add(found, wishes)
    click.echo(f"{model.name}: sha256 {model.digest.hex()}, {model.state}")


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One line for each model.")
@store_options
def list_models(as_json: bool, **given: Any) -> None:
    """List the models, their state, and why they are in it."""
    with reported_errors():
        store = _store(_settings(given))
        found = store.models()
        if as_json:
            for model in found:
                click.echo(json.dumps(manifest_facts(model)))
            return
        _print_table(found)
        left = find_leftovers(store)
        if left:
            size = sum(path.stat().st_size for path in left if path.exists())
            click.echo(
                f"{len(left)} files ({size:,} bytes) belong to no model: unfinished downloads and "
                "what did not verify; `node models remove --leftovers` deletes them",
                err=True,
            )


def _print_table(found: tuple[StoredModel, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("model", "state", "bytes", "quantisation", "context", "sha256", "why"):
        table.add_column(title, justify="right" if title in ("bytes", "context") else "left")
    for model in found:
        table.add_row(
            model.name,
            str(model.state),
            f"{model.size_bytes:,}",
            model.quantisation,
            f"{model.context_tokens:,}",
            model.digest.hex()[:12],
            model.reason,
        )
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


@models.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True)
@store_options
def show(name: str, as_json: bool, **given: Any) -> None:
    """Show everything that is known of a model."""
    with reported_errors():
        facts = manifest_facts(_store(_settings(given)).get(name))
        if as_json:
            click.echo(json.dumps(facts))
            return
        for key, value in facts.items():
            if key != "stamp":
                shown = ", ".join(value) if isinstance(value, list | tuple) else value
                click.echo(f"{key:22} {shown}")


@models.command("verify")
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Every model of the store.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@store_options
def verify(name: str | None, everything: bool, quiet: bool, **given: Any) -> None:
    """Read model files whole again and compare them with their digests.

    What is not right is not loaded any more. Exit code 1 if there is any.
    """
    if (name is None) != everything:
        raise click.UsageError("give the NAME of a model, or --all")
    with reported_errors():
        store = _store(_settings(given))
        names = [model.name for model in store.models()] if name is None else [name]
        wrong = 0
        with TransferProgress(quiet=quiet) as shown:
            for each in names:
                try:
                    model = store.verify(each, shown.stage(f"verifying {each}"))
                except ModelFileError as error:
                    wrong += 1
                    click.echo(f"Error: {one_line(error)}", err=True)
                else:
                    click.echo(f"{each}: right, {model.state}")
        if wrong:
            raise click.exceptions.Exit(1)


@models.command("restore")
@click.argument("name")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@store_options
def restore(name: str, quiet: bool, **given: Any) -> None:
    """Take back a model that was archived (`remove --keep-file`); its file is verified first."""
    with reported_errors(), TransferProgress(quiet=quiet) as shown:
        model = _store(_settings(given)).restore(name, shown.stage("verifying"))
    click.echo(f"{model.name}: {model.state}")


@models.command("remove")
@click.argument("name", required=False)
@click.option("--keep-file", is_flag=True, help="Only archive it: kept, but never loaded.")
@click.option("--leftovers", is_flag=True, help="Delete what belongs to no model instead.")
@store_options
def remove(name: str | None, keep_file: bool, leftovers: bool, **given: Any) -> None:
    """Remove a model, and its file if no other model has it.

    A file that was added with --in-place is never deleted. Nodes that run stop serving the model.
    """
    if (name is None) != leftovers or (leftovers and keep_file):
        raise click.UsageError("give the NAME of a model, or --leftovers")
    with reported_errors():
        store = _store(_settings(given))
        if name is None:
            count, size = remove_leftovers(store)
            click.echo(f"{count} files removed, {size:,} bytes")
        elif keep_file:
            click.echo(f"{name}: {store.archive(name).state}")
        else:
            click.echo(f"{name}: removed, {store.remove(name):,} bytes deleted")
