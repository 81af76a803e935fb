"""Owns the start of a local network: what is missing is started, what runs is left alone.

Order: the bootstrap first (everybody needs its address), nodes and gateway together, then the
consumer's account through the gateway, then the wait until the gateway can serve a request.
"""

from __future__ import annotations

import dataclasses
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from p2p.clock import Clock, system_clock_ms
from p2p.network_configuration import ApprovedModel
from resultity.courier import Courier
from resultity.errors import GatewayCallError, ProcessError, SettingsError
from resultity.http_json import gateway_root, get_json
from resultity.local.folders import LocalFolders
from resultity.local.founding import found_local_network
from resultity.local.opening import prepare_opening, send_opening
from resultity.local.processes import log_tail, spawn, wait_ready
from resultity.local.progress import Progress
from resultity.local.state import (
    LocalState,
    ProcessRecord,
    find_process,
    read_state,
    write_state,
)
from resultity.model_approval import demo_model_path

PORT_DEFAULT = 8420
NODES_DEFAULT = 2
HOST = "127.0.0.1"
SERVING_TIMEOUT_S = 60.0
SERVING_POLL_S = 0.1
HEALTH_TIMEOUT_S = 5.0
COURIER_ATTEMPTS_PAUSE_S = 0.3


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What a user asked for.

    Attributes:
        nodes: how many nodes there shall be at least.
        port: of the API; 0 for a free one, None for the one used before (first: PORT_DEFAULT).
        model: the file that the nodes serve.
    """

    nodes: int
    port: int | None
    model: Path


def remembered_options(
    state: LocalState, nodes: int | None, port: int | None, model: Path | None
) -> StartOptions:
    """Fill what the user did not say with what was used before, or with the defaults."""
    remembered = Path(state.model) if state.model else None
    if remembered is not None and not remembered.exists():
        remembered = None
    chosen = model or remembered or demo_model_path()
    return StartOptions(nodes or state.nodes or NODES_DEFAULT, port, chosen.absolute())


class LocalNetwork:
    """One data folder's network while it is started or watched."""

    def __init__(
        self,
        folders: LocalFolders,
        options: StartOptions,
        progress: Progress,
        clock_ms: Clock = system_clock_ms,
    ) -> None:
        self.folders = folders
        self.options = options
        self.progress = progress
        self.state: LocalState = read_state(folders)
        self.model: ApprovedModel | None = None
        self.started: list[str] = []
        self._clock_ms = clock_ms

    @property
    def base_url(self) -> str:
        """The API's base URL (ends in /v1)."""
        return self._record("gateway").base_url

    @property
    def bootstrap_address(self) -> str:
        """The bootstrap's multiaddress."""
        return self._record("bootstrap").address

    @property
    def node_names(self) -> list[str]:
        """The nodes that shall run: those asked for and those that run beside them."""
        wanted = [f"node-{number}" for number in range(1, self.options.nodes + 1)]
        more = [record.name for record in self.state.alive() if record.role == "node"]
        return wanted + [name for name in more if name not in wanted]

    def summary(self) -> dict[str, Any]:
        """What `up --json` prints."""
        names = ["bootstrap", *self.node_names, "gateway"]
        records = [self._record(name) for name in names]
        return {
            "base_url": self.base_url,
            "api_key": self.folders.read_api_key(),
            "data_dir": str(self.folders.root),
            "network": self.folders.network.network(),
            "bootstrap": self.bootstrap_address,
            "processes": [
                {"role": record.role, "pid": record.pid, "peer_id": record.peer_id}
                for record in records
            ],
        }

    async def start(self) -> None:
        """Start what is missing and wait until a chat request can be served.

        Raises: ResultityError, P2PError. What was started stays: the caller stops it.
        """
        port = self._choose_port()
        self.change(nodes=self.options.nodes, model=str(self.options.model))
        self.progress.begin("network", "reading the model, making keys and configuration")
        _, self.model = await trio.to_thread.run_sync(
            found_local_network, self.folders, self.options.model, self._clock_ms
        )
        plan = prepare_opening(self.folders, self._clock_ms)
        self.progress.done("network", self.folders.network.network())
        await self.ensure("bootstrap")
        async with trio.open_nursery() as nursery:
            for name in self.node_names:
                nursery.start_soon(self.ensure, name)
            nursery.start_soon(self.ensure, "gateway", port)
        self.progress.begin("account", "opening the consumer's account")
        await self._retrying(lambda: send_opening(self.folders, plan, Courier(self.base_url)))
        self.progress.done("account", "demo has a namespace, a key and credit")
        self.progress.begin("serving", f"waiting for {len(self.node_names)} nodes at the gateway")
        await self._wait_serving()
        self.progress.done("serving", self.base_url)

    async def ensure(self, name: str, port: int | None = None) -> None:
        """Start one process unless it runs, and wait until it serves. Raises: ProcessError."""
        record = self.state.process(name)
        if record is not None and find_process(record) is not None:
            if not record.peer_id:
                await self._await_ready(record)
            return
        role = name.partition("-")[0]
        self.progress.begin(name, "starting")
        record = spawn(self.folders, name, role, self._arguments(name, port))
        self.started.append(name)
        self._keep(record)
        await self._await_ready(record)
        self.progress.done(name, f"serves as {self._record(name).peer_id}")

    async def _await_ready(self, record: ProcessRecord) -> None:
        facts = await wait_ready(self.folders, record)
        addresses = facts["addresses"] or [""]
        ready = dataclasses.replace(
            record,
            peer_id=facts["peer_id"],
            address=_with_peer(addresses[0], facts["peer_id"]),
            base_url=_with_v1(facts.get("base_url", "")),
        )
        self._keep(ready)
        if ready.base_url:
            port = int(ready.base_url.rpartition(":")[2].partition("/")[0])
            self.change(http_port=port)

    def _arguments(self, name: str, port: int | None) -> list[str]:
        folders = self.folders
        role_folder = folders.role(name)
        arguments = ["--network", folders.network.network(), "--data-dir", str(role_folder)]
        if name == "bootstrap":
            arguments += ["--configuration", str(folders.network.configuration_path)]
        else:
            arguments += ["--bootstrap", self.bootstrap_address]
        if name in ("bootstrap", "gateway"):
            arguments += ["--certificate", str(role_folder / "certificate.chain")]
        else:
            arguments += ["--model", str(self.options.model)]
            arguments += ["--account-file", str(folders.operator_account)]
        if name == "gateway":
            chosen = port if port is not None else self.state.http_port
            arguments += ["--http-host", HOST, "--http-port", str(chosen or 0)]
        return arguments

    def _choose_port(self) -> int:
        """Choose the API's port, and see that it is free. Raises: SettingsError."""
        running = self.state.process("gateway")
        if running is not None and find_process(running) is not None:
            if self.options.port not in (None, 0, self.state.http_port):
                raise SettingsError(
                    f"the gateway runs on port {self.state.http_port} already: "
                    "`resultity down` first to change it"
                )
            return self.state.http_port or 0
        port = self.options.port
        if port is None:
            port = self.state.http_port or PORT_DEFAULT
        check_port_free(port)
        return port

    async def _wait_serving(self) -> None:
        wanted = len(self.node_names)
        seen = 0
        with trio.move_on_after(SERVING_TIMEOUT_S):
            while True:
                try:
                    seen, listed = await trio.to_thread.run_sync(self._ask_gateway)
                    if seen >= wanted and listed:
                        return
                except GatewayCallError:
                    pass  # 503 while it starts; a dead gateway is told below
                self.check_alive()
                await trio.sleep(SERVING_POLL_S)
        raise ProcessError(
            f"the gateway reached {seen} of {wanted} nodes within {SERVING_TIMEOUT_S:g} s: "
            f"{log_tail(self.folders, 'gateway')}"
        )

    def _ask_gateway(self) -> tuple[int, bool]:
        """How many nodes the gateway has, and whether it offers the model (blocking)."""
        assert self.model is not None
        health = get_json(f"{gateway_root(self.base_url)}/healthz", timeout_s=HEALTH_TIMEOUT_S)
        if health["status"] != "ok":
            return 0, False
        key = self.folders.read_api_key()
        models = get_json(f"{self.base_url}/models", api_key=key, timeout_s=HEALTH_TIMEOUT_S)
        names = [entry["id"] for entry in models["data"]]
        return int(health["nodes"]), self.model.name in names

    def check_alive(self) -> None:
        """Raise ProcessError if a process of the network has died."""
        for record in self.state.processes:
            if find_process(record) is None and record.name in (
                "bootstrap",
                "gateway",
                *self.node_names,
            ):
                raise ProcessError(f"{record.name} died: {log_tail(self.folders, record.name)}")

    async def _retrying(self, call: Callable[[], None]) -> None:
        last = GatewayCallError("the gateway did not answer in time")
        with trio.move_on_after(SERVING_TIMEOUT_S):
            while True:
                try:
                    await trio.to_thread.run_sync(call)
                    return
                except GatewayCallError as error:
                    if 400 <= error.status < 500 and error.status != 429:
                        raise
                    last = error
                self.check_alive()
                await trio.sleep(COURIER_ATTEMPTS_PAUSE_S)
        raise last

    def change(self, **changes: Any) -> None:
        """Change the state, in memory and on disk."""
        self.state = dataclasses.replace(self.state, **changes)
        write_state(self.folders, self.state)

    def _keep(self, record: ProcessRecord) -> None:
        self.state = self.state.with_process(record)
        write_state(self.folders, self.state)

    def _record(self, name: str) -> ProcessRecord:
        record = self.state.process(name)
        if record is None:
            raise ProcessError(f"{name} does not run")
        return record


def check_port_free(port: int) -> None:
    """See that nobody listens on a port of the loopback. Raises: SettingsError."""
    if port == 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(
                    f"port {port} is in use by another program: choose another with --port "
                    "(--port 0 takes any free one)"
                ) from error
            raise SettingsError(f"cannot use port {port}: {error.strerror}") from error


def _with_peer(address: str, peer_id: str) -> str:
    return address if "/p2p/" in address else f"{address}/p2p/{peer_id}"


def _with_v1(url: str) -> str:
    return url if not url or url.rstrip("/").endswith("/v1") else f"{url.rstrip('/')}/v1"
