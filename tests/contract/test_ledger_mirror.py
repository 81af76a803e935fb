"""A mirror beside its primary: it gets everything, believes nothing, and catches each forger."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger import methods
from ledger.errors import IntegrityError
from ledger.log.errors import ProofError
from ledger.log.proofs import verify_checkpoint, verify_reply
from ledger.log.witness import WitnessKey, witnesses_of
from ledger.mirror_ledger import MirrorReadOnlyError
from ledger.store.log.proofs import inclusion_reply
from ledger.store.queries import namespace_view
from p2p.codec import decode_message, encode_message
from p2p.errors import RefusedError
from p2p.log_messages import Checkpoint
from tests.fakes.ledger_log import paid_job, use
from tests.fakes.ledger_world import NETWORK, NODE_ACCOUNTS, NODES, World, key_pair
from tests.fakes.mirrors import (
    CONFIGURATION,
    PRIMARY,
    WITNESS,
    WITNESS_KEY,
    assert_same,
    running_mirror,
    running_primary,
    tamper,
)

KEY = WitnessKey(WITNESS, WITNESS_KEY.public_key)
LOG_KEYS = CONFIGURATION.log_public_keys


# --- following -----------------------------------------------------------------------------------
async def test_a_mirror_follows_and_serves_what_it_has(url: str, tmp_path: Path) -> None:
    """The primary on SQLite and on PostgreSQL, the mirror on a file of its own."""
    world = World()
    tenant = world.tenant()
    async with running_primary(url, world) as primary, running_mirror(tmp_path, world) as mirror:
        assert await mirror.follow(primary) == 0
        await use(primary.ledger, world, tenant)
        await primary.log()
        await mirror.follow(primary)
        await assert_same(primary, mirror)
        await primary.ledger.bind_node(NODES[0].peer_id, NODE_ACCOUNTS[5])
        hold, _ = await paid_job(primary.ledger, world, tenant)
        await primary.ledger.submit(world.revocation(tenant))
        await primary.log()
        await mirror.follow(primary)
        await assert_same(primary, mirror)
        ours = await mirror.ledger.read(lambda c: namespace_view(c, tenant.path))
        assert ours == await primary.ledger.read(lambda c: namespace_view(c, tenant.path))
        subject = hold.document.hold_id
        reply = await mirror.ledger.read(
            lambda c: inclusion_reply(c, subject, tenant.keys.public_key)
        )
        _, leaves = verify_reply(encode_message(reply), NETWORK, LOG_KEYS)
        assert len(leaves) == 2
        with pytest.raises(MirrorReadOnlyError, match=PRIMARY):
            await mirror.ledger.submit(world.grant(tenant, 5))
        assert mirror.alarms() == []


async def test_a_mirror_goes_on_after_a_restart(tmp_path: Path) -> None:
    world = World()
    tenant, url = world.tenant(), f"sqlite:///{tmp_path / 'primary.db'}"
    async with running_primary(url, world) as primary:
        await use(primary.ledger, world, tenant)
        await primary.log()
        await use(primary.ledger, world, world.tenant(1, "prod"))
        await primary.log()
        async with running_mirror(tmp_path / "mirror", world) as mirror:
            assert await mirror.mirror.step(primary)  # type: ignore[arg-type]
            await mirror.cosign(primary)
        for _ in range(3):
            await paid_job(primary.ledger, world, tenant)
            await primary.log()
            async with running_mirror(tmp_path / "mirror", world) as mirror:
                await mirror.follow(primary)
                await mirror.cosign(primary)
                await assert_same(primary, mirror)
    changed = tamper(
        tmp_path / "mirror" / "ledger.sqlite", "UPDATE ledger_namespaces SET grants = grants + 1"
    )
    assert changed
    with pytest.raises(BaseExceptionGroup) as failed:
        async with running_mirror(tmp_path / "mirror", world):
            pass
    assert failed.group_contains(IntegrityError, match="own copy is damaged")


async def test_a_log_that_lags_names_operations_in_any_order(tmp_path: Path) -> None:
    """Small batches cut the outbox anywhere: an operation may come before what it needs."""
    world = World()
    async with (
        running_primary(f"sqlite:///{tmp_path / 'primary.db'}", world) as primary,
        running_mirror(tmp_path / "mirror", world) as mirror,
    ):
        for number in range(8):
            for operation in world.setup(world.tenant(number), 100):
                await primary.ledger.submit(operation)
        primary.service.sequencer._sources_max = 3
        await primary.log()
        await mirror.follow(primary)
        await assert_same(primary, mirror)


async def test_records_are_for_named_mirrors_only(tmp_path: Path) -> None:
    world = World()
    async with running_primary(f"sqlite:///{tmp_path / 'primary.db'}", world) as primary:
        primary.caller = replace(primary.caller, peer_id=key_pair(62).peer_id)
        for method in (methods.LOG_WELCOME, methods.LOG_RECORDS):
            with pytest.raises(RefusedError, match="mirror_peers"):
                await primary.call(method, b"")


# --- witness -------------------------------------------------------------------------------------
async def test_the_primary_serves_what_the_witness_signed(tmp_path: Path) -> None:
    world = World()
    tenant = world.tenant()
    async with (
        running_primary(f"sqlite:///{tmp_path / 'primary.db'}", world) as primary,
        running_mirror(tmp_path / "mirror", world) as mirror,
    ):
        await use(primary.ledger, world, tenant)
        hold, _ = await paid_job(primary.ledger, world, tenant)
        await primary.log()
        await mirror.follow(primary)
        await mirror.cosign(primary)
        await mirror.cosign(primary)  # once for each size
        ((topic, data),) = mirror.gossip.told
        assert topic == "checkpoints"
        told = decode_message(data, Checkpoint)
        served = decode_message(await primary.call(methods.LOG_CHECKPOINT, b""), Checkpoint)
        for found in (told, served):
            verify_checkpoint(found, NETWORK, LOG_KEYS)
            assert [w.name for w in witnesses_of(found.note, [KEY])] == [WITNESS]
        # The log goes on; proofs of what is older come under what the witness has signed.
        await primary.ledger.submit(world.grant(tenant, 5))
        await primary.log()
        reply = await primary.ledger.read(
            lambda c: inclusion_reply(c, hold.document.hold_id, tenant.keys.public_key)
        )
        verify_reply(encode_message(reply), NETWORK, LOG_KEYS)
        assert witnesses_of(reply.checkpoint.note, [KEY])
        for line in (b"", b"\xe2\x80\x94 x y\n"):
            body = encode_message(replace(_cosignature(told), line=line))
            with pytest.raises(RefusedError, match="no cosignature of a witness"):
                await primary.call(methods.LOG_COSIGN, body)


def _cosignature(checkpoint: Checkpoint) -> Any:
    from p2p.mirror_messages import Cosignature

    size = verify_checkpoint(checkpoint, NETWORK).head.size
    line = checkpoint.note.splitlines(keepends=True)[-1]
    return Cosignature(size, line)


async def test_a_witness_never_signs_two_logs(tmp_path: Path) -> None:
    """Not even with an empty copy: what it signed last is in a file of its own."""
    world = World()
    tenant = world.tenant()
    mirror_folder, other = tmp_path / "mirror", tmp_path / "other"
    async with running_primary(f"sqlite:///{tmp_path / 'primary.db'}", world) as primary:
        await use(primary.ledger, world, tenant)
        await primary.log()
        async with running_mirror(mirror_folder, world) as mirror:
            await mirror.follow(primary)
            await mirror.cosign(primary)
    other.mkdir()
    shutil.copyfile(mirror_folder / "witness.last", other / "witness.last")
    async with (
        running_primary(f"sqlite:///{tmp_path / 'forked.db'}", world) as forked,
        running_mirror(other, world) as mirror,
    ):
        await use(forked.ledger, world, world.tenant(1))
        await forked.log()
        size = await mirror.follow(forked)
        assert size
        await use(forked.ledger, world, world.tenant(2))
        await forked.log()
        await mirror.follow(forked)
        with pytest.raises(ProofError, match="not the one that this witness has cosigned"):
            await mirror.cosign(forked)
        assert mirror.gossip.told == []
