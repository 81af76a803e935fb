"""The log's calls: what every member gets, what only its owner gets, and gossip of checkpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.log_service import CHECKPOINT_TOPIC, LogService
from ledger import methods
from ledger.limits import LOG_LEAVES_MAX
from ledger.log import merkle
from ledger.log.proofs import verify_checkpoint, verify_reply
from p2p.calls import Caller
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError, RefusedError, StaleError, UntrustedError
from p2p.log_messages import Checkpoint, ConsumerLeg, InclusionRequest, LogRange
from p2p.signing import KeyPair
from p2p.types import Role
from tests.fakes.ledger_desk import caller
from tests.fakes.ledger_log import BOOTSTRAP, LOG_KEY, bootstrap_chain, paid_job, running_ledger
from tests.fakes.ledger_world import GATEWAY, NETWORK, NODES, Tenant, World, key_pair

NODE = caller(NODES[0], Role.NODE)


class LogDesk:
    """A service on a used ledger."""

    def __init__(self, world: World, tenant: Tenant, service: LogService, hold_id: bytes) -> None:
        self.world, self.tenant, self.service, self.hold_id = world, tenant, service, hold_id

    async def call(self, method: str, body: bytes = b"", who: Caller = NODE) -> bytes:
        return await self.service.handlers()[method](who, body)

    def question(self, keys: KeyPair, **changes: object) -> bytes:
        document = InclusionRequest(self.hold_id, bytes(16), self.world.now_ms)
        return encode_message(keys.sign(NETWORK, replace(document, **changes)))


@asynccontextmanager
async def desk(tmp_path: Path) -> AsyncIterator[LogDesk]:
    world = World()
    tenant = world.tenant()
    async with running_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", world) as ledger:
        for operation in world.setup(tenant, 100_000):
            await ledger.submit(operation)
        hold, _ = await paid_job(ledger, world, tenant)
        service = LogService(ledger, BOOTSTRAP, LOG_KEY, bootstrap_chain(), NETWORK, world.clock_ms)
        yield LogDesk(world, tenant, service, hold.document.hold_id)


async def test_members_follow_the_logs_growth(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        with pytest.raises(RefusedError, match="empty so far"):
            await at.call(methods.LOG_CHECKPOINT)
        await at.service.sequencer.catch_up()
        first = decode_message(await at.call(methods.LOG_CHECKPOINT), Checkpoint)
        old = verify_checkpoint(first, NETWORK).head
        await at.service._ledger.submit(at.world.grant(at.tenant, 5))
        await at.service.sequencer.catch_up()
        second = decode_message(await at.call(methods.LOG_CHECKPOINT), Checkpoint)
        new = verify_checkpoint(second, NETWORK).head
        assert new.size == old.size + 1
        sizes = encode_message(LogRange(old.size, new.size))
        proof = await at.call(methods.LOG_CONSISTENCY, sizes)
        hashes = [proof[start : start + 32] for start in range(0, len(proof), 32)]
        merkle.verify_consistency(old.size, new.size, old.root, new.root, hashes)
        leaves = await at.call(methods.LOG_LEAVES, encode_message(LogRange(0, new.size)))
        assert len(leaves) == 32 * new.size


async def test_a_leaf_is_opened_for_its_owner_only(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        question = at.question(at.tenant.keys)
        with pytest.raises(RefusedError, match="not in the log yet"):
            await at.call(methods.LOG_INCLUSION, question)
        await at.service.sequencer.catch_up()
        for courier in (NODE, caller(GATEWAY)):
            answer = await at.call(methods.LOG_INCLUSION, question, courier)
            _, leaves = verify_reply(answer, NETWORK)
            assert [leaf.kind for leaf in leaves if isinstance(leaf, ConsumerLeg)] == [
                "hold",
                "capture",
            ]
        for stranger in (key_pair(99), NODES[2], BOOTSTRAP):
            with pytest.raises(RefusedError) as refused:
                await at.call(methods.LOG_INCLUSION, at.question(stranger))
            assert refused.value.code == "not_authorized"


async def test_bad_questions(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.service.sequencer.catch_up()
        keys = at.tenant.keys
        old = at.question(keys, issued_ms=at.world.now_ms - 10**6)
        with pytest.raises(StaleError):
            await at.call(methods.LOG_INCLUSION, old)
        forged = decode_any_signed(at.question(key_pair(99)), keys)
        with pytest.raises(UntrustedError):
            await at.call(methods.LOG_INCLUSION, forged)
        with pytest.raises(RefusedError, match="16 bytes"):
            await at.call(methods.LOG_INCLUSION, at.question(keys, subject=bytes(20)))
        for method, begin, end in (
            (methods.LOG_CONSISTENCY, 1, 10**6),
            (methods.LOG_CONSISTENCY, 3, 2),
            (methods.LOG_LEAVES, 0, LOG_LEAVES_MAX + 1),
            (methods.LOG_LEAVES, 5, 4),
        ):
            with pytest.raises(RefusedError):
                await at.call(method, encode_message(LogRange(begin, end)))
        for method in at.service.handlers():
            nobody = Caller(key_pair(98).peer_id, None)
            with pytest.raises(P2PError):
                await at.call(method, b"", nobody)


def decode_any_signed(data: bytes, claimed: KeyPair) -> bytes:
    """The same document under somebody else's name."""
    from p2p.signing import Signed

    return encode_message(replace(decode_message(data, Signed), signer=claimed.public_key))


class GossipDesk:
    """Keeps what was published."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bytes]] = []

    async def publish(self, topic: str, data: bytes) -> None:
        self.told.append((topic, data))


async def test_a_checkpoint_is_gossiped_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        network = GossipDesk()
        told = await at.service._tell(network, -1)  # type: ignore[arg-type]
        assert (told, network.told) == (-1, [])
        await at.service.sequencer.catch_up()
        told = await at.service._tell(network, told)  # type: ignore[arg-type]
        told = await at.service._tell(network, told)  # type: ignore[arg-type]
        ((topic, data),) = network.told
        assert topic == CHECKPOINT_TOPIC
        assert verify_checkpoint(decode_message(data, Checkpoint), NETWORK).head.size == told
