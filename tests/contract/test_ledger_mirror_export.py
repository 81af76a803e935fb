"""Exports that are audited as a mirror would read them, and frozen epochs on a mirror."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bootstrap.mirroring import known_keys
from bootstrap.rcp_service import RcpService
from ledger.errors import StorageError
from ledger.log.alarms import RULE
from ledger.store.mirror.export import FORMAT, audit_export, is_export, write_export
from ledger.store.mirror.queries import due_epochs
from ledger.usage import DAY_MS
from p2p.wire import FrameDecoder, encode_frame
from tests.fakes.ledger_log import BOOTSTRAP, bootstrap_chain
from tests.fakes.ledger_world import NETWORK, NODE_ACCOUNTS, NODES, World
from tests.fakes.mirrors import (
    CONFIGURATION,
    Primary,
    assert_same,
    running_mirror,
    running_primary,
    tamper,
    used_ledger,
)

KEYS = known_keys(CONFIGURATION)


async def exported(tmp_path: Path) -> Path:
    world, path = await used_ledger(tmp_path / "primary.db"), tmp_path / "export"
    url = f"sqlite:///{tmp_path / 'primary.db'}"
    async with running_primary(url, world) as primary:
        primary.service.sequencer._sources_max = 10
        await primary.log()
        await primary.ledger.submit(world.grant(world.tenant(), 5))
        size, waiting = write_export(url, path, NETWORK)
        assert (size > 20, waiting) == (True, 1)
        with pytest.raises(StorageError, match="exists already"):
            write_export(url, path, NETWORK)
    return path


def frames(path: Path) -> list[bytes]:
    return FrameDecoder().feed(path.read_bytes().removeprefix(FORMAT))


async def test_an_export_passes_the_audit_and_a_changed_one_does_not(tmp_path: Path) -> None:
    path = await exported(tmp_path)
    assert path.stat().st_mode & 0o077 == 0
    assert is_export(path)
    report = audit_export(path, NETWORK, KEYS)
    assert report.problems == []
    assert report.checked["transfers"] >= 10
    head, *pages = frames(path)
    changed = bytearray(pages[1])
    changed[len(changed) // 2] ^= 1
    cases: dict[str, Callable[[], list[bytes]]] = {
        "a page is missing": lambda: [head, pages[0], *pages[2:]],
        "the end is missing": lambda: [head, *pages[:-1]],
        "pages are swapped": lambda: [head, pages[1], pages[0], *pages[2:]],
        "a bit is changed": lambda: [head, pages[0], bytes(changed), *pages[2:]],
        "there is no head": lambda: pages,
    }
    other = tmp_path / "other"
    for what, make in cases.items():
        other.write_bytes(FORMAT + b"".join(encode_frame(frame) for frame in make()))
        assert audit_export(other, NETWORK, KEYS).problem_count, what
    other.write_bytes(path.read_bytes()[:-5])
    assert audit_export(other, NETWORK, KEYS).problem_count
    nobody = KEYS._replace(mint_keys=())
    assert "no given network configuration" in audit_export(path, NETWORK, nobody).problems[0]


def points(primary: Primary, world: World) -> RcpService:
    return RcpService(
        primary.ledger,
        BOOTSTRAP,
        bootstrap_chain(),
        NETWORK,
        lambda: CONFIGURATION,
        lambda: [(NODES[0].peer_id, NODE_ACCOUNTS[0])],
        world.clock_ms,
    )


@pytest.mark.parametrize("forged", [False, True])
async def test_a_mirror_computes_frozen_epochs_again(tmp_path: Path, forged: bool) -> None:
    path = tmp_path / "primary.db"
    world = await used_ledger(path)
    async with (
        running_primary(f"sqlite:///{path}", world) as primary,
        running_mirror(tmp_path / "mirror", world) as mirror,
    ):
        service = points(primary, world)
        service._counter.observe(world.now_ms, [(NODES[0].peer_id, NODE_ACCOUNTS[0])])
        await service.record()
        if forged:
            # Work that nobody was paid for, when the scores are made.
            assert tamper(path, "UPDATE ledger_work SET earned = 3 * earned + 7000000")
        world.now_ms += 2 * DAY_MS
        assert await service.freeze() >= 1
        await primary.log()
        await mirror.follow(primary)
        due = await mirror.ledger.read(lambda c: due_epochs(c, world.now_ms + 1))
        assert len(due) >= 1
        world.now_ms += 600_000
        mirror.mirror._epochs_due_s = float("-inf")
        await mirror.follow(primary)
        if forged:
            assert [found.alarm.kind for found in mirror.alarms()] == [RULE]
            assert "epoch" in mirror.alarms()[0].alarm.text
        else:
            assert mirror.alarms() == []
            await assert_same(primary, mirror)
