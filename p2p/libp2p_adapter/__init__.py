"""Owns the libp2p adapter of the network port: the only package that imports libp2p and multiaddr.

py-libp2p is imported when a network is opened, not before: it costs 1.2 s and 75 MB.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from time import time

from p2p.network import Gate, Network, RecordCheck
from p2p.signing import KeyPair
from p2p.types import NetworkId

__all__ = ["open_libp2p_network"]


@asynccontextmanager
async def open_libp2p_network(
    key_pair: KeyPair,
    network_id: NetworkId,
    *,
    gate: Gate,
    record_check: RecordCheck,
    listen_addresses: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
    announce_addresses: Sequence[str] | None = None,
    subscribes: bool = True,
    directory_server: bool = True,
    pre_shared_key: bytes | None = None,
    clock: Callable[[], float] = time,
) -> AsyncIterator[Network]:
    """Be a peer of a libp2p network while the block runs.

    One process serves one network: a second network ID in the same process is refused.

    Args:
        gate: decides who may come in; called on every fresh connection.
        listen_addresses: multiaddresses (TCP) to listen on; empty to dial only.
        announce_addresses: what others are told to dial instead of what is listened on.
        subscribes: whether this peer will subscribe to topics (relays others' messages if so).
        directory_server: whether this peer answers DHT queries (False: asks only).
        pre_shared_key: 32 bytes that every peer of a private network knows, or None.
        clock: Unix time in seconds, for message sequence numbers.
    Raises: MalformedError (an address or key), PeerUnavailableError (cannot listen there),
        WrongNetworkError (this process serves another network).
    """
    from p2p.libp2p_adapter.composition import run_network

    async with run_network(
        key_pair,
        network_id,
        gate=gate,
        record_check=record_check,
        listen_addresses=listen_addresses,
        announce_addresses=announce_addresses,
        subscribes=subscribes,
        directory_server=directory_server,
        pre_shared_key=pre_shared_key,
        clock=clock,
    ) as network:
        yield network
