"""Owns what gateways say about themselves, so that nodes behind a router can dial them. Pure.

Theory of operation. A gateway that can be dialled signs a statement: its peer ID, its certificate
chain, its addresses, a sequence number and an end. It gives it to its bootstrap and publishes it on
a topic; bootstraps keep those that are alive and hand them on as they were signed. Nodes verify
signature and certificate themselves: who hands a statement on adds nothing to it and can only leave
it out. A newer sequence replaces an older one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.certificates import Certificate, verify_chain
from p2p.codec import Limit, Range, message
from p2p.errors import StaleError, UntrustedError
from p2p.freshness import check_times
from p2p.limits import (
    ADDRESSES_MAX,
    CERTIFICATES_MAX,
    GATEWAY_STATEMENT_LIFETIME_S,
    GATEWAYS_KNOWN_MAX,
    NAME_CHARACTERS_MAX,
)
from p2p.newest_book import NewestBook
from p2p.signing import Document, Signed, open_signed
from p2p.types import NetworkId, PeerId, Role

GATEWAYS_TOPIC = "gateways"
GATEWAYS_LIST = "gateways.list"
GATEWAYS_ANNOUNCE = "gateways.announce"
Name = Annotated[str, Limit(NAME_CHARACTERS_MAX)]


@message(150)
@dataclass(frozen=True, slots=True)
class GatewayStatement(Document):
    """A gateway's signed statement about itself: nodes may dial me here."""

    PURPOSE: ClassVar[str] = "gateway-statement"
    peer_id: Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
    sequence: Annotated[int, Range(0, 2**63 - 1)]
    issued_ms: int
    expires_ms: int
    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX, 1)]
    addresses: Annotated[tuple[Annotated[str, Limit(256)], ...], Limit(ADDRESSES_MAX)]
    software: Name


@dataclass(frozen=True, slots=True)
class KnownGateway:
    """A statement that was verified, with its signed form and the certificate behind it."""

    statement: GatewayStatement
    signed: Signed
    certificate: Certificate


def verify_gateway(signed: Signed, network: NetworkId, now_ms: int) -> KnownGateway:
    """Check a statement: signature, certificate, role, time, whose addresses it names.

    Raises: UntrustedError, StaleError, WrongNetworkError, MalformedError.
    """
    statement = open_signed(signed, GatewayStatement, network)
    if signed.peer_id != statement.peer_id:
        raise UntrustedError("a statement about another gateway")
    check_times(statement.issued_ms, statement.expires_ms, now_ms)
    if statement.expires_ms - statement.issued_ms > GATEWAY_STATEMENT_LIFETIME_S * 1000:
        raise UntrustedError("a gateway's statement that claims to hold for too long")
    certificate = verify_chain(statement.chain, network, statement.peer_id, now_ms)
    if certificate.role is not Role.GATEWAY:
        raise UntrustedError("only gateways say that they can be dialled for jobs")
    ending = f"/p2p/{statement.peer_id}"
    if not all(address.endswith(ending) for address in statement.addresses):
        raise UntrustedError("a gateway's statement names the address of another peer")
    return KnownGateway(statement, signed, certificate)


class GatewayBook(NewestBook[KnownGateway]):
    """The newest valid statement of each gateway, forgotten when it expires.

    Accounts' own gateways, which anybody may have, take at most half of the places and come last:
    they cannot crowd out those that the authority certified.
    """

    def __init__(self, entries_max: int = GATEWAYS_KNOWN_MAX) -> None:
        """Keep at most `entries_max` gateways; more are refused until some expire."""
        super().__init__(entries_max)
        self._own_max = entries_max // 2

    def add(self, known: KnownGateway, now_ms: int) -> bool:
        """As `NewestBook.add`. Raises: StaleError, also when there are too many of its kind."""
        own = known.certificate.own_namespaces_only
        if own and known.statement.peer_id not in self._known:
            live = sum(one.certificate.own_namespaces_only for one in self.live(now_ms))
            if live >= self._own_max:
                raise StaleError("too many accounts' own gateways are known: dropped")
        return super().add(known, now_ms)

    def reachable(self, now_ms: int) -> Iterator[KnownGateway]:
        """All gateways that have not fallen silent and name an address; accounts' own last."""
        found = [known for known in self.live(now_ms) if known.statement.addresses]
        return iter(sorted(found, key=lambda known: known.certificate.own_namespaces_only))
