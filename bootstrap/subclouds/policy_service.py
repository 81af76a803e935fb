"""Owns the calls about policies, names and revocation lists, and what a bootstrap hears of them.

Whoever hands something new in has it gossiped at once; what another bootstrap wrote to the same
database that one has gossiped. Records are put on the DHT when they are new and twice a day.
"""

from __future__ import annotations

import logging

import trio

from bootstrap.limits import (
    SUBCLOUD_DATABASE_POLL_INTERVAL_S,
    SUBCLOUD_DHT_INTERVAL_S,
    SUBCLOUD_DHT_PAUSE_S,
    SUBCLOUD_TELL_QUEUE_MAX,
)
from bootstrap.subclouds.answers import WriteLimits, as_many_as_fit, stored, told
from bootstrap.subclouds.publishing import Publisher
from bootstrap.subclouds.registry import SubcloudRegistry
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.store.directory_store import evidence, policy_records
from p2p.calls import Caller, CallHandler
from p2p.codec import decode_any_message, decode_message, encode_message, encode_messages
from p2p.errors import P2PError, RefusedError
from p2p.network import Network
from p2p.signing import Signed
from p2p.subclouds import directory_messages as calls
from p2p.subclouds.directory_messages import SubcloudQuestion
from p2p.subclouds.gossip_intake import GossipIntake
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.policy_gossip import (
    claimed_subcloud,
    claimed_version,
    gossip_policy,
    gossip_revocations,
    put_policy,
)
from p2p.subclouds.records import KnownPolicy, PolicyRecord, all_subcloud_topics
from p2p.types import PeerId

log = logging.getLogger(__name__)
RECORDS_PER_ANSWER_MAX = 64


class PolicyService:
    """Answers, listens and tells."""

    def __init__(
        self, registry: SubcloudRegistry, publisher: Publisher, ledger: Ledger, limits: WriteLimits
    ) -> None:
        """Serve one bootstrap's directory."""
        self._registry = registry
        self._publisher = publisher
        self._ledger = ledger
        self._limits = limits
        self._tell, self._to_tell = trio.open_memory_channel[KnownPolicy | Signed](
            SUBCLOUD_TELL_QUEUE_MAX
        )
        self._new: dict[SubcloudId, KnownPolicy] = {}
        self._has_new = trio.Event()
        self._intake = GossipIntake(log, 0.0)
        registry.book.on_change(lambda identity: self._intake.forget())

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that members may make."""
        return told(
            {
                calls.PUBLISH: self.publish,
                calls.GET: self.get,
                calls.LIST: self.list,
                calls.HISTORY: self.history,
                calls.RESOLVE: self.resolve,
                calls.EVIDENCE: self.evidence,
                calls.PUT_REVOCATIONS: self.put_revocations,
                calls.GET_REVOCATIONS: self.get_revocations,
            }
        )

    # --- writing ----------------------------------------------------------------------------------
    async def publish(self, caller: Caller, body: bytes) -> bytes:
        """Take a policy from whoever carries it. Raises: as `Publisher.take`."""
        record = decode_message(body, PolicyRecord)
        self._limits.take(caller.peer_id, "policies")  # bans come through whatever is published
        identity = claimed_subcloud(record)
        new = await self._publisher.take(record, caller.peer_id, self._limits.take_policy)
        if new is not None:
            log.info("policy %d of %s was published", new.policy.version, new.identity)
            self._announce(new)
        return encode_message(self._registry.summary(self._registry.known(identity)))

    async def put_revocations(self, caller: Caller, body: bytes) -> bytes:
        """Take a revocation list from whoever carries it."""
        signed = decode_message(body, Signed)
        self._limits.take(caller.peer_id)
        charge = self._limits.take_list
        identity = await self._publisher.take_revocations(signed, caller.peer_id, charge)
        if identity is not None:
            log.info("a revocation list of %s was published", identity)
            self._announce(signed)
        return b""

    def _announce(self, item: KnownPolicy | Signed) -> None:
        try:
            self._tell.send_nowait(item)
        except trio.WouldBlock:
            log.warning("too much to tell by gossip: peers will ask")

    # --- reading ----------------------------------------------------------------------------------
    async def get(self, caller: Caller, body: bytes) -> bytes:
        """Give a policy's record, the newest or one version, and the newest revocation list."""
        question = decode_message(body, SubcloudQuestion)
        known = self._registry.known(question.name)
        signed = self._registry.book.signed_revocations(known.identity)
        record = known.record
        if question.version not in (0, known.policy.version):
            below = question.version + 1
            found = await self._ledger.read(lambda c: policy_records(c, known.identity, below, 1))
            record = decode_message(found[0], PolicyRecord) if found else record
            if not found or claimed_version(record) != question.version:
                raise RefusedError("unknown_subcloud", f"there is no version {question.version}")
        return encode_messages([record] if signed is None else [record, signed])

    async def list(self, caller: Caller, body: bytes) -> bytes:
        """List subclouds in the order of their last change, after a cursor."""
        return encode_message(self._registry.page(decode_message(body, SubcloudQuestion).after))

    async def resolve(self, caller: Caller, body: bytes) -> bytes:
        """Say which subcloud a name means."""
        known = self._registry.known(decode_message(body, SubcloudQuestion).name)
        return encode_message(self._registry.summary(known))

    async def history(self, caller: Caller, body: bytes) -> bytes:
        """Give the versions below one, newest first."""
        question = decode_message(body, SubcloudQuestion)
        identity = self._registry.known(question.name).identity
        found = await self._ledger.read(
            lambda c: policy_records(c, identity, question.version, RECORDS_PER_ANSWER_MAX)
        )
        return as_many_as_fit(stored(found))

    async def evidence(self, caller: Caller, body: bytes) -> bytes:
        """Give what was refused and kept, newest first."""
        question = decode_message(body, SubcloudQuestion)
        identity = self._registry.resolve(question.name) if question.name else ""
        found = await self._ledger.read(lambda c: evidence(c, identity, RECORDS_PER_ANSWER_MAX))
        return as_many_as_fit(stored(found))

    async def get_revocations(self, caller: Caller, body: bytes) -> bytes:
        """Give the newest revocation list; nothing if there is none."""
        known = self._registry.known(decode_message(body, SubcloudQuestion).name)
        signed = self._registry.book.signed_revocations(known.identity)
        return encode_message(signed) if signed is not None else b""

    # --- beside -----------------------------------------------------------------------------------
    async def run(self, network: Network) -> None:
        """Listen, tell and follow the database until cancelled."""
        async with trio.open_nursery() as nursery:
            for topic in all_subcloud_topics():
                nursery.start_soon(self._listen, network, topic)
            nursery.start_soon(self._tell_all, network)
            nursery.start_soon(self._follow_database)
            nursery.start_soon(self._put_on_dht, network)
            nursery.start_soon(self._keep_on_dht, network)

    async def _listen(self, network: Network, topic: str) -> None:
        async for item in network.subscribe(topic):
            if not self._intake.admits(item.data, item.author, trio.current_time()):
                continue
            try:
                await self._hear(item.data, item.author)
            except (P2PError, LedgerError) as error:
                self._intake.refuse(item.data, item.author, error, trio.current_time())

    async def _hear(self, data: bytes, author: PeerId) -> None:
        match decode_any_message(data):
            case PolicyRecord() as record:
                identity = claimed_subcloud(record)
                known = self._registry.book.get(identity)
                if known is not None and known.record == record:
                    return
                self._limits.take(author)
                await self._publisher.take(record, author, self._limits.take_policy)
            case Signed() as signed:
                listed = decode_message(signed.body, RevocationList).subcloud_id
                if self._registry.book.signed_revocations(listed) == signed:
                    return
                self._limits.take(author)
                await self._publisher.take_revocations(signed, author, self._limits.take_list)
            case _:
                pass  # news of what is too large for gossip: its bootstrap gives it to who asks

    async def _tell_all(self, network: Network) -> None:
        async for item in self._to_tell:
            try:
                if isinstance(item, KnownPolicy):
                    await gossip_policy(network, item)
                    self._new[item.identity] = item
                    self._has_new.set()
                else:
                    await gossip_revocations(network, item)
            except P2PError as error:
                log.warning("a change of a subcloud was not gossiped: %s", error)

    async def _follow_database(self) -> None:
        while True:
            await trio.sleep(SUBCLOUD_DATABASE_POLL_INTERVAL_S)
            try:
                await self._registry.catch_up()
            except LedgerError as error:
                log.warning("the directory of subclouds cannot be read: %s", error)

    async def _put_on_dht(self, network: Network) -> None:
        # Apart: a DHT that answers slowly must not hold gossip up.
        while True:
            await self._has_new.wait()
            self._has_new = trio.Event()
            new, self._new = self._new, {}
            for known in new.values():
                await put_policy(network, known)

    async def _keep_on_dht(self, network: Network) -> None:
        while True:
            await trio.sleep(SUBCLOUD_DHT_INTERVAL_S)
            for known in self._registry.book.all():
                await put_policy(network, known)
                await trio.sleep(SUBCLOUD_DHT_PAUSE_S)
