"""Owns the life of one role's process: its lock, its log, its signals, its ready file, its end.

Theory of operation. A role is `async def run(settings, *, task_status)`: it serves until it is
cancelled and tells through `task_status.started(...)` when it does. Here it gets a process: SIGINT
or SIGTERM cancels it (exit 0; a second signal ends the process at once), an error of ours becomes
one line on stderr (exit 1), anything else is a bug: one line as well, its traceback in the log.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import click
import trio

from resultity.folder_lock import locked_folder
from resultity.log_setup import debug_wanted, set_up_logging
from resultity.service_notice import ServiceNotice

log = logging.getLogger("resultity")
OUR_PACKAGES = ("p2p", "node", "bootstrap", "gateway", "ledger", "resultity")
EXIT_BY_SECOND_SIGNAL = 130
GARBAGE_THRESHOLDS = (10_000, 20, 50)
"""New objects before a collection; collections before the next older generation is looked at."""


def run_role(
    role: str,
    settings: Any,
    *,
    log_level: str,
    log_file: Path | None,
    quiet: bool,
    ready_file: Path | None,
) -> None:
    """Run one role in this process until a signal ends it.

    Args:
        settings: the role's settings; its `data_dir` is locked meanwhile.
        ready_file: written (atomically) when the role serves.
    Raises: click.ClickException with one line if the role cannot go on.
    """
    data_dir: Path = settings.data_dir
    os.umask(0o077)
    with reported_errors(), locked_folder(data_dir):
        set_up_logging(log_level, log_file or data_dir / "logs" / f"{role}.log", quiet=quiet)
        log.info("%s starts with %s", role, describe(settings))
        run = importlib.import_module(f"{role}.app").run
        trio.run(_serve, role, run, settings, ready_file)
        log.info("%s ended", role)


async def _serve(
    role: str, run: Callable[..., Any], settings: Any, ready_file: Path | None
) -> None:
    # The signals are watched until the role has ended, so that a second one during a slow end does
    # not have Python's default effect, a traceback.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as watchers:
            notice = ServiceNotice()
            ending = _Ending(notice)
            watchers.start_soon(ending.follow, signals, watchers)
            watchers.start_soon(notice.live)
            with ending.scope:
                async with trio.open_nursery() as nursery:
                    running = await nursery.start(run, settings)
                    ending.drain = getattr(running, "drain", None)
                    spare_the_collector()
                    facts = ready_facts(role, running)
                    log.info("%s serves as %s", role, facts["peer_id"])
                    if ready_file is not None:
                        write_ready_file(ready_file, facts)
                    notice.ready()
            watchers.cancel_scope.cancel()


def spare_the_collector() -> None:
    """Keep what was made at the start (modules, classes) out of every garbage collection.

    Measured with `make bench`: a seventh of the CPU time of a request in each role.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


class _Ending:
    """How a role ends: a first signal lets it finish what it has, the next one ends it, and one
    more ends the process whatever it does."""

    def __init__(self, notice: ServiceNotice) -> None:
        self._notice = notice
        self.scope = trio.CancelScope()
        self.drain: Callable[[], Awaitable[None]] | None = None
        self._draining = False

    async def follow(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for number in signals:
            name = signal.Signals(number).name
            self._notice.stopping()
            if self.scope.cancel_called:
                os._exit(EXIT_BY_SECOND_SIGNAL)
            if self.drain is not None and not self._draining:
                self._draining = True
                log.info("%s: takes no new work, and ends when it has finished", name)
                nursery.start_soon(self._finish, self.drain)
                continue
            log.info("ends because of %s", name)
            self.scope.cancel()

    async def _finish(self, drain: Callable[[], Awaitable[None]]) -> None:
        await drain()
        self.scope.cancel()


def ready_facts(role: str, running: Any) -> dict[str, Any]:
    """What others need to know of a role that serves: one JSON object."""
    facts: dict[str, Any] = {
        "role": role,
        "pid": os.getpid(),
        "peer_id": str(running.peer_id),
        "addresses": [str(address) for address in running.addresses],
    }
    base_url = getattr(running, "base_url", None)
    if base_url:
        facts["base_url"] = base_url
    return facts


def write_ready_file(path: Path, facts: dict[str, Any]) -> None:
    """Write the ready file so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def describe(settings: Any) -> str:
    """Show settings in one line; what may hold a secret is masked."""
    shown = []
    for name in sorted(settings.__dataclass_fields__):
        value = getattr(settings, name)
        secret = any(word in name for word in ("secret", "password", "database_url"))
        shown.append(f"{name}={'***' if secret and value else value}")
    return " ".join(shown)


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Turn what leaves the block into one line on stderr and exit code 1 (a click exception)."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        if debug_wanted():
            raise
        causes = list(_leaves(error))
        bugs = [cause for cause in causes if not is_ours(cause)]
        if not bugs:
            log.debug("ended by %s", type(causes[0]).__name__)
            raise click.ClickException(one_line(causes[0])) from None
        if logging.getLogger().handlers:
            log.critical("ended by a bug", exc_info=error)
        raise click.ClickException(
            f"internal error, please report it: {type(bugs[0]).__name__}: {one_line(bugs[0])} "
            "(RESULTITY_DEBUG=1 shows the traceback)"
        ) from None


def is_ours(error: BaseException) -> bool:
    """Tell whether an error was written for an operator: one of our classes, or the system's."""
    return type(error).__module__.split(".")[0] in OUR_PACKAGES or isinstance(error, OSError)


def one_line(error: BaseException) -> str:
    """Give an error's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
