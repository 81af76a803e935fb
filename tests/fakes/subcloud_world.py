"""Owns the world of the subcloud simulation: a hub, a bootstrap, three gateways (one of them a
rogue), owners whose policies change, honest nodes and liars, partitions; and who ran what."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio

from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError, SessionLostError
from p2p.job_messages import Offer
from p2p.memory_network import MemoryHub
from p2p.network import Network, Stream
from p2p.prices import PriceTerms
from p2p.signing import KeyPair, Signed
from p2p.subclouds.records import subcloud_topic
from p2p.subclouds.terms import subcloud_terms
from p2p.types import PeerId
from tests.fakes import trust
from tests.fakes.clocks import START_MS
from tests.fakes.networks import SimpleGate
from tests.fakes.subcloud_bootstrap import SimBootstrap
from tests.fakes.subcloud_gateways import Job, SimGateway
from tests.fakes.subcloud_nodes import SimNode, draw_plan
from tests.fakes.subcloud_owners import DIGESTS, NETWORK_MODELS, Owner, Version, random_fields
from tests.fakes.subcloud_reference import why_not_global, why_not_here

HEAR, OFFER = "sim-hear/1", "sim-offer/1"
TELL_INTERVAL_S = 20.0
LIST_INTERVAL_S = 30.0
ROGUE_NODES = 40
MODEL_NAMES = ("model-0", "model-1", "model-2", "tuned")


@dataclass(frozen=True, slots=True)
class Size:
    """How large a world is, and how long it lives (virtual seconds)."""

    nodes: int = 200
    subclouds: int = 30
    jobs: int = 150
    life_s: float = 18.0
    settle_s: float = 10.0


@dataclass
class SimWorld:
    """One seed's world. `violations`: what ran that must not have run; has to stay empty."""

    seed: int
    size: Size
    clock_ms: Clock
    violations: list[str] = field(default_factory=list)
    ran: int = 0
    refused_rubbish: int = 0

    def __post_init__(self) -> None:
        """Draw owners and nodes; nothing runs yet."""
        self._wrongly_sent: dict[tuple[bytes, PeerId], str] = {}
        self.chance = random.Random(self.seed)
        # Delays make a task of each delivery: in some worlds only.
        delay_s = (0.005, 0.05) if self.seed % 4 == 0 else (0.0, 0.0)
        self.hub = MemoryHub(self.seed, delay_s=delay_s, gossip_loss=0.05)
        self.configuration = trust.book_with(trust.configuration(models=NETWORK_MODELS))
        keys = [KeyPair(bytes([number]) * 32) for number in (201, 202, 203, 204)]
        self.bootstrap = SimBootstrap(self.hub, keys[0].peer_id, self.clock_ms)
        self._bootstrap_key = keys[0]
        self.owners = [
            Owner(self.seed, number, self.chance) for number in range(self.size.subclouds)
        ]
        self.evil = self.owners[0]
        gateways = (keys[1].peer_id, keys[2].peer_id)
        for owner in self.owners:
            fields = random_fields(self.chance, gateways)
            if owner is self.evil:  # everybody is welcome, and should leave the global pool
                fields = {"join": "open", "isolate": True, "callers": {"anyone": True}}
            owner.publish(self.clock_ms(), **fields)
        plans = [
            draw_plan(self.seed, number, self.owners, self.chance)
            for number in range(self.size.nodes)
        ]
        self.nodes = {
            plan.peer_id: SimNode(plan, self.configuration, self.bootstrap, self.clock_ms)
            for plan in plans
        }
        countries = {plan.peer_id: plan.country for plan in plans}
        self.gateways = [
            SimGateway(
                key, self.configuration, self.bootstrap, countries, self._offer_to, self.clock_ms
            )
            for key in keys[1:]
        ]
        self.honest, self.rogue = self.gateways[:2], self.gateways[2]
        self.networks: dict[PeerId, Network] = {}

    # --- the network ------------------------------------------------------------------------------
    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        """Everybody runs inside the block (late joiners: soon)."""
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            keys = [self._bootstrap_key, *(gateway.key for gateway in self.gateways)]
            for key in keys:
                self.networks[key.peer_id] = await self._open(stack, key)
            hub = self.networks[self.bootstrap.peer_id]
            for gateway in self.gateways:
                network = self.networks[gateway.peer_id]
                network.handle(HEAR, _Hearing(gateway).serve)
                await network.connect(hub.addresses()[0])
                nursery.start_soon(gateway.run, network)
            for owner in self.owners:
                revocations = owner.revocation_list(self.clock_ms())
                # Who starts with the world has been here before; late joiners know nothing.
                early = [node.book for node in self.nodes.values() if not node.plan.is_late]
                for book in (self.bootstrap.book, *early):
                    book.offer(owner.newest.record)
                    book.offer_revocations(revocations)
            nursery.start_soon(self._delegates)
            for node in self.nodes.values():
                nursery.start_soon(self._live, node)
            yield nursery
            nursery.cancel_scope.cancel()

    async def _open(self, stack: AsyncExitStack, key: KeyPair) -> Network:
        return await stack.enter_async_context(
            self.hub.open(key, trust.NETWORK, gate=SimpleGate(), record_check=lambda key, value: 0)
        )

    async def _live(self, node: SimNode) -> None:
        await trio.sleep(node.plan.starts_s)
        async with AsyncExitStack() as stack:
            network = await self._open(stack, node.plan.key)
            self.networks[network.local] = network
            network.handle(OFFER, _Serving(self, node).serve)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.run, network)
                nursery.start_soon(self._keep_connected, node, network, self.bootstrap.peer_id)
                for gateway in self.gateways if node.plan.number < ROGUE_NODES else self.honest:
                    nursery.start_soon(self._keep_telling, node, network, gateway)

    async def _keep_connected(self, node: SimNode, network: Network, peer_id: PeerId) -> None:
        """Gossip travels along connections."""
        while True:
            try:
                await network.connect(self.networks[peer_id].addresses()[0])
            except P2PError:
                pass
            await trio.sleep(5)

    async def _keep_telling(self, node: SimNode, network: Network, gateway: SimGateway) -> None:
        """A session: the node dials, and tells at its begin, at changes, and now and then."""
        while True:
            change = node.manager.statement_change
            try:
                await network.connect(self.networks[gateway.peer_id].addresses()[0])
                stream = await network.open_stream(gateway.peer_id, HEAR)
                statement = node.statement()
                parts = [node.advert(), *([statement] if statement is not None else [])]
                await stream.send_all(b"".join(_frame(encode_message(part)) for part in parts))
                await stream.close()
            except P2PError:
                gateway.lost(node.plan.peer_id)
                await trio.sleep(1)
                continue
            again_s = trio.current_time() + TELL_INTERVAL_S
            while network.way_to(gateway.peer_id) is not None:
                if change.is_set() or trio.current_time() >= again_s:
                    break
                with trio.move_on_after(2):  # a session that broke is noticed
                    await change.wait()

    async def _offer_to(self, gateway: SimGateway, peer_id: PeerId, offer: Offer) -> str:
        # Judged by what the gateway knows now: what reaches it while the offer is on its way to the
        # node was not known when it chose.
        self._wrongly_sent[offer.job_id, peer_id] = self._why_not_to_send(
            gateway, self.nodes[peer_id], offer
        )
        stream = await self.networks[gateway.peer_id].open_stream(peer_id, OFFER)
        try:
            with trio.fail_after(5):
                await stream.send_all(_frame(encode_message(offer)))
                return (await _Frames(stream).next()).decode()
        except trio.TooSlowError as error:
            raise SessionLostError("no answer to an offer") from error
        finally:
            await stream.close()

    # --- owners and delegates ---------------------------------------------------------------------
    async def _delegates(self) -> None:
        """Answer requests, attest, and renew the lists, for as long as the world lives."""
        next_lists_s = LIST_INTERVAL_S
        while True:
            requests, self.bootstrap.requests = self.bootstrap.requests, []
            for request in requests:
                owner = self.owner_of(request.subcloud_id)
                if request.peer_id not in owner.banned:
                    signed = owner.certify(request.peer_id, self.clock_ms())
                    self.bootstrap.answers.setdefault(request.peer_id, []).append(signed)
            if trio.current_time() >= next_lists_s:
                next_lists_s = trio.current_time() + LIST_INTERVAL_S
                for owner in self.owners:
                    await self.publish_list(owner)
            await trio.sleep(1)

    def owner_of(self, identity: str) -> Owner:
        """Who owns a subcloud."""
        return next(owner for owner in self.owners if owner.identity == identity)

    def attest_all(self) -> None:
        """Delegates vouch for where some nodes are (truthfully), and are taken in by some liars."""
        for node in self.nodes.values():
            for owner in node.plan.wants if node.plan.lie in ("traveller", "laggard") else ():
                owner.certify(node.plan.peer_id, self.clock_ms())
            for owner in node.plan.attested:
                signed = owner.attest(node.plan.peer_id, node.plan.country, self.clock_ms())
                node.evidence.append(signed)

    async def publish_list(self, owner: Owner) -> None:
        """Hand a revocation list to the bootstrap, which gossips it."""
        signed = owner.revocation_list(self.clock_ms())
        self.bootstrap.book.offer_revocations(signed)
        await self._gossip(owner, encode_message(signed))

    async def publish(self, owner: Owner, **fields: object) -> Version:
        """Publish the next version of a policy."""
        version = owner.publish(self.clock_ms(), **fields)
        self.bootstrap.book.offer(version.record)
        await self._gossip(owner, encode_message(version.record))
        return version

    async def _gossip(self, owner: Owner, data: bytes) -> None:
        network = self.networks[self.bootstrap.peer_id]
        await network.publish(subcloud_topic(owner.identity), data)

    # --- what ran ---------------------------------------------------------------------------------
    def note_run(self, gateway_id: PeerId, node: SimNode, offer: Offer) -> None:
        """A node has taken a job: was that right?"""
        gateway = next(g for g in self.gateways if g.peer_id == gateway_id)
        self.ran += 1
        why = self._why_wrong(gateway, node, offer)
        if why:
            where = offer.terms.subcloud_id or "the global pool"
            lie = node.plan.lie or "honest"
            self.violations.append(
                f"at {trio.current_time():.1f} s a {lie} node ran a job of {where} sent by "
                f"{'the rogue' if gateway is self.rogue else 'a gateway'}: {why}"
            )

    def _why_wrong(self, gateway: SimGateway, node: SimNode, offer: Offer) -> str:
        if gateway is self.rogue:
            return self._why_fooled(node, offer)
        if not offer.terms.subcloud_id and self._has_left(node):
            return "it left the global pool by its own word"
        return self._wrongly_sent[offer.job_id, offer.node_id]

    def _why_not_to_send(self, gateway: SimGateway, node: SimNode, offer: Offer) -> str:
        identity, model = offer.terms.subcloud_id, offer.model_digest
        if gateway is self.rogue:
            return ""
        if not identity:
            return why_not_global(gateway, node, model, self.owners)
        owner = self.owner_of(identity)
        return why_not_here(gateway, node, model, offer.terms.policy_digest.hex(), owner)

    def _has_left(self, node: SimNode) -> bool:
        """Whether an honest node works for one subcloud only, by what it knows itself."""
        return not node.plan.lie and bool(node.manager.isolated)

    def _why_fooled(self, node: SimNode, offer: Offer) -> str:
        """An honest node must not be fooled by a gateway without rules; liars take anything."""
        if node.plan.lie:
            return ""
        terms = offer.terms
        if not terms.subcloud_id:
            return "it left the global pool" if self._has_left(node) else ""
        owner = self.owner_of(terms.subcloud_id)
        known = node.book.get(owner.identity)
        mine = [v for v in owner.versions if known and v.policy.version <= known.policy.version]
        digests = [v.digest for v in mine[-2:]]
        if terms.policy_digest.hex() not in digests:
            return "it took a version that it does not know as new"
        if owner.identity not in node.manager.kept.memberships:
            return "it is no member"
        assert known is not None
        peers = known.policy.gateways.peers
        if known.policy.join == "private" or peers:
            return "" if offer.gateway_id in peers else "the policy does not name the rogue"
        return ""

    # --- jobs -------------------------------------------------------------------------------------
    def draw_job(self, number: int) -> Job:
        """Draw a request."""
        owner = self.chance.choice([None, *self.owners])
        identity = owner.identity if owner is not None else ""
        return Job(number, identity, self.chance.choice(MODEL_NAMES), self.clock_ms())  # type: ignore[arg-type]

    async def rogue_job(self) -> None:
        """The rogue offers anything to anybody."""
        owner = self.chance.choice(self.owners)
        version = self.chance.choice(owner.versions)
        digest = self.chance.choice(DIGESTS)
        model = next((m for m in NETWORK_MODELS if m.digest == digest.hex()), NETWORK_MODELS[0])
        whole = self.chance.random() < 0.7
        terms: PriceTerms = subcloud_terms(
            self.configuration.current,
            version.policy if whole else None,
            version.digest,
            model,
        )
        nodes = [p for p in list(self.nodes)[:ROGUE_NODES] if p in self.networks]
        if nodes:
            await self.rogue.send_rubbish(self.chance, nodes, terms, digest)


class _Hearing:
    """A gateway's end of what nodes tell."""

    def __init__(self, gateway: SimGateway) -> None:
        self._gateway = gateway

    async def serve(self, stream: Stream) -> None:
        frames = _Frames(stream)
        advert = decode_message(await frames.next(), Signed)
        try:
            statement = decode_message(await frames.next(), Signed)
        except SessionLostError:
            statement = None
        self._gateway.hear(stream.remote, advert, statement)


class _Serving:
    """A node's end of offers."""

    def __init__(self, world: SimWorld, node: SimNode) -> None:
        self._world = world
        self._node = node

    async def serve(self, stream: Stream) -> None:
        offer = decode_message(await _Frames(stream).next(), Offer)
        code = self._node.refusal(offer, stream.remote)
        if not code:
            self._world.note_run(stream.remote, self._node, offer)
        elif stream.remote == self._world.rogue.peer_id:
            self._world.refused_rubbish += 1
        await stream.send_all(_frame(code.encode()))


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class _Frames:
    """Reads frames from a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._held = bytearray()

    async def next(self) -> bytes:
        """The next frame. Raises: SessionLostError at the end of the stream."""
        held = self._held
        while len(held) < 4 or len(held) < 4 + int.from_bytes(held[:4], "big"):
            chunk = await self._stream.receive_some()
            if not chunk:
                raise SessionLostError("the end of the stream")
            held += chunk
        size = 4 + int.from_bytes(held[:4], "big")
        data = bytes(held[4:size])
        del held[:size]
        return data


def sim_clock() -> int:
    """Milliseconds since 1970 on the mock clock."""
    return START_MS + int(trio.current_time() * 1000)
