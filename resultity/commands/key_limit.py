"""Owns `key limit`: other limits for an API key that is in use."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.account_file import load_account
from p2p.account_messages import KeyLimitsChange, KeySummary
from p2p.clock import system_clock_ms
from p2p.key_limits import RATE_MAX, KeyLimits
from resultity.accounts import parse_credits
from resultity.api_keys import key_as_record, key_as_text, parse_gateway, parse_source, read_keys
from resultity.commands.options import EXISTING, PATH
from resultity.courier import Courier
from resultity.errors import SettingsError
from resultity.key_subclouds import ANY, finder, with_subclouds
from resultity.role_process import reported_errors
from resultity.targets import find_gateway, find_network, local_folders

MILLISECONDS_PER_DAY = 86_400_000


@click.command("limit")
@click.argument("key_id")
@click.option("--namespace", default="default", show_default=True)
@click.option("--expires-days", type=click.IntRange(0, 3650), help="From now; 0: never.")
@click.option("--credit-cap", help="Credits that it may spend in total; 0: no cap.")
@click.option("--credits-per-day", help="Credits that it may spend on a UTC day; 0: no cap.")
@click.option("--requests-per-minute", type=click.IntRange(0, RATE_MAX), help="0: no limit.")
@click.option("--tokens-per-minute", type=click.IntRange(0, RATE_MAX), help="0: no limit.")
@click.option("--model", "models", multiple=True, help="Models that it may use, or `any`.")
@click.option("--allow-gateway", "gateways", multiple=True, help="Peer IDs, or `any`.")
@click.option("--source", "sources", multiple=True, help="Networks (CIDR), or `any`.")
@click.option("--subcloud", "subclouds", multiple=True, help="ID or name, `global`, or `any`.")
@click.option("--default-subcloud", help="Where requests go that name none; `global`: the pool.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--account-file", type=EXISTING, help="Default: the local network's consumer.")
@click.option("--network", "network_id", help="Default: the local network's ID.")
@click.option("--gateway", help="Default: the local network's.")
@click.option("--data-dir", type=PATH, help="Of the local network.")
def limit(
    key_id: str,
    namespace: str,
    expires_days: int | None,
    credit_cap: str | None,
    credits_per_day: str | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    models: tuple[str, ...],
    gateways: tuple[str, ...],
    sources: tuple[str, ...],
    subclouds: tuple[str, ...],
    default_subcloud: str | None,
    as_json: bool,
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Change limits of an API key; those that are not named stay as they are.

    KEY_ID is the part between rk_ and the second underscore. Gateways that know the key follow
    within seconds; what is used already counts.
    """
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).consumer_account, network)
        url = find_gateway(gateway, data_dir)
        courier = Courier(url)

        def read() -> KeySummary:
            found = read_keys(courier, keys, network, namespace)
            for summary in found:
                if summary.key_id == key_id:
                    return summary
            raise SettingsError(f"the namespace {namespace} has no API key {key_id[:40]!r}")

        now, now_ms = read(), system_clock_ms()
        limits = with_subclouds(now.limits, subclouds, default_subcloud, finder(url, network))
        document = KeyLimitsChange(
            keys.account_id,
            key_id,
            now.limit_changes + 1,
            _expiry(expires_days, now.expires_ms, now_ms),
            _credits(credit_cap, now.credit_cap_total),
            _names(models, now.models),
            _names(tuple(g if g == ANY else parse_gateway(g) for g in gateways), now.gateways),
            KeyLimits(
                _credits(credits_per_day, limits.microcredits_per_day),
                limits.requests_per_minute if requests_per_minute is None else requests_per_minute,
                limits.tokens_per_minute if tokens_per_minute is None else tokens_per_minute,
                _names(tuple(s if s == ANY else parse_source(s) for s in sources), limits.networks),
                limits.subclouds,
                limits.default_subcloud,
            ),
            now_ms,
        )
        courier.operation(keys.signing.sign(network, document))
        after = read()
        if as_json:
            click.echo(json.dumps(key_as_record(after, now_ms)))
        else:
            click.echo(key_as_text(after, now_ms))


def _expiry(days: int | None, before_ms: int, now_ms: int) -> int:
    if days is None:
        return before_ms
    return now_ms + days * MILLISECONDS_PER_DAY if days else 0


def _credits(text: str | None, before: int) -> int:
    if text is None:
        return before
    return 0 if text.strip() == "0" else parse_credits(text)


def _names(given: tuple[str, ...], before: tuple[str, ...]) -> tuple[str, ...]:
    """Give the list that is meant. Raises: SettingsError (`any` beside names)."""
    if ANY in given and len(given) > 1:
        raise SettingsError(f"`{ANY}` stands alone")
    return () if given == (ANY,) else given or before
