"""Owns the names on the wire, and what keeps networks apart on it.

Theory of operation. The ID of the network is part of every protocol ID, topic and DHT key, so a
peer of another network finds nothing to talk about. py-libp2p hard-codes the protocol IDs of
gossip (`/meshsub/1.1.0`) and of the DHT (`/ipfs/kad/1.0.0`, in six places; its `protocol_prefix`
is not used on the wire): they are rebound here, in its modules, before a host is made. That is
why one process serves one network.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from dataclasses import dataclass

from p2p.errors import WrongNetworkError
from p2p.types import NetworkId

_KAD_MODULES = (
    "common",
    "kad_dht",
    "peer_routing",
    "provider_store",
    "routing_table",
    "value_store",
)
_GOSSIP_MODULES = ("gossipsub", "pubsub")
_serving: list[NetworkId] = []


@dataclass(frozen=True, slots=True)
class Names:
    """The names that one network has on the wire."""

    network_id: NetworkId

    @property
    def hello(self) -> str:
        """The protocol that a connection begins with."""
        return self.protocol("hello/1")

    @property
    def gossip(self) -> str:
        """The gossip protocol."""
        return f"/resultity/{self.network_id}/meshsub/1.1.0"

    @property
    def directory(self) -> str:
        """The DHT protocol."""
        return f"/resultity/{self.network_id}/kad/1.0.0"

    def protocol(self, name: str) -> str:
        """The protocol ID of an application protocol."""
        return f"/resultity/{self.network_id}/{name}"

    def topic(self, name: str) -> str:
        """The gossip topic of a short name."""
        return f"resultity/{self.network_id}/{name}"

    def short_topic(self, topic: str) -> str:
        """The short name of a topic of this network."""
        return topic.removeprefix(f"resultity/{self.network_id}/")

    def record_key(self, key: bytes) -> str:
        """The DHT key of a record (`/<namespace>/<key>`; the namespace names the network)."""
        return f"/{self.namespace}/{key.hex()}"

    @property
    def namespace(self) -> str:
        """The DHT namespace of our records."""
        return f"resultity-{hashlib.sha256(self.network_id.encode()).hexdigest()[:16]}"


def enter_network(network_id: NetworkId) -> Names:
    """Make this process serve one network (again is fine).

    Raises: WrongNetworkError if it serves another one already.
    """
    names = Names(network_id)
    if _serving:
        if _serving[0] != network_id:
            raise WrongNetworkError(
                f"this process serves {_serving[0]}; start another process for {network_id}"
            )
        return names
    _rebind("libp2p.kad_dht", _KAD_MODULES, "/ipfs/kad/1.0.0", names.directory)
    _rebind("libp2p.pubsub", _GOSSIP_MODULES, "/meshsub/1.1.0", names.gossip)
    _serving.append(network_id)
    return names


def _rebind(package: str, modules: tuple[str, ...], old: str, new: str) -> None:
    """Replace a string constant in every module of a package, whatever it is called there."""
    for name in modules:
        importlib.import_module(f"{package}.{name}")
    found = 0
    for name, module in list(sys.modules.items()):
        if not name.startswith(package):
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, str) and value == old:
                setattr(module, attribute, new)
                found += 1
    assert found, f"py-libp2p no longer has {old} in {package}: isolation would not hold"
