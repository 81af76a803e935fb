"""Owns joining a network once: from keys and addresses to a certificate in the data folder.

It serves nothing: `node.app` does, with what this left in the folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from node.joining import NodeStanding
from p2p.account_file import AccountKeys
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.identity import load_or_create_key
from p2p.membership import Membership
from p2p.network_configuration import NetworkConfiguration
from p2p.opening_messages import InviteSecret
from p2p.software import SOFTWARE
from p2p.types import NetworkId, PeerId, Role

CERTIFICATE_FILE = "certificate.msgpack"
CONFIGURATION_FILE = "configuration.msgpack"
IDENTITY_FILE = "identity.key"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a node has once it joined."""

    peer_id: PeerId
    certificate_ends_ms: int
    configuration: NetworkConfiguration


async def enrol(
    data_dir: Path,
    network_id: NetworkId,
    bootstraps: tuple[str, ...],
    account: AccountKeys,
    *,
    invite: InviteSecret | None,
    patience_s: float,
    clock_ms: Clock,
    pre_shared_key: bytes | None = None,
) -> Enrolment:
    """Get a certificate for the identity in `data_dir`, and keep it there.

    A node that has one gets a new one: no use of an invite is counted for a node that is bound.

    Raises: RefusedError (the network says no), WrongNetworkError, PeerUnavailableError (no
        bootstrap in time), other P2PError (a file of the folder is damaged).
    """
    from p2p.libp2p_adapter import open_libp2p_network

    key_pair = load_or_create_key(data_dir / IDENTITY_FILE)
    book = ConfigurationBook(network_id, data_dir / CONFIGURATION_FILE)
    membership = Membership(
        key_pair, network_id, Role.NODE, book, clock_ms=clock_ms, software=SOFTWARE
    )
    # The old certificate, if there is one, stays where it is until there is a new one.
    fresh = data_dir / f".{CERTIFICATE_FILE}.{os.getpid()}"
    standing = NodeStanding(
        membership, account, book, fresh, software=SOFTWARE, clock_ms=clock_ms, invite=invite
    )
    try:
        async with open_libp2p_network(
            key_pair,
            network_id,
            gate=membership,
            pre_shared_key=pre_shared_key,
            record_check=_no_record,
            listen_addresses=(),
            subscribes=False,
            directory_server=False,
        ) as network:
            await standing.join(network, bootstraps, patience_s=patience_s)
        os.replace(fresh, data_dir / CERTIFICATE_FILE)
    finally:
        fresh.unlink(missing_ok=True)
    return Enrolment(key_pair.peer_id, standing.ends_ms, book.current)


def _no_record(key: bytes, value: bytes) -> int:
    raise AssertionError("a newcomer keeps no records")
