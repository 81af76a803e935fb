"""Owns the process of payments: its providers, its socket, its end."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from p2p.clock import system_clock_ms
from p2p.errors import P2PError
from p2p.signing import KeyPair
from p2p.types import NetworkId
from resultity.courier import Courier
from resultity.errors import ResultityError, SettingsError
from resultity.payments.granting import Granter
from resultity.payments.http_app import make_app
from resultity.payments.journal import PaymentJournal
from resultity.payments.limits import (
    KEEP_ALIVE_S,
    REQUESTS_IN_FLIGHT_MAX,
    STOP_GRACE_S,
)
from resultity.payments.port import PaymentProvider
from resultity.payments.signed_webhook import SignedWebhook
from resultity.role_process import write_ready_file
from resultity.statements import fetch_configuration

log = logging.getLogger(__name__)
_BACKLOG = 128
_HEAD_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class PaymentSettings:
    """What the operator decides. Caps are microcredits; `data_dir` has the journal."""

    mint: KeyPair
    network: NetworkId
    gateway_url: str
    secrets: Mapping[str, Sequence[bytes]]
    rates: Mapping[str, int]
    event_cap: int
    day_cap: int
    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 0


def providers_of(settings: PaymentSettings) -> list[PaymentProvider]:
    """Make the providers. Raises: SettingsError if two of them share a secret."""
    every = [secret for secrets in settings.secrets.values() for secret in secrets]
    if len(set(every)) != len(every):
        raise SettingsError("each payment provider has secrets of its own")
    return [SignedWebhook(n, s, settings.rates) for n, s in settings.secrets.items()]


def serve(
    settings: PaymentSettings,
    providers: Sequence[PaymentProvider],
    ready_file: Path | None = None,
) -> None:
    """Take webhooks until SIGTERM or SIGINT. Raises: SettingsError."""
    listener = _listen(settings.host, settings.port)
    try:
        journal = PaymentJournal(settings.data_dir, settings.day_cap)
        granter = Granter(
            settings.mint,
            settings.network,
            Courier(settings.gateway_url),
            journal,
            event_cap=settings.event_cap,
            clock_ms=system_clock_ms,
        )
        app = make_app(providers, granter, lambda: system_clock_ms() // 1000)
        base_url = _url(settings.host, listener.getsockname()[1])
        if ready_file is not None:
            facts: dict[str, Any] = {"role": "payments", "pid": os.getpid(), "base_url": base_url}
            write_ready_file(ready_file, facts)
        log.info("takes webhooks at %s/webhooks/{%s}", base_url, ",".join(settings.secrets))
        _warn_of_mint_key(settings)
        _run(app, listener)
    finally:
        listener.close()


def _run(app: Any, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=REQUESTS_IN_FLIGHT_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_GRACE_S,
        h11_max_incomplete_event_size=_HEAD_BYTES_MAX,
    )
    # uvicorn raises the signal that ended it once more, for whoever had it before: nobody.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"cannot listen on {host} port {port}: {reason}") from error


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _warn_of_mint_key(settings: PaymentSettings) -> None:
    """Say at the start if the network does not take this mint key; webhooks are taken anyway."""
    try:
        _, configuration = fetch_configuration(settings.gateway_url, settings.network)
    except (ResultityError, P2PError) as error:
        log.warning("the network's configuration cannot be had now: %s", error)
        return
    if settings.mint.public_key not in configuration.mint_public_keys:
        log.error("the network's configuration does not name this mint key: nothing is granted")
