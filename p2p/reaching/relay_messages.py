"""Owns the messages of reachability checks and of the relay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from p2p.codec import Limit, Message, Range, message
from p2p.limits import ADDRESSES_MAX, NAME_CHARACTERS_MAX, TEXT_CHARACTERS_MAX
from p2p.types import PeerId

REACH_CHECK = "reach.check"
RELAY_PROTOCOL = "relay/1"
"""Served by bootstraps: nodes reserve, gateways ask to be joined to a node."""
RELAYED_PROTOCOL = "relayed/1"
"""Served by hidden nodes to the bootstrap where they reserved."""
CIRCUIT = "/p2p-circuit/p2p/"


@message(151)
@dataclass(frozen=True, slots=True)
class ReachQuestion(Message):
    """Can I be dialled at one of the ports that I listen on? At my own IP address only."""

    ports: Annotated[tuple[Annotated[int, Range(1, 65_535)], ...], Limit(ADDRESSES_MAX, 1)]


@message(152)
@dataclass(frozen=True, slots=True)
class ReachAnswer(Message):
    """The address at which the asking peer answered; empty, with the reason, if it did not."""

    address: Annotated[str, Limit(256)]
    reason: Annotated[str, Limit(TEXT_CHARACTERS_MAX)] = ""


@message(153)
@dataclass(frozen=True, slots=True)
class RelayReserve(Message):
    """Pass connections on to me for as long as this stream is open (node to relay)."""


@message(154)
@dataclass(frozen=True, slots=True)
class RelayConnect(Message):
    """Join this stream to that node (gateway to relay)."""

    peer_id: Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]


@message(155)
@dataclass(frozen=True, slots=True)
class RelayIncoming(Message):
    """This stream comes from that gateway (relay to node); the handshake proves who it is."""

    peer_id: Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]


@message(156)
@dataclass(frozen=True, slots=True)
class RelayVerdict(Message):
    """Yes if `code` is empty; then the bytes that follow belong to the connection.

    `bytes_max` and `duration_ms`: when the relay will cut it.
    """

    code: Annotated[str, Limit(64)] = ""
    reason: Annotated[str, Limit(TEXT_CHARACTERS_MAX)] = ""
    bytes_max: Annotated[int, Range(0, 2**53)] = 0
    duration_ms: Annotated[int, Range(0, 2**53)] = 0
