"""Forgers: a primary that lies about records, forges its log, goes back or forks is caught."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from ledger import methods
from ledger.errors import IntegrityError
from ledger.log.alarms import FORK, LEAF, MISSING, ROLLBACK, RULE, believe
from ledger.log.errors import ProofError
from ledger.log.proofs import verify_checkpoint, verify_opened_leaf
from ledger.store.log.proofs import checkpoint_message
from ledger.store.log.queries import latest_checkpoint
from ledger.store.mirror.evidence import LogWrongError
from ledger.store.mirror.queries import kept_alarms, kept_evidence
from p2p.codec import decode_message, decode_messages, encode_message
from p2p.errors import P2PError
from p2p.log_messages import Checkpoint, Inclusion
from p2p.mirror_messages import RecordsPage, TableRows
from tests.fakes.ledger_log import use
from tests.fakes.ledger_world import NETWORK, Tenant, World, key_pair
from tests.fakes.mirrors import (
    CONFIGURATION,
    Primary,
    RunningMirror,
    assert_same,
    running_mirror,
    running_primary,
    tamper,
    used_ledger,
)

LOG_KEYS = CONFIGURATION.log_public_keys


# --- forgers -------------------------------------------------------------------------------------
async def caught(
    primary: Primary, mirror: RunningMirror, kind: str, match: str = "."
) -> tuple[LogWrongError, list[Any]]:
    """The mirror refuses the batch, keeps alarm and evidence, and its copy is as it was."""
    before = await mirror.ledger.log_size()
    with pytest.raises(LogWrongError, match=match) as wrong:
        await mirror.follow(primary)
    error = wrong.value
    assert error.kind == kind
    assert await mirror.ledger.log_size() == before
    await mirror.mirror._judge(error, primary)  # type: ignore[arg-type]
    (found,) = mirror.alarms()
    assert (found.alarm.kind, found.proven) == (kind, False)
    assert (found.alarm.size, found.alarm.other_size) == (error.base_size, error.size)
    assert found.alarm.second is not None
    believe(found.notice, NETWORK, mirror.mirror._clock_ms(), LOG_KEYS)
    kept = await mirror.ledger.read(kept_alarms)
    assert kept == [found.notice]
    ((_, evidence),) = await mirror.ledger.read(kept_evidence)
    page, *inclusions = decode_messages(evidence)
    assert isinstance(page, RecordsPage)
    head = verify_checkpoint(page.checkpoint, NETWORK, LOG_KEYS).head
    for inclusion in inclusions:
        assert isinstance(inclusion, Inclusion)
        verify_opened_leaf(inclusion, head)
    return error, inclusions


def patched_rows(
    table: str, change: Callable[[list[list[Any]]], list[list[Any]]]
) -> Callable[[bytes, bytes], bytes]:
    """Answer with other rows of a table than there are."""

    def patch(asked: bytes, answer: bytes) -> bytes:
        if not answer:
            return answer
        page = decode_message(answer, RecordsPage)
        rows = tuple(
            TableRows(part.table, msgpack.packb(change(msgpack.unpackb(part.rows))))
            if part.table == table
            else part
            for part in page.rows
        )
        return encode_message(replace(page, rows=rows))

    return patch


def _amount(rows: list[list[Any]]) -> list[list[Any]]:
    rows[-1][3] += 1
    return rows


def _request(rows: list[list[Any]]) -> list[list[Any]]:
    request = bytearray(rows[0][6])
    request[-1] ^= 1
    rows[0][6] = bytes(request)
    return rows


def _time(rows: list[list[Any]]) -> list[list[Any]]:
    rows[0][8] += 1
    return rows


@pytest.mark.parametrize(
    ("table", "change", "kind"),
    [
        ("ledger_entries", _amount, LEAF),
        ("ledger_transfers", _request, LEAF),
        ("ledger_transfers", _time, LEAF),
        ("ledger_entries", lambda rows: rows[:-1], LEAF),
        ("ledger_transfers", lambda rows: rows[1:], MISSING),
        ("ledger_records", lambda rows: rows[1:], MISSING),
        ("ledger_holds", lambda rows: [[*row[:9], 777, *row[10:]] for row in rows], LEAF),
        ("ledger_grants", lambda rows: [[*row[:3], row[3] + 1, *row[4:]] for row in rows], RULE),
        ("ledger_grants", lambda rows: [], RULE),
    ],
)
async def test_a_record_that_is_not_what_was_logged(
    tmp_path: Path, table: str, change: Any, kind: str
) -> None:
    world = await used_ledger(tmp_path / "primary.db")
    async with (
        running_primary(f"sqlite:///{tmp_path / 'primary.db'}", world) as primary,
        running_mirror(tmp_path / "mirror", world) as mirror,
    ):
        await primary.log()
        primary.patches[methods.LOG_RECORDS] = patched_rows(table, change)
        await caught(primary, mirror, kind)
        primary.patches.clear()
        await mirror.follow(primary)  # the log itself was right
        await assert_same(primary, mirror)


def _page(change: Callable[[RecordsPage], RecordsPage]) -> Callable[[bytes, bytes], bytes]:
    def patch(asked: bytes, answer: bytes) -> bytes:
        if not answer:
            return answer
        return encode_message(change(decode_message(answer, RecordsPage)))

    return patch


def _swap(page: RecordsPage) -> RecordsPage:
    data = page.commitments
    return replace(page, commitments=data[32:64] + data[:32] + data[64:])


def _hidden(page: RecordsPage) -> RecordsPage:
    return replace(page, sources=page.sources[:-1])


def _twice(page: RecordsPage) -> RecordsPage:
    return replace(page, sources=page.sources + page.sources[-1:])


@pytest.mark.parametrize(("change", "kind"), [(_swap, LEAF), (_hidden, MISSING), (_twice, LEAF)])
async def test_leaves_that_were_moved_hidden_or_doubled(
    tmp_path: Path, change: Any, kind: str
) -> None:
    world = await used_ledger(tmp_path / "primary.db")
    async with (
        running_primary(f"sqlite:///{tmp_path / 'primary.db'}", world) as primary,
        running_mirror(tmp_path / "mirror", world) as mirror,
    ):
        await primary.log()
        primary.patches[methods.LOG_RECORDS] = _page(change)
        await caught(primary, mirror, kind)


@pytest.mark.parametrize(
    "change",
    [
        lambda page: replace(page, base_size=page.base_size + 1, size=page.size + 1),
        lambda page: replace(page, commitments=page.commitments[:-32]),
        lambda page: replace(page, source=3),
        lambda page: replace(page, next_source=1),
        lambda page: replace(page, rows=(TableRows("sqlite_master", b"\x90"),)),
        lambda page: replace(page, rows=(TableRows("ledger_transfers", b"\x91\x91\x01"),)),
    ],
)
async def test_pages_that_make_no_sense_are_refused(tmp_path: Path, change: Any) -> None:
    world = await used_ledger(tmp_path / "primary.db")
    async with (
        running_primary(f"sqlite:///{tmp_path / 'primary.db'}", world) as primary,
        running_mirror(tmp_path / "mirror", world) as mirror,
    ):
        await primary.log()
        primary.patches[methods.LOG_RECORDS] = _page(change)
        with pytest.raises(P2PError):
            await mirror.follow(primary)
        assert mirror.alarms() == []
        assert await mirror.ledger.log_size() == 0


FORGED = {
    "a node is paid more": (
        "UPDATE ledger_entries SET amount = amount + 5 WHERE account LIKE 'earnings:%'",
        RULE,
    ),
    "the treasury takes more": (
        "UPDATE ledger_entries SET amount = amount + 5 WHERE account = 'treasury'",
        RULE,
    ),
    "a grant is larger than what was signed": (
        "UPDATE ledger_entries SET amount = 2 * amount WHERE transfer IN "
        "(SELECT number FROM ledger_transfers WHERE kind = 'grant')",
        RULE,
    ),
    "a request was never signed": (
        "UPDATE ledger_transfers SET request = CAST(substr(request, 1, length(request) - 1) || "
        "x'00' AS BLOB) WHERE kind = 'capture'",
        RULE,
    ),
    "a record belongs to another transfer": (
        "UPDATE ledger_transfers SET kind = 'release' WHERE kind = 'expire'",
        RULE,
    ),
    "a hold is dropped": (
        "DELETE FROM ledger_log_pending WHERE source = x'740000000000000002'",
        RULE,
    ),
    "a grant is dropped": (
        "DELETE FROM ledger_log_pending WHERE source = x'740000000000000001'",
        RULE,
    ),
    "a key change is dropped": (
        "DELETE FROM ledger_log_pending WHERE substr(source, 1, 1) = x'72' AND substr(source, 2) "
        "IN (SELECT digest FROM ledger_records WHERE purpose = 'key-creation')",
        RULE,
    ),
    "the gateway's share was changed": (
        "UPDATE ledger_holds SET gateway_basis_points = gateway_basis_points + 100",
        RULE,
    ),
}


@pytest.mark.parametrize("what", FORGED)
async def test_a_log_that_breaks_a_rule(tmp_path: Path, what: str) -> None:
    """The primary forges its database before it logs: leaves, root and signature fit together."""
    path = tmp_path / "primary.db"
    world = await used_ledger(path)
    async with (
        running_primary(f"sqlite:///{path}", world) as primary,
        running_mirror(tmp_path / "mirror", world) as mirror,
    ):
        statement, kind = FORGED[what]
        assert tamper(path, statement) > 0
        await primary.log()
        if "dropped" in what:
            mirror.mirror._grown_s = float("-inf")
        error, inclusions = await caught(primary, mirror, kind)
        assert inclusions, "the record is proved to be in the log"
        assert "rule" in str(error) or "transfer" in str(error) or "Error" in str(error)


async def test_another_salt_secret_or_version_is_refused(tmp_path: Path) -> None:
    from p2p.mirror_messages import MirrorWelcome

    world = await used_ledger(tmp_path / "primary.db")
    async with (
        running_primary(f"sqlite:///{tmp_path / 'primary.db'}", world) as primary,
        running_mirror(tmp_path / "mirror", world) as mirror,
    ):
        await primary.log()
        true = decode_message(await primary.call(methods.LOG_WELCOME, b""), MirrorWelcome)
        for lie in (replace(true, revision="0001"), replace(true, network_id="other-" + "0" * 32)):
            with pytest.raises(IntegrityError):
                await mirror.ledger.adopt(lie)
        await mirror.follow(primary)
        with pytest.raises(IntegrityError, match="another secret"):
            await mirror.ledger.adopt(replace(true, salt_secret=bytes(32)))


# --- forks ---------------------------------------------------------------------------------------
async def forked(tmp_path: Path, world: World, tenant: Tenant) -> None:
    """Two databases with one start, a log of its own signed on each."""
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    async with running_primary(f"sqlite:///{first}", world) as primary:
        await use(primary.ledger, world, tenant)
        await primary.log()
    shutil.copyfile(first, second)
    for path, amounts in ((first, (5, 6)), (second, (7, 8, 9))):
        async with running_primary(f"sqlite:///{path}", world) as primary:
            for amount in amounts:
                await primary.ledger.submit(world.grant(tenant, amount))
                await primary.log()


async def checkpoint_of(path: Path, world: World) -> Checkpoint:
    async with running_primary(f"sqlite:///{path}", world) as primary:
        kept = await primary.ledger.read(latest_checkpoint)
        assert kept is not None
        return checkpoint_message(kept)


async def test_a_fork_proves_itself(tmp_path: Path) -> None:
    world = World()
    await forked(tmp_path, world, world.tenant())
    first = await checkpoint_of(tmp_path / "first.db", world)
    second = await checkpoint_of(tmp_path / "second.db", world)
    for branch, other in (("first", second), ("second", first)):
        folder = tmp_path / f"mirror of {branch}"
        async with (
            running_primary(f"sqlite:///{tmp_path / (branch + '.db')}", world) as primary,
            running_mirror(folder, world) as mirror,
        ):
            await mirror.follow(primary)
            assert mirror.alarms() == []
            await mirror.watch.consider(other)
            size = verify_checkpoint(other, NETWORK).head.size
            if size > await mirror.ledger.log_size():
                # It is larger than all that the mirror has: who has both compares.
                assert mirror.alarms() == []
                continue
            (found,) = mirror.alarms()
            assert (found.alarm.kind, found.proven) == (FORK, True)
            assert found.alarm.size == size
            # Anybody believes it, and no changed copy of it.
            believe(found.notice, NETWORK, world.now_ms, LOG_KEYS)
            await primary.watch._take(found.notice, b"")
            assert len(primary.watch._alarms.all()) == 1
            await mirror.watch.consider(other)
            assert len(mirror.alarms()) == 1
        async with running_mirror(folder, world) as mirror:
            await mirror.watch._restore()
            assert [a.alarm.kind for a in mirror.alarms()] == [FORK]


async def test_a_primary_that_goes_back_and_forks(tmp_path: Path) -> None:
    """An older copy of the primary's database is put in its place, and it works on."""
    world = World()
    tenant, path = world.tenant(), tmp_path / "primary.db"
    async with running_mirror(tmp_path / "mirror", world) as mirror:
        async with running_primary(f"sqlite:///{path}", world) as primary:
            await use(primary.ledger, world, tenant)
            await primary.log()
        shutil.copyfile(path, tmp_path / "older.db")
        async with running_primary(f"sqlite:///{path}", world) as primary:
            await use(primary.ledger, world, world.tenant(1))
            await primary.log()
            await mirror.follow(primary)
        async with running_primary(f"sqlite:///{tmp_path / 'older.db'}", world) as primary:
            await mirror.follow(primary)
            assert [a.alarm.kind for a in mirror.alarms()] == [ROLLBACK]
            await primary.ledger.submit(world.grant(tenant, 5))
            await primary.log()
            await mirror.follow(primary)
            kinds = {a.alarm.kind: a.proven for a in mirror.alarms()}
            assert kinds == {ROLLBACK: False, FORK: True}
            while (
                await primary.ledger.read(latest_checkpoint)
            ).size < await mirror.ledger.log_size():  # type: ignore[union-attr]
                await primary.ledger.submit(world.grant(tenant, 5))
                await primary.log()
            await primary.ledger.submit(world.grant(tenant, 5))
            await primary.log()
            with pytest.raises((P2PError, LogWrongError)):
                await mirror.follow(primary)
            await mirror.cosign(primary)
            signed = decode_message(mirror.gossip.told[-1][1], Checkpoint)
            head = verify_checkpoint(signed, NETWORK).head
            kept = await mirror.ledger.read(latest_checkpoint)
            assert kept is not None
            assert head.size == kept.size, "it vouches for the log that it has seen, for no other"


async def test_an_unnamed_log_key_signs_nothing_that_counts(tmp_path: Path) -> None:
    """A stolen bootstrap certificate: another log key under it, whose checkpoints nobody takes."""
    from bootstrap.log_service import LogService
    from tests.fakes.ledger_log import BOOTSTRAP, bootstrap_chain, running_ledger

    world = World()
    async with running_ledger(f"sqlite:///{tmp_path / 'thief.db'}", world) as ledger:
        await use(ledger, world, world.tenant())
        thief = key_pair(77)
        service = LogService(
            ledger, BOOTSTRAP, thief, bootstrap_chain(), NETWORK, world.clock_ms, lambda: LOG_KEYS
        )
        await service.sequencer.catch_up()
        assert not service.sequencer._may_sign()
        kept = await ledger.read(latest_checkpoint)
        assert kept is not None
        forged = checkpoint_message(kept)
        verify_checkpoint(forged, NETWORK)  # as networks without `log_keys` see it
        with pytest.raises(ProofError, match="does not name this log key"):
            verify_checkpoint(forged, NETWORK, LOG_KEYS)
        async with running_mirror(tmp_path / "mirror", world) as mirror:
            with pytest.raises(ProofError):
                await mirror.watch.consider(forged)
            assert mirror.alarms() == []
