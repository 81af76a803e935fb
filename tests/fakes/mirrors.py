"""Owns a primary and a mirror in one process: the mirror calls the primary's own handlers, and a
test may patch what they answer."""

from __future__ import annotations

import copy
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from bootstrap.log_service import LogService
from bootstrap.log_watch import LogWatch
from bootstrap.mirror_service import Mirror
from bootstrap.mirroring import known_keys
from ledger.ledger import Ledger
from ledger.log.alarms import BelievedAlarm
from ledger.mirror_ledger import MirrorLedger
from ledger.store.audit.whole import audit
from ledger.store.log.queries import latest_checkpoint
from p2p.calls import Caller
from p2p.certificates import Certificate, issue_certificate
from p2p.codec import encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.configuration_sync import GET
from p2p.membership import Membership
from p2p.network_configuration import NetworkConfiguration, Witness, sign_configuration
from p2p.types import PeerId, Role
from tests.fakes.dispute_world import DECIDER
from tests.fakes.ledger_log import (
    BOOTSTRAP,
    DAY_S,
    LOG_KEY,
    bootstrap_chain,
    running_ledger,
    use,
)
from tests.fakes.ledger_world import (
    AUTHORITY,
    GATEWAY_ACCOUNT,
    MINT,
    NETWORK,
    START_MS,
    World,
    key_pair,
)

MIRROR, WITNESS_KEY = key_pair(60), key_pair(61)
WITNESS = "mirror.test"
PRIMARY = "/ip4/127.0.0.1/tcp/1/p2p/primary"
CONFIGURATION = NetworkConfiguration(
    network_id=NETWORK,
    version=1,
    issued_ms=START_MS,
    mint_keys=(MINT.public_key.hex(),),
    dispute_keys=(DECIDER.public_key.hex(),),
    log_keys=(LOG_KEY.public_key.hex(),),
    mirror_peers=(MIRROR.peer_id,),
    witnesses=(Witness(name=WITNESS, public_key=WITNESS_KEY.public_key.hex()),),
    witness_quorum=1,
)
_templates: dict[str, tuple[Path, World]] = {}
_folder = tempfile.TemporaryDirectory(prefix="resultity-mirrors-")
Patch = Callable[[bytes, bytes], bytes]
"""(what was asked, the true answer) -> what is answered."""


def mirror_chain() -> tuple[Any, ...]:
    signed = issue_certificate(
        AUTHORITY,
        NETWORK,
        MIRROR.peer_id,
        Role.BOOTSTRAP,
        GATEWAY_ACCOUNT,
        issued_ms=START_MS,
        lifetime_s=30 * DAY_S,
    )
    return (signed,)


class Gossip:
    """A network that keeps what was published."""

    def __init__(self, local: PeerId) -> None:
        self.local = local
        self.told: list[tuple[str, bytes]] = []

    async def publish(self, topic: str, data: bytes) -> None:
        self.told.append((topic, data))


class Primary:
    """A bootstrap's log services on a running ledger. `patches`: by method, for forgers."""

    def __init__(self, ledger: Ledger, world: World) -> None:
        self.ledger = ledger
        self.patches: dict[str, Patch] = {}
        chain = bootstrap_chain()
        self.service = LogService(ledger, BOOTSTRAP, LOG_KEY, chain, NETWORK, world.clock_ms)
        self.watch = LogWatch(
            ledger, BOOTSTRAP, chain, NETWORK, lambda: CONFIGURATION, world.clock_ms
        )
        self._handlers = {**self.service.handlers(), **self.watch.handlers()}
        self.caller = Caller(
            MIRROR.peer_id,
            Certificate(
                NETWORK,
                MIRROR.peer_id,
                Role.BOOTSTRAP,
                GATEWAY_ACCOUNT,
                START_MS,
                START_MS + 10**9,
            ),
        )

    async def call(self, method: str, body: bytes, **options: object) -> bytes:
        if method == GET:
            return encode_message(sign_configuration(AUTHORITY, CONFIGURATION))
        answer = await self._handlers[method](self.caller, body)
        patch = self.patches.get(method)
        return answer if patch is None else patch(body, answer)

    async def log(self) -> int:
        """Log everything that waits."""
        return await self.service.sequencer.catch_up()


class RunningMirror:
    """A mirror with its own key, database and witness, beside a primary."""

    def __init__(self, ledger: MirrorLedger, folder: Path, world: World) -> None:
        self.ledger = ledger
        self.gossip = Gossip(MIRROR.peer_id)
        book = ConfigurationBook(NETWORK, folder / "configuration.msgpack")
        if not book.known:
            book.offer(sign_configuration(AUTHORITY, CONFIGURATION))
        self.watch = LogWatch(
            ledger, MIRROR, mirror_chain(), NETWORK, lambda: book.current, world.clock_ms
        )
        membership = Membership(
            MIRROR,
            NETWORK,
            Role.BOOTSTRAP,
            book,
            clock_ms=world.clock_ms,
            software="test",
            chain=mirror_chain(),
        )
        self.mirror = Mirror(
            ledger,
            self.watch,
            book,
            membership,
            WITNESS_KEY,
            folder / "witness.last",
            world.clock_ms,
        )

    async def follow(self, primary: Primary) -> int:
        """Take everything that the primary has logged; gives the size of the copy."""
        while await self.mirror.step(primary):  # type: ignore[arg-type]
            pass
        return await self.ledger.log_size()

    async def cosign(self, primary: Primary) -> None:
        await self.mirror._cosign(self.gossip, primary)  # type: ignore[arg-type]

    def alarms(self) -> list[BelievedAlarm]:
        return self.watch._alarms.all()


async def _template(name: str, *, is_used: bool) -> tuple[Path, World]:
    """A ledger that is made once and copied for each test: new, or with one of everything in it."""
    if name not in _templates:
        path, world = Path(_folder.name, f"{name}.db"), World()
        async with running_ledger(f"sqlite:///{path}", world) as ledger:
            if is_used:
                await use(ledger, world, world.tenant())
        _templates[name] = (path, world)
    return _templates[name]


async def used_ledger(path: Path) -> World:
    """Put a used ledger, nothing of it logged yet, at a path; gives the world that it is of."""
    found, world = await _template("used", is_used=True)
    shutil.copyfile(found, path)
    return copy.deepcopy(world)


@asynccontextmanager
async def running_primary(url: str, world: World) -> AsyncIterator[Primary]:
    async with running_ledger(url, world) as ledger:
        yield Primary(ledger, world)


@asynccontextmanager
async def running_mirror(folder: Path, world: World, url: str = "") -> AsyncIterator[RunningMirror]:
    await trio.Path(folder).mkdir(exist_ok=True)
    if not (url or (folder / "ledger.sqlite").exists()):
        shutil.copyfile((await _template("new", is_used=False))[0], folder / "ledger.sqlite")
    ledger = MirrorLedger(
        url or f"sqlite:///{folder / 'ledger.sqlite'}",
        NETWORK,
        primary=PRIMARY,
        keys=lambda: known_keys(CONFIGURATION),
        clock_ms=world.clock_ms,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        yield RunningMirror(ledger, folder, world)
        nursery.cancel_scope.cancel()


def tamper(path: Path, *statements: str) -> int:
    """Change a ledger's file behind its back; gives how many rows were changed."""
    connection = sqlite3.connect(path, timeout=20)
    try:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        done = sum(connection.execute(statement).rowcount for statement in statements)
        connection.commit()
        return done
    finally:
        connection.close()


async def audited(ledger: Ledger) -> list[str]:
    report = await ledger.read(lambda c: audit(c, NETWORK, *known_keys(CONFIGURATION)[:2]))
    return report.problems


async def assert_same(primary: Primary, mirror: RunningMirror) -> None:
    """Both hold the same log, and the copy passes the audit by itself."""
    ours = await mirror.ledger.read(latest_checkpoint)
    theirs = await primary.ledger.read(latest_checkpoint)
    assert ours is not None
    assert theirs is not None
    assert (ours.size, ours.note.split(b"\n\n")[0]) == (theirs.size, theirs.note.split(b"\n\n")[0])
    assert await audited(mirror.ledger) == []
