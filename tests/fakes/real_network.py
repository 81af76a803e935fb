"""Owns a network of real processes for tests of faults: what runs, how it is hurt and healed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import openai
import psutil

from tests.fakes import scripted_runtime

REPOSITORY = Path(__file__).resolve().parents[2]
HANG_S = 90.0
"""Nothing that a test waits for takes this long unless it hangs."""
POLL_S = 0.05
MODEL = "tiny-chat"
TOKENS, DELAY_MS = 60, 50
"""The script of the network that tests share: an answer of three seconds."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the network as `up` reported it."""

    role: str
    pid: int
    peer_id: str

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        process = psutil.Process(self.pid)
        process.kill()
        eventually(lambda: not runs(process), f"{self.role} is gone")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP inside, SIGCONT after."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)


class RealNetwork:
    """A local network with scripted runtimes (`up --detach --json`)."""

    def __init__(
        self, data_dir: Path, nodes: int, *, use_leases: bool = False, **script: object
    ) -> None:
        self.data_dir = data_dir
        self._nodes = nodes
        command = ",".join(scripted_runtime.command(**script))
        self._environment = os.environ | {
            "RESULTITY_NODE_RUNTIME_COMMAND": command,
            # A lease counts as held for half a minute after its last job.
            "RESULTITY_GATEWAY_USE_LEASES": str(use_leases),
        }
        self.parts: list[Part] = []
        self.base_url = self.api_key = self.network = self.bootstrap = ""

    def configure(self, **environment: str) -> None:
        """Set variables of the processes that are started from now on."""
        self._environment |= environment

    # --- processes ------------------------------------------------------------------------------
    def run(
        self, *words: str, timeout_s: float = HANG_S, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `resultity` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "resultity", *words],
            cwd=REPOSITORY,
            env=self._environment | environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `resultity` as a child of the test; its stderr is a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "resultity", *words],
            cwd=REPOSITORY,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def up(self) -> None:
        """Start what is missing and wait until it serves."""
        where = ("--data-dir", str(self.data_dir))
        port = ("--port", "0") if not self.parts else ()
        result = self.run("up", "--detach", "--json", "--nodes", str(self._nodes), *port, *where)
        assert result.returncode == 0, f"up failed: {result.stderr}\n{self.logs()}"
        facts = json.loads(result.stdout)
        self.parts = [Part(**entry) for entry in facts["processes"]]
        self.base_url, self.api_key = facts["base_url"], facts["api_key"]
        self.network, self.bootstrap = facts["network"], facts["bootstrap"]

    def heal(self) -> None:
        """Start what a test has killed, and wait until every node can be used."""
        if all(runs_pid(part.pid) for part in self.parts):
            nodes = sum(part.role == "node" for part in self.parts)
            if self.health().get("nodes") == nodes:
                return
        self.up()

    def down(self) -> None:
        result = self.run("down", "--data-dir", str(self.data_dir))
        assert result.returncode == 0, result.stderr

    def part(self, role: str, number: int = 0) -> Part:
        return [part for part in self.parts if part.role == role][number]

    def by_peer(self, peer_id: str) -> Part:
        return next(part for part in self.parts if part.peer_id == peer_id)

    def logs(self) -> str:
        """The end of every log, for messages of failed tests."""
        paths = sorted((self.data_dir / "logs").glob("*.log"))
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in paths
        )

    # --- the API --------------------------------------------------------------------------------
    def client(self, api_key: str | None = None, timeout_s: float = 60.0) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=self.base_url,
            api_key=self.api_key if api_key is None else api_key,
            max_retries=0,
            timeout=timeout_s,
        )

    def open_stream(self, client: openai.OpenAI) -> openai.Stream[Any]:
        """Begin a long answer: TOKENS words."""
        return client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Count."}],
            max_tokens=TOKENS,
            stream=True,
        )

    def ask(self, max_tokens: int = 2) -> str:
        """One short answer; raises what the client raises."""
        with self.client() as client:
            answer = client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "Say some words."}],
                max_tokens=max_tokens,
            )
        return answer.choices[0].message.content or ""

    def get(self, path: str) -> dict[str, Any]:
        """GET a JSON page of the gateway (path from the root); an error page is given as well."""
        root = self.base_url.removesuffix("/v1")
        request = urllib.request.Request(
            f"{root}{path}", headers={"Authorization": f"Bearer {self.api_key}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                return dict(json.load(error))

    def health(self) -> dict[str, Any]:
        """/healthz, or an empty object while nobody listens."""
        try:
            return self.get("/healthz")
        except OSError:
            return {}

    def loads(self) -> dict[str, int]:
        """Running jobs of each node that the gateway has a session with."""
        return {
            peer["peer_id"]: peer["running"]
            for peer in self.get("/status/peers")["peers"]
            if peer["role"] == "node" and peer["connected"]
        }

    def busy_node(self) -> Part:
        """Wait until a node works, and give it."""

        def find() -> str | None:
            return next((peer for peer, running in self.loads().items() if running), None)

        return self.by_peer(eventually(find, "a node works"))

    def balance(self) -> dict[str, int]:
        return self.get("/v1/account/balance")

    def settled_balance(self) -> dict[str, int]:
        """Wait until every job is settled, and see that the ledger adds up.

        What a gateway has leased counts as available: it is nobody's yet.
        """
        balance = eventually(self._settled, "every job is settled")
        balance["available_microcredits"] += balance.pop("held_microcredits")
        granted = balance["granted_microcredits"]
        spent, available = balance["spent_microcredits"], balance["available_microcredits"]
        assert spent + available == granted, balance
        assert self.ledger_sum() == 0
        return balance

    def _settled(self) -> dict[str, int] | None:
        health = self.health()
        if health.get("jobs_running", 1) or health.get("settlements_waiting", 1):
            return None
        balance = self.balance()
        if "held_microcredits" not in balance:
            return None
        return balance if health["leases"] or not balance["held_microcredits"] else None

    def ledger_sum(self) -> int:
        """The sum over all entries of the ledger, read from its file beside the bootstrap."""
        path = self.data_dir / "bootstrap" / "ledger.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT SUM(amount) FROM ledger_entries").fetchone()[0])


def eventually(look: Callable[[], T | bool | None], what: str, timeout_s: float = HANG_S) -> T:
    """Look again and again until there is something; fails the test if it hangs."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look()
        if seen:
            return seen  # type: ignore[return-value]
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(POLL_S)


def runs_pid(pid: int) -> bool:
    """Whether there is a process with this ID that still runs."""
    return psutil.pid_exists(pid) and runs(psutil.Process(pid))


def runs(process: psutil.Process) -> bool:
    """Whether a process still runs (one that ended and was not waited for does not)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class StreamSeen:
    """What a client has seen of a streamed answer."""

    text: str = ""
    finish_reason: str | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: openai.APIError | None = None


def read_stream(
    stream: openai.Stream[Any], seen: StreamSeen, until_characters: int = 1 << 30
) -> None:
    """Read chunks into `seen` until the end, an error, or that many characters."""
    try:
        for chunk in stream:
            if getattr(chunk, "resultity", None):
                seen.extra = chunk.resultity
            for choice in chunk.choices:
                seen.text += choice.delta.content or ""
                seen.finish_reason = choice.finish_reason or seen.finish_reason
            if len(seen.text) >= until_characters:
                return
    except openai.APIError as error:
        seen.error = error
