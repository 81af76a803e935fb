"""Two bootstrap processes on one PostgreSQL: holds by one, captures by the other, one is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from ledger.client import Call, LedgerClient
from ledger.operations import BindNode
from ledger.store.database import open_engine
from ledger.store.group import Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import namespace_view
from p2p.certificates import issue_certificate
from p2p.clock import system_clock_ms
from p2p.configuration_book import ConfigurationBook
from p2p.errors import P2PError, RefusedError
from p2p.identity import load_or_create_key, store_key
from p2p.ledger_messages import CaptureLeg
from p2p.membership import Membership
from p2p.network import Network
from p2p.network_configuration import price_terms
from p2p.software import SOFTWARE
from p2p.types import Role
from p2p.uplink import Uplink
from resultity.network_files import NetworkFiles, certify, found_network, write_chain
from tests.fakes.ledger_databases import PostgresServer
from tests.fakes.ledger_desk import ACCOUNT, KEY, MODEL
from tests.fakes.ledger_world import (
    AUTHORITY,
    GATEWAY,
    GATEWAY_ACCOUNT,
    MINT,
    NETWORK,
    NODE_ACCOUNTS,
    NODES,
    World,
    key_pair,
)
from tests.fakes.local_network import HANG_S, REPOSITORY, eventually, resultity_command
from tests.fakes.networks import process_free_of_networks

pytestmark = pytest.mark.e2e
KILLS = 100 if os.environ.get("RESULTITY_SOAK") == "1" else 2
JOBS = 40
MAXIMUM, CHARGE, GRANTED = 100, 50, 1_000_000


@pytest.fixture(autouse=True)
def own_network() -> Iterator[None]:
    """The client here is a libp2p peer in this process, of another network than other tests'."""
    with process_free_of_networks():
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    made = PostgresServer()  # as durable as it comes
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def database_url(server: PostgresServer) -> str:
    return server.new_database()


class Bootstrap:
    """One bootstrap process, with an identity and a data folder of its own."""

    def __init__(self, number: int, files: NetworkFiles, folder: Path, database_url: str) -> None:
        self._ready, self._errors = folder / f"ready{number}", folder / f"errors{number}"
        data_dir = folder / f"bootstrap{number}"
        data_dir.mkdir(mode=0o700)
        peer_id = load_or_create_key(data_dir / "identity.key").peer_id
        chain = certify(files, peer_id, Role.BOOTSTRAP, GATEWAY_ACCOUNT, system_clock_ms)
        write_chain(data_dir / "certificate.chain", chain)
        self._words = resultity_command(
            "bootstrap", "run", "--network", NETWORK, "--data-dir", str(data_dir),
            "--certificate", str(data_dir / "certificate.chain"),
            "--configuration", str(files.configuration_path), "--ready-file", str(self._ready),
        )  # fmt: skip
        self._environment = {**os.environ, "RESULTITY_BOOTSTRAP_DATABASE_URL": database_url}

    def start(self) -> None:
        self._ready.unlink(missing_ok=True)
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                self._words, cwd=REPOSITORY, env=self._environment,
                stdin=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip

    def address(self) -> str:
        def there() -> bool:
            assert self.process.poll() is None, self._errors.read_text()
            return self._ready.exists()

        eventually(there, "the bootstrap serves")
        address: str = json.loads(self._ready.read_text())["addresses"][0]
        return address

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(HANG_S)


@pytest.fixture
def bootstraps(tmp_path: Path, database_url: str) -> Iterator[tuple[Bootstrap, Bootstrap]]:
    files = NetworkFiles(tmp_path / "network")
    files.folder.mkdir(mode=0o700)
    store_key(files.authority_path, AUTHORITY)
    store_key(files.mint_path, MINT)
    found_network(files.folder, NETWORK.rpartition("-")[0], [MODEL], system_clock_ms)
    both = (
        Bootstrap(1, files, tmp_path, database_url),
        Bootstrap(2, files, tmp_path, database_url),
    )
    for one in both:
        one.start()  # at the same moment, on an empty database
    try:
        yield both
    finally:
        for one in both:
            one.end(signal.SIGKILL)


@dataclass(frozen=True)
class Line:
    """A way to the ledger by one bootstrap."""

    call: Call
    ledger: LedgerClient


class Gateway:
    """What a gateway does at the ledger, by one bootstrap or the other."""

    def __init__(self, folder: Path) -> None:
        self.world = World()
        self.world.now_ms = system_clock_ms()
        self.files = NetworkFiles(folder / "network")
        signed, self.configuration = self.files.configuration()
        book = ConfigurationBook(NETWORK)
        book.offer(signed)
        certificate = issue_certificate(
            AUTHORITY, NETWORK, GATEWAY.peer_id, Role.GATEWAY, GATEWAY_ACCOUNT,
            issued_ms=system_clock_ms(), lifetime_s=86_400,
        )  # fmt: skip
        self.membership = Membership(
            GATEWAY, NETWORK, Role.GATEWAY, book,
            clock_ms=system_clock_ms, software=SOFTWARE, chain=(certificate,),
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def network(self) -> AsyncIterator[tuple[Network, trio.Nursery]]:
        from p2p.libp2p_adapter import open_libp2p_network

        def no_records(key: bytes, value: bytes) -> int:
            return 0

        async with (
            open_libp2p_network(
                GATEWAY, NETWORK, gate=self.membership, record_check=no_records
            ) as network,
            trio.open_nursery() as nursery,
        ):
            yield network, nursery
            nursery.cancel_scope.cancel()

    async def line(self, network: tuple[Network, trio.Nursery], bootstrap: Bootstrap) -> Line:
        address = await trio.to_thread.run_sync(bootstrap.address)
        uplink = Uplink(network[0], [address])
        await network[1].start(uplink.run)
        return Line(uplink.call, LedgerClient(uplink.call, GATEWAY, NETWORK, system_clock_ms))

    async def open_account(self, line: Line) -> str:
        owner = LedgerClient(line.call, ACCOUNT, NETWORK, system_clock_ms)
        account_id = await owner.found_account(key_pair(7).public_key)
        await owner.open_namespace(account_id, "dev")
        await owner.create_key(account_id, "dev", KEY, name="a key")
        mint = LedgerClient(line.call, MINT, NETWORK, system_clock_ms)
        await mint.grant(account_id, "dev", grant_id=self.world.new_id(), amount=GRANTED)
        return f"{account_id}/dev"

    async def hold(self, line: Line, hold_id: bytes) -> None:
        await line.ledger.hold(
            KEY.key_id,
            KEY.hold_key(),
            hold_id=hold_id,
            job_id=hold_id[::-1],
            maximum=MAXIMUM,
            terms=price_terms(self.configuration, MODEL),
            expires_ms=self.world.now_ms + 600_000,
        )

    async def capture(self, line: Line, hold_id: bytes) -> None:
        legs = [self.leg(hold_id)]
        await line.ledger.capture(capture_id=hold_id[:8] * 2, hold_id=hold_id, legs=legs)

    def leg(self, hold_id: bytes) -> CaptureLeg:
        hold = self.world.hold(self.world.tenant(), 1, hold_id=hold_id)
        # World names the job by the hold's ID backwards, as `hold` above does.
        return self.world.leg(hold, output_tokens=10)[1]


def bind_nodes(database_url: str) -> None:
    engine = open_engine(database_url, writer=True)
    store = Store(engine)
    for node, account_id in zip(NODES, NODE_ACCOUNTS, strict=True):
        store.apply([BindNode(node.peer_id, account_id)], system_clock_ms())
    store.close()
    engine.dispose()


async def persist(ask: Callable[[Line, bytes], Awaitable[None]], line: Line, id_: bytes) -> None:
    """Ask with the same IDs until it is acknowledged, as a gateway does."""
    while True:
        try:
            return await ask(line, id_)
        except RefusedError as error:
            if error.retry_after_s is None:
                raise
        except P2PError:
            pass
        await trio.sleep(0.05)


def settled(database_url: str, path: str) -> tuple[int, int]:
    """Check the ledger; give what the namespace has and what is held."""
    engine = open_engine(database_url, writer=False)
    with engine.begin() as connection:
        check_integrity(connection)
        view = namespace_view(connection, path)
    engine.dispose()
    assert view is not None
    return view.available, view.held


@pytest.mark.timeout(300)
async def test_nothing_is_lost_when_one_of_two_is_killed(
    bootstraps: tuple[Bootstrap, Bootstrap], tmp_path: Path, database_url: str
) -> None:
    gateway, (first, second) = Gateway(tmp_path), bootstraps
    acknowledged, captured = set[bytes](), set[bytes]()
    hold_ids = [gateway.world.new_id() for _ in range(JOBS)]
    async with gateway.network() as network:
        by_first = await gateway.line(network, first)
        by_second = await gateway.line(network, second)
        bind_nodes(database_url)
        path = await gateway.open_account(by_first)

        async def job(number: int, hold_id: bytes) -> None:
            # Every job holds by the first; when that one is gone, by the second.
            try:
                await gateway.hold(by_first, hold_id)
            except P2PError:
                await persist(gateway.hold, by_second, hold_id)
            acknowledged.add(hold_id)
            if len(acknowledged) == JOBS // 2:
                first.process.kill()
            if number % 3:
                await persist(gateway.capture, by_second, hold_id)
                captured.add(hold_id)

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for number, hold_id in enumerate(hold_ids):
                    nursery.start_soon(job, number, hold_id)
            assert first.process.wait(HANG_S) == -signal.SIGKILL
            assert acknowledged == set(hold_ids)
            first.start()
            anew = await gateway.line(network, first)
            for hold_id in hold_ids:  # what the other captured is known here
                await persist(gateway.capture, anew, hold_id)
    assert settled(database_url, path) == (GRANTED - JOBS * CHARGE, 0)
    assert [one.end() for one in bootstraps] == [0, 0]


@pytest.mark.timeout(3_600 if KILLS > 10 else 300)
async def test_nothing_is_lost_when_the_database_is_killed(
    bootstraps: tuple[Bootstrap, Bootstrap],
    tmp_path: Path,
    server: PostgresServer,
    database_url: str,
) -> None:
    gateway = Gateway(tmp_path)
    async with gateway.network() as network:
        lines = [await gateway.line(network, one) for one in bootstraps]
        bind_nodes(database_url)
        path = await gateway.open_account(lines[0])
        for turn in range(KILLS):
            gateway.world.now_ms = system_clock_ms()
            done, kill = 0, trio.Event()

            async def job(number: int, hold_id: bytes, kill_at: int, kill: trio.Event) -> None:
                nonlocal done
                await persist(gateway.hold, lines[number % 2], hold_id)
                done += 1
                if done == kill_at:
                    kill.set()
                await persist(gateway.capture, lines[(number + 1) % 2], hold_id)

            with trio.fail_after(120):
                async with trio.open_nursery() as nursery:
                    for number in range(JOBS):
                        hold_id = gateway.world.new_id()
                        kill_at = 1 + turn * 17 % JOBS
                        nursery.start_soon(job, number, hold_id, kill_at, kill)
                    await kill.wait()
                    await trio.to_thread.run_sync(server.kill_and_restart)
            left = GRANTED - (turn + 1) * JOBS * CHARGE
            assert settled(database_url, path) == (left, 0)
    assert [one.end() for one in bootstraps] == [0, 0]
