"""Owns `subcloud steward`: the long-running process that keeps memberships going."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from types import FrameType

import click

from p2p.clock import system_clock_ms
from p2p.errors import P2PError
from p2p.identity import load_key
from resultity.account_invites import parse_duration_s
from resultity.errors import ResultityError
from resultity.folder_lock import locked_folder
from resultity.log_setup import set_up_logging
from resultity.role_process import one_line, reported_errors
from resultity.subclouds.delegate_target import DELEGATE_KEY, Where, with_where
from resultity.subclouds.steward import Steward, StewardRules
from resultity.subclouds.stewarding import StewardMemory

log = logging.getLogger("resultity.steward")
ROUND_S_MIN, ROUND_S_MAX = 1.0, 300.0


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--auto-approve", is_flag=True, help="Admit nodes that ask and would qualify.")
@click.option("--no-renew", is_flag=True, help="Let certificates end.")
@click.option("--certificates", "lifetime", default="7d", show_default=True,
              help="How long a certificate holds.")  # fmt: skip
@click.option("--interval", type=click.FloatRange(ROUND_S_MIN, ROUND_S_MAX), default=5.0,
              show_default=True, help="Seconds between two rounds.")  # fmt: skip
@click.option("--once", is_flag=True, help="One round, then end (for a timer).")
@click.option("--log-level", default="info", show_default=True,
              type=click.Choice(["debug", "info", "warning", "error"]))  # fmt: skip
@DELEGATE_KEY
@with_where
def steward(
    names: tuple[str, ...],
    auto_approve: bool,
    no_renew: bool,
    lifetime: str,
    interval: float,
    once: bool,
    log_level: str,
    delegate_key: Path,
    where: Where,
) -> None:
    """Look after subclouds until it is stopped: keep revocation lists young, renew certificates.

    It admits nobody by itself without --auto-approve, and needs no more than a gateway's URL and a
    delegate's key. While none runs, members stay in as long as their certificates and the
    revocation list hold.
    """
    with reported_errors():
        folder = where.folder() / "steward"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        rules = StewardRules(auto_approve, not no_renew, parse_duration_s(lifetime))
        with locked_folder(folder):
            set_up_logging(log_level, folder / "steward.log", quiet=False)
            key, client, memory = load_key(delegate_key), where.client(), where.memory()
            kept = StewardMemory(folder / "members.json")
            stewards = [
                Steward(client, key, name, rules, memory, kept, system_clock_ms) for name in names
            ]
            _keep_going(dict(zip(names, stewards, strict=True)), interval, once)


def _keep_going(stewards: dict[str, Steward], interval_s: float, once: bool) -> None:
    """Do rounds until a signal. Raises: with `once`, what a round raised."""
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    if not once:
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
    told: dict[str, str] = {}
    while not stop.is_set():
        for name, found in stewards.items():
            try:
                found.round()
            except (ResultityError, P2PError, OSError) as error:
                if once:
                    raise
                text = one_line(error)
                if told.get(name) != text:
                    log.warning("%s: %s (it is tried again)", name, text)
                told[name] = text
            else:
                if told.pop(name, ""):
                    log.info("%s: works again", name)
        if once:
            return
        stop.wait(interval_s)
    log.info("the steward ended")
