"""Owns `resultity ask`: one question, streamed, with the client that everybody uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resultity.accounts import show_credits
from resultity.bills import save_bill
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
@click.option("--accept-unverified", is_flag=True, help="Models may answer that nobody can verify.")
@click.option("--verbose", is_flag=True, help="Tokens and price on stderr afterwards.")
@click.option(
    "--save",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the bill in this folder, for `receipt verify`.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Of the local network.")
def ask(
    question: str,
    model: str | None,
    base_url: str | None,
    api_key: str | None,
    max_tokens: int | None,
    accept_unverified: bool,
    verbose: bool,
    save: Path | None,
    data_dir: Path | None,
) -> None:
    """Ask a model and stream its answer."""
    with reported_errors():
        target = find_target(base_url, api_key, data_dir)
        options: dict[str, Any] = {"max_tokens": max_tokens} if max_tokens else {}
        if accept_unverified:
            options["extra_body"] = {"resultity": {"accept_unverified": True}}
        _ask(target, question, model, options, verbose, save)


def _ask(
    target: Target,
    question: str,
    model: str | None,
    options: dict[str, Any],
    verbose: bool,
    save: Path | None,
) -> None:
    import openai

    from resultity.recording_client import RecordingClient

    client = RecordingClient(
        target.base_url, target.api_key, timeout_s=ANSWER_TIMEOUT_S, retries_max=1
    )
    facts: dict[str, Any] = {}
    usage: Any = None
    text = ""
    try:
        chosen = model or client.first_model()
        stream = client.openai.chat.completions.create(
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
                text += chunk.choices[0].delta.content or ""
                click.echo(chunk.choices[0].delta.content or "", nl=False)
        click.echo()
    except openai.OpenAIError as error:
        raise GatewayCallError(explain_failure(error, target.base_url)) from error
    if save is not None:
        save_bill(save, target.base_url, client.request, text, str(facts.get("receipt", "")))
    if verbose and usage is not None:
        price = facts.get("price_microcredits")
        cost = f", {show_credits(price)} credits" if isinstance(price, int) else ""
        click.echo(
            f"{chosen}: {usage.prompt_tokens} tokens in, {usage.completion_tokens} out{cost}",
            err=True,
        )


def explain_failure(error: Exception, base_url: str) -> str:
    """Say in one line why a question was not answered, and which option helps if one does."""
    body = getattr(error, "body", None)
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        hint = " Here: --accept-unverified." if body.get("code") == "unverified_model" else ""
        return str(body["message"]) + hint
    if type(error).__name__ == "APIConnectionError":
        return f"cannot reach {base_url}: does it run?"
    return str(error)
