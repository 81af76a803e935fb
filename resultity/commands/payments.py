"""Owns `payments run|new-secret` and `payments test-provider pay`: credit for money."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from pathlib import Path

import click

from p2p.clock import system_clock_ms
from p2p.identity import load_key
from p2p.types import is_account_id
from resultity.accounts import parse_credits
from resultity.commands.options import EXISTING, PATH
from resultity.errors import SettingsError
from resultity.folder_lock import locked_folder
from resultity.log_setup import LEVELS, set_up_logging
from resultity.payments.limits import PROVIDER_CHARACTERS_MAX
from resultity.payments.practice_provider import ATTEMPTS, PracticeProvider, event_body
from resultity.payments.webhook_secrets import load_secrets, store_new_secret
from resultity.role_process import reported_errors
from resultity.settings_sources import default_data_dir
from resultity.targets import find_gateway, find_network, local_folders

_PROVIDER = re.compile(r"[a-z0-9][a-z0-9-]*")
_RATE = re.compile(r"([A-Z]{3})=([1-9][0-9]{0,11})")


@click.group()
def payments() -> None:
    """Take payments: webhooks of payment providers become credit."""


@payments.command("run")
@click.option(
    "--webhook-secret-file",
    "secret_files",
    metavar="[NAME=]FILE",
    multiple=True,
    required=True,
    help="Secret of a provider (repeatable); default NAME: webhook.",
)
@click.option("--mint-key", type=EXISTING, help="Signs the grants; default: the local network's.")
@click.option("--gateway", help="Way to the ledger; default: the local network's.")
@click.option("--network", "network_id", help="Default: the local network's ID.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8430, show_default=True)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    metavar="CUR=N",
    help="Microcredits for a currency's smallest unit, as EUR=10000 (repeatable).",
)
@click.option("--event-cap", default="1000", show_default=True, help="Credits of one event.")
@click.option("--day-cap", default="10000", show_default=True, help="Credits of one UTC day.")
@click.option("--data-dir", type=PATH, help="Folder of the journal; default <data>/payments.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--ready-file", type=PATH, help="Written (JSON) when webhooks are taken.")
def run(
    secret_files: tuple[str, ...],
    mint_key: Path | None,
    gateway: str | None,
    network_id: str | None,
    host: str,
    port: int,
    rates: tuple[str, ...],
    event_cap: str,
    day_cap: str,
    data_dir: Path | None,
    log_level: str,
    ready_file: Path | None,
) -> None:
    """Take webhooks until SIGINT or SIGTERM.

    Each payment becomes a grant, once, however often its webhook comes. It listens on the loopback:
    put a reverse proxy with TLS in front of it.
    """
    from resultity.payments.serving import PaymentSettings, providers_of, serve

    os.umask(0o077)
    with reported_errors():
        folder = data_dir or default_data_dir() / "payments"
        settings = PaymentSettings(
            load_key(mint_key or local_folders(None).network.mint_path),
            find_network(network_id, None),
            find_gateway(gateway, None),
            dict(_secrets_of(text) for text in secret_files),
            dict(_rate_of(text) for text in rates),
            parse_credits(event_cap),
            parse_credits(day_cap),
            folder,
            host,
            port,
        )
        if len(settings.secrets) != len(secret_files):
            raise SettingsError("each payment provider is named once")
        providers = providers_of(settings)
        with locked_folder(folder):
            set_up_logging(log_level, folder / "logs" / "payments.log", quiet=False)
            serve(settings, providers, ready_file)


@payments.command("new-secret")
@click.argument("file", type=PATH)
def new_secret(file: Path) -> None:
    """Make a webhook secret in FILE (0600); the provider gets the same text."""
    with reported_errors():
        store_new_secret(file)
        click.echo(f"{file} has a new secret: give it to the provider in private")


@payments.group("test-provider")
def test_provider() -> None:
    """Play a payment provider, to try webhooks out."""


@test_provider.command("pay")
@click.option("--account", required=True, help="Account ID of who has paid.")
@click.option("--amount", "credits_text", required=True, metavar="CREDITS")
@click.option("--namespace", default="default", show_default=True)
@click.option("--webhook-url", required=True, help="http://127.0.0.1:8430/webhooks/webhook")
@click.option("--secret-file", type=EXISTING, required=True, help="The same as at the other side.")
@click.option("--event-id", help="With --count 1; default: a new one.")
@click.option("--reference", default="", help="Shown in the account's statement.")
@click.option("--count", type=click.IntRange(1, 1000), default=1, show_default=True,
              help="Payments, each an event of its own.")  # fmt: skip
@click.option("--repeat", type=click.IntRange(1, 100), default=1, show_default=True,
              help="Send each event so often, in any order, some at the same time.")  # fmt: skip
@click.option("--attempts", type=click.IntRange(1, 100), default=ATTEMPTS, show_default=True,
              help="Of each delivery that is not answered, with growing pauses.")  # fmt: skip
def pay(
    account: str,
    credits_text: str,
    namespace: str,
    webhook_url: str,
    secret_file: Path,
    event_id: str | None,
    reference: str,
    count: int,
    repeat: int,
    attempts: int,
) -> None:
    """Send signed webhooks of payments that succeeded; one JSON line for each delivery."""
    if event_id is not None and count > 1:
        raise click.UsageError("--event-id names one event: leave --count out")
    with reported_errors():
        if not is_account_id(account):
            raise SettingsError(f"not an account ID (acct-<40 hex digits>): {account[:60]!r}")
        amount = parse_credits(credits_text)
        names = [event_id or f"evt_{secrets.token_hex(12)}" for _ in range(count)]
        events = {n: event_body(n, account, namespace, amount, reference) for n in names}
        provider = PracticeProvider(
            webhook_url,
            load_secrets(secret_file),
            clock_s=lambda: system_clock_ms() // 1000,
            sleep=time.sleep,
            attempts=attempts,
        )
        deliveries = provider.deliver_all(events, repeat)
        for found in deliveries:
            facts = {"event": found.event_id, "status": found.status, "attempts": found.attempts}
            click.echo(json.dumps({**facts, "answer": found.answer[:500]}))
        if not all(found.taken for found in deliveries):
            raise click.ClickException("not every delivery was taken")


def _secrets_of(text: str) -> tuple[str, tuple[bytes, ...]]:
    name, separator, path = text.partition("=")
    if not separator:
        name, path = "webhook", text
    if not _PROVIDER.fullmatch(name) or len(name) > PROVIDER_CHARACTERS_MAX:
        raise SettingsError(f"a payment provider's name is of a-z, 0-9 and -: {name[:40]!r}")
    return name, load_secrets(Path(path))


def _rate_of(text: str) -> tuple[str, int]:
    match = _RATE.fullmatch(text)
    if match is None:
        raise SettingsError(f"a rate has the form EUR=10000, not {text[:40]!r}")
    return match[1], int(match[2])
