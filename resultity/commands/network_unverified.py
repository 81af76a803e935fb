"""Owns `network allow-unverified`: names for servers that nobody can verify."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pydantic

from p2p.clock import system_clock_ms
from p2p.network_configuration import UnverifiedModel
from resultity.commands.options import PATH
from resultity.errors import SettingsError
from resultity.model_approval import INPUT_PRICE, OUTPUT_PRICE
from resultity.network_files import NetworkFiles, sign_next
from resultity.role_process import reported_errors


@click.command("allow-unverified")
@click.argument("name")
@click.option("--data-dir", type=PATH, required=True, help="The founder's folder.")
@click.option("--context-tokens", type=click.IntRange(1), required=True,
              help="Longest prompt and answer together.")  # fmt: skip
@click.option("--input-price", type=click.IntRange(0), default=INPUT_PRICE, show_default=True,
              help="Ceiling: microcredits for 10^6 tokens read.")  # fmt: skip
@click.option("--output-price", type=click.IntRange(0), default=OUTPUT_PRICE, show_default=True,
              help="Ceiling: microcredits for 10^6 tokens written.")  # fmt: skip
@click.option("--image-tokens-max", type=click.IntRange(1),
              help="It takes images, each of so many tokens at most.")  # fmt: skip
def allow_unverified(
    name: str,
    data_dir: Path,
    context_tokens: int,
    input_price: int,
    output_price: int,
    image_tokens_max: int | None,
) -> None:
    """Let nodes offer servers of their own as NAME, to requests that accept that.

    Nobody can verify what such a server runs. A name that is listed already gets the new terms.
    """
    with reported_errors():
        try:
            entry = UnverifiedModel(
                name=name,
                context_tokens=context_tokens,
                input_microcredits_per_million_tokens=input_price,
                output_microcredits_per_million_tokens=output_price,
                modalities=("text",) if image_tokens_max is None else ("text", "image"),
                image_tokens_max=image_tokens_max,
            )
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise SettingsError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        files = NetworkFiles(data_dir)
        _, current = files.configuration()
        kept = tuple(model for model in current.unverified_models if model.name != name)
        edited = current.model_copy(update={"unverified_models": (*kept, entry)})
        configuration = sign_next(files, edited.model_dump_json(), system_clock_ms)
        click.echo(json.dumps({"version": configuration.version, "model": name}))
