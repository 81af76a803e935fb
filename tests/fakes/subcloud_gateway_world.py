"""Owns a gateway with subclouds for tests: an owner who publishes, and members who say so."""

from __future__ import annotations

from typing import Any

import httpx
import trio

from p2p.account_proof import AccountProof
from p2p.codec import encode_message
from p2p.signing import Signed
from p2p.subclouds.identity import SubcloudId, subcloud_id
from p2p.subclouds.memberships import (
    MEMBERSHIPS_TOPIC,
    Membership,
    MembershipCertificate,
    MembershipStatement,
    RevocationList,
)
from p2p.subclouds.policy import SubcloudPolicy, policy_digest, sign_policy
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.records import PolicyRecord, subcloud_topic
from p2p.types import PeerId
from tests.fakes import trust
from tests.fakes.gateway_world import GatewayWorld, chat
from tests.fakes.nodes import FakeNode

DELEGATE = trust.key_pair(61)
OWNER = trust.account_keys(trust.key_pair(62))
ANYONE = {"callers": {"anyone": True}}
DAY_MS = 86_400_000


def identity_of(label: str = "team") -> SubcloudId:
    """The ID of the owner's subcloud with that label."""
    return subcloud_id(trust.NETWORK, OWNER.account_id, label)


class SubcloudGatewayWorld(GatewayWorld):
    """Publish policies before or while it runs; nodes join by what they say over their sessions."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.records: dict[SubcloudId, PolicyRecord] = {}
        self.said: dict[PeerId, dict[SubcloudId, Membership]] = {}
        self.nodes_connected = len(self.nodes)
        """How many nodes have a session before anything is gossiped."""
        self._sequence = 0
        self._lists = 0

    # --- the owner --------------------------------------------------------------------------------
    def record(self, label: str = "team", **fields: Any) -> PolicyRecord:
        """Sign the next version of a policy: open, for anyone, but for the given fields."""
        identity = identity_of(label)
        before = self.records.get(identity)
        old = SubcloudPolicy.model_validate_json(before.policy.body) if before is not None else None
        now_ms = self.clock_ms()
        content: dict[str, Any] = {
            "network_id": trust.NETWORK,
            "subcloud_id": identity,
            "version": old.version + 1 if old is not None else 1,
            "predecessor_digest": policy_digest(before.policy) if before is not None else None,
            "issued_ms": now_ms,
            "expires_ms": now_ms + DAY_MS,
            "owner": OWNER.account_id,
            "delegate_keys": (DELEGATE.public_key.hex(),),
            # Whoever sends must be named in a private one: this gateway belongs to another account.
            "gateways": {"peers": (trust.GATEWAY.peer_id,)},
            **ANYONE,
        }
        policy = SubcloudPolicy.model_validate(content | fields)
        signed = sign_policy(OWNER.signing, policy)
        record = self.records[identity] = PolicyRecord(signed, (), (AccountProof(OWNER.founding),))
        return record

    def publish(self, label: str = "team", **fields: Any) -> SubcloudId:
        """Put the next version where the gateway finds it when it starts."""
        PolicyBook(trust.NETWORK, self.data_dir / "policies").offer(self.record(label, **fields))
        return identity_of(label)

    def digest(self, identity: SubcloudId) -> bytes:
        """The digest of the newest version."""
        return bytes.fromhex(policy_digest(self.records[identity].policy))

    async def gossip(self, label: str = "team", **fields: Any) -> None:
        """Tell everybody of the next version."""
        record = self.record(label, **fields)
        await self.bootstrap_network.publish(
            subcloud_topic(identity_of(label)), encode_message(record)
        )

    async def gossip_list(self, label: str = "team", *banned: PeerId) -> None:
        """Tell everybody of the next revocation list."""
        self._lists += 1
        identity = identity_of(label)
        document = RevocationList(identity, self._lists, self.clock_ms(), banned)
        signed = DELEGATE.sign(trust.NETWORK, document)
        await self.bootstrap_network.publish(subcloud_topic(identity), encode_message(signed))

    # --- members ----------------------------------------------------------------------------------
    def join(
        self,
        node: FakeNode,
        label: str = "team",
        *,
        isolates: bool = False,
        certified: bool = False,
    ) -> None:
        """A node joins, and says so."""
        identity, now_ms = identity_of(label), self.clock_ms()
        certificate = None
        if certified:
            document = MembershipCertificate(
                bytes(16), identity, node.key_pair.peer_id, now_ms, now_ms + DAY_MS
            )
            certificate = DELEGATE.sign(trust.NETWORK, document)
        digest = self.digest(identity) if identity in self.records else bytes(32)
        named = self.said.setdefault(node.key_pair.peer_id, {})
        named[identity] = Membership(identity, digest, now_ms, isolates, certificate)
        node.say(self.statement(node))

    def leave(self, node: FakeNode, label: str = "team") -> None:
        """A node leaves, and says so."""
        del self.said[node.key_pair.peer_id][identity_of(label)]
        node.say(self.statement(node))

    def statement(self, node: FakeNode, **fields: Any) -> Signed:
        """What a node says of its memberships."""
        self._sequence += 1
        now_ms, peer_id = self.clock_ms(), node.key_pair.peer_id
        memberships = tuple(self.said.get(peer_id, {}).values())
        document = MembershipStatement(
            peer_id, self._sequence, now_ms, now_ms + 300_000, node.chain, memberships, **fields
        )
        return node.key_pair.sign(trust.NETWORK, document)

    async def gossip_statement(self, node: FakeNode) -> None:
        """A node's statement by gossip: nobody else's word for it is looked at."""
        if MEMBERSHIPS_TOPIC not in self.bootstrap_network.subscriptions:
            self.bootstrap_network.subscribe(MEMBERSHIPS_TOPIC)  # who subscribes passes on
        network = self.hub.networks[node.key_pair.peer_id]
        await network.connect(self.bootstrap_network.addresses()[0])
        await network.publish(MEMBERSHIPS_TOPIC, encode_message(self.statement(node)))

    # --- what the gateway knows -------------------------------------------------------------------
    async def page(self, client: httpx.AsyncClient, label: str = "team") -> dict[str, Any]:
        """The public facts of a subcloud, as they are now."""
        assert self.running is not None
        response = await client.get(f"/status/subclouds/{identity_of(label)}")
        return dict(response.json())

    async def settled(
        self, client: httpx.AsyncClient, label: str = "team", **wanted: object
    ) -> dict[str, Any]:
        """Wait until the public facts of a subcloud are these."""
        with trio.fail_after(20):
            while True:
                shown = await self.page(client, label)
                if all(shown.get(name) == value for name, value in wanted.items()):
                    return shown
                await trio.sleep(0.05)

    async def _ready(self, client: httpx.AsyncClient) -> None:
        with trio.fail_after(20):
            while True:
                health = (await client.get("/healthz")).json()
                if health["status"] == "ok" and health["nodes"] == self.nodes_connected:
                    return
                await trio.sleep(0.02)


def text_of(response: httpx.Response) -> str:
    """The text of an answer."""
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a response with that status."""
    assert response.status_code == status, response.text
    return dict(response.json()["error"])


def in_team(**fields: Any) -> dict[str, Any]:
    """The body of a chat request to the subcloud `team`."""
    return chat(**fields) | {"model": f"tiny-chat@{identity_of()}"}
