"""Owns `resultity ask`: one question, streamed, with the client that everybody uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resultity.accounts import show_credits
from resultity.errors import GatewayCallError
from resultity.role_process import reported_errors
from resultity.targets import Target, find_target

ANSWER_TIMEOUT_S = 600.0


@click.command()
@click.argument("question")
@click.option("--model", help="Default: the first one that the gateway lists.")
@click.option("--base-url", help="Default: OPENAI_BASE_URL, or the local network.")
@click.option("--api-key", help="Default: RESULTITY_API_KEY, OPENAI_API_KEY, or the local key.")
@click.option("--max-tokens", type=click.IntRange(1))
@click.option("--verbose", is_flag=True, help="Tokens and price on stderr afterwards.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Of the local network.")
def ask(
    question: str,
    model: str | None,
    base_url: str | None,
    api_key: str | None,
    max_tokens: int | None,
    verbose: bool,
    data_dir: Path | None,
) -> None:
    """Ask a model and stream its answer."""
    with reported_errors():
        _ask(find_target(base_url, api_key, data_dir), question, model, max_tokens, verbose)


def _ask(
    target: Target, question: str, model: str | None, max_tokens: int | None, verbose: bool
) -> None:
    import openai

    client = openai.OpenAI(
        base_url=target.base_url, api_key=target.api_key, timeout=ANSWER_TIMEOUT_S, max_retries=1
    )
    options: dict[str, Any] = {"max_tokens": max_tokens} if max_tokens else {}
    facts: dict[str, Any] = {}
    usage: Any = None
    try:
        chosen = model or _first_model(client)
        stream = client.chat.completions.create(
            model=chosen,
            messages=[{"role": "user", "content": question}],
            stream=True,
            stream_options={"include_usage": True},
            **options,
        )
        for chunk in stream:
            usage = chunk.usage or usage
            facts = (chunk.model_extra or {}).get("resultity") or facts
            if chunk.choices:
                click.echo(chunk.choices[0].delta.content or "", nl=False)
        click.echo()
    except openai.OpenAIError as error:
        raise GatewayCallError(_explain(error, target.base_url)) from error
    if verbose and usage is not None:
        price = facts.get("price_microcredits")
        cost = f", {show_credits(price)} credits" if isinstance(price, int) else ""
        click.echo(
            f"{chosen}: {usage.prompt_tokens} tokens in, {usage.completion_tokens} out{cost}",
            err=True,
        )


def _first_model(client: Any) -> str:
    models = client.models.list().data
    if not models:
        raise GatewayCallError("the gateway offers no model now: no node serves one")
    return str(models[0].id)


def _explain(error: Exception, base_url: str) -> str:
    body = getattr(error, "body", None)
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    if type(error).__name__ == "APIConnectionError":
        return f"cannot reach {base_url}: does it run?"
    return str(error)
