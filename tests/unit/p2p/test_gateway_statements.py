"""What gateways say about themselves: who is believed, and for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from p2p.adverts import Advert, verify_advert
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError, StaleError, UntrustedError
from p2p.limits import GATEWAY_STATEMENT_LIFETIME_S
from p2p.reaching.gateway_statements import GatewayBook, GatewayStatement, verify_gateway
from p2p.reaching.reach_client import dialable, ports_of
from p2p.signing import KeyPair, Signed
from tests.fakes import trust
from tests.fakes.clocks import START_MS

PLACE = f"/ip4/203.0.113.5/tcp/4001/p2p/{trust.GATEWAY.peer_id}"


def statement(signer: KeyPair = trust.GATEWAY, network: Any = trust.NETWORK, **changes: Any) -> Any:
    document = GatewayStatement(
        peer_id=trust.GATEWAY.peer_id,
        sequence=START_MS,
        issued_ms=START_MS,
        expires_ms=START_MS + 60_000,
        chain=trust.gateway_chain(),
        addresses=(PLACE,),
        software="test/1",
    )
    return signer.sign(network, replace(document, **changes))


def test_a_gateways_own_word_is_believed() -> None:
    known = verify_gateway(statement(), trust.NETWORK, START_MS + 1)
    assert known.statement.addresses == (PLACE,)
    assert known.certificate.peer_id == trust.GATEWAY.peer_id


@pytest.mark.parametrize(
    "forged",
    [
        statement(signer=trust.OTHER_GATEWAY),
        statement(network=trust.OTHER_NETWORK),
        statement(chain=trust.gateway_chain(trust.OTHER_GATEWAY)),
        statement(chain=trust.bootstrap_chain(trust.GATEWAY)),
        statement(chain=trust.node_chain(trust.GATEWAY)),
        statement(expires_ms=START_MS + int(GATEWAY_STATEMENT_LIFETIME_S * 1000) + 1),
        statement(issued_ms=START_MS - 90_000, expires_ms=START_MS),
        statement(addresses=(f"/ip4/203.0.113.5/tcp/1/p2p/{trust.NODE.peer_id}",)),
        statement(addresses=("/ip4/203.0.113.5/tcp/1",)),
    ],
)
def test_nobody_elses_word_counts(forged: Signed) -> None:
    with pytest.raises(P2PError):
        verify_gateway(forged, trust.NETWORK, START_MS + 1)


def known(sequence: int = START_MS, pair: KeyPair = trust.GATEWAY, **changes: Any) -> Any:
    changes = {"addresses": (), "chain": trust.gateway_chain(pair), **changes}
    signed = statement(pair, peer_id=pair.peer_id, sequence=sequence, **changes)
    return verify_gateway(signed, trust.NETWORK, START_MS)


def test_the_newest_statement_stays() -> None:
    book = GatewayBook(entries_max=1)
    assert book.add(known(5), START_MS)
    assert not book.add(known(5), START_MS)
    assert book.add(known(6, addresses=(PLACE,)), START_MS)
    with pytest.raises(StaleError):
        book.add(known(5), START_MS)
    with pytest.raises(StaleError):  # the book is full
        book.add(known(7, trust.OTHER_GATEWAY), START_MS)
    [live] = book.reachable(START_MS)
    assert live.statement.sequence == 6
    assert book.add(known(7, trust.OTHER_GATEWAY, expires_ms=START_MS + 120_000), START_MS + 70_000)
    assert book.get(trust.GATEWAY.peer_id, START_MS) is None
    assert list(book.reachable(START_MS)) == []  # it names no address


def test_what_is_told_to_others() -> None:
    local, lan = "/ip4/127.0.0.1/tcp/4001/p2p/x", "/ip4/192.168.0.2/tcp/4001/p2p/x"
    reached = "/ip4/203.0.113.5/tcp/4001/p2p/x"
    assert dialable(reached, (local, lan)) == (reached, lan)
    assert dialable(lan, (local, lan)) == (lan,)
    assert dialable(reached, ("/ip4/0.0.0.0/tcp/4001/p2p/x",)) == (reached,)
    assert dialable(local, (local, lan)) == (local, lan)
    assert ports_of((local, lan, "/ip6/::1/tcp/4002/p2p/x", "/ip4/1.2.3.4/udp/1")) == (4001, 4002)


def advert(**changes: Any) -> Advert:
    document = Advert(
        trust.NODE.peer_id, 1, START_MS, START_MS + 1000, trust.node_chain(), (), (), "test/1"
    )
    return replace(document, **changes)


def test_an_advert_says_that_its_node_is_hidden() -> None:
    signed = trust.NODE.sign(trust.NETWORK, advert(reach="hidden"))
    assert verify_advert(signed, trust.NETWORK, START_MS).advert.reach == "hidden"
    # Older programs do not know the field: without it an advert is encoded as they do it.
    assert len(encode_message(advert())) < len(encode_message(advert(reach="hidden"))) - 6
    assert decode_message(encode_message(advert()), Advert).reach == ""


def test_a_statement_is_no_advert() -> None:
    with pytest.raises((UntrustedError, P2PError)):
        verify_advert(statement(), trust.NETWORK, START_MS)


def own(number: int) -> Any:
    """The statement of a gateway that nobody but its account vouches for."""
    pair = trust.key_pair(900 + number)
    one = known(pair=pair, addresses=(f"/ip4/203.0.113.5/tcp/1/p2p/{pair.peer_id}",))
    return replace(one, certificate=replace(one.certificate, own_namespaces_only=True))


def test_accounts_own_gateways_leave_room_for_the_authoritys() -> None:
    book = GatewayBook(entries_max=4)
    for number in range(2):
        assert book.add(own(number), START_MS)
    with pytest.raises(StaleError, match="own gateways"):
        book.add(own(2), START_MS)
    assert not book.add(own(1), START_MS)
    assert book.add(known(addresses=(PLACE,)), START_MS)
    shown = [one.certificate.own_namespaces_only for one in book.reachable(START_MS)]
    assert shown == [False, True, True]
    assert book.add(own(2), START_MS + 70_000)  # the others have fallen silent
