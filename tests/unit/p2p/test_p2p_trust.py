"""Owns the tests of certificates and adverts: who may act, and what is known of whom."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.adverts import (
    Advert,
    AdvertBook,
    KnownAdvert,
    ModelAdvert,
    advert_key,
    advert_topic,
    all_advert_topics,
    check_record,
    model_key,
    verify_advert,
)
from p2p.certificates import Certificate, Chain, verify_chain
from p2p.errors import P2PError, StaleError, UntrustedError, WrongNetworkError
from p2p.limits import ADVERT_LIFETIME_S_MAX, CLOCK_SKEW_MS_MAX, TOPIC_SHARDS
from p2p.signing import KeyPair, Signed
from p2p.types import AccountId, PeerId, Role
from tests.fakes.clocks import START_MS
from tests.fakes.trust import (
    AUTHORITY,
    BOOTSTRAP,
    DAY_S,
    GATEWAY,
    MODEL_DIGEST,
    MODEL_ID,
    NETWORK,
    NODE,
    OTHER_AUTHORITY,
    OTHER_BOOTSTRAP,
    OTHER_NETWORK,
    OTHER_NODE,
    SOME_ACCOUNT,
    bootstrap_chain,
    certificate,
    gateway_chain,
    key_pair,
    node_chain,
)

END_MS = START_MS + int(DAY_S * 1000)


# --- certificates -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("chain", "pair", "role"),
    [
        (bootstrap_chain(), BOOTSTRAP, Role.BOOTSTRAP),
        (gateway_chain(), GATEWAY, Role.GATEWAY),
        (node_chain(), NODE, Role.NODE),
        (node_chain(by=OTHER_BOOTSTRAP), NODE, Role.NODE),
    ],
)
def test_good_chains(chain: Chain, pair: KeyPair, role: Role) -> None:
    leaf = verify_chain(chain, NETWORK, pair.peer_id, START_MS)
    assert (leaf.peer_id, leaf.role, leaf.account_id) == (pair.peer_id, role, SOME_ACCOUNT)
    verify_chain(chain, NETWORK, pair.peer_id, END_MS - 1)


def node_leaf(by: KeyPair = BOOTSTRAP, **options: Any) -> Signed:
    return certificate(NODE.peer_id, Role.NODE, by, **options)


LONG_AGO = START_MS - 10 * int(DAY_S * 1000)
BAD_CHAINS: dict[str, tuple[Signed, ...]] = {
    "none at all": (),
    "a node by the authority itself": (certificate(NODE.peer_id, Role.NODE),),
    "a node without its bootstrap": (node_leaf(),),
    "a node by another bootstrap": (node_leaf(OTHER_BOOTSTRAP), *bootstrap_chain()),
    "a node by a gateway": (node_leaf(GATEWAY), *gateway_chain()),
    "a node by a node": (node_leaf(OTHER_NODE), *node_chain(OTHER_NODE)),
    "a node by itself": (node_leaf(NODE), *node_chain()),
    "a gateway by a bootstrap": (
        certificate(NODE.peer_id, Role.GATEWAY, BOOTSTRAP),
        *bootstrap_chain(),
    ),
    "a bootstrap by a bootstrap": (
        certificate(NODE.peer_id, Role.BOOTSTRAP, BOOTSTRAP),
        *bootstrap_chain(),
    ),
    "the wrong order": tuple(reversed(node_chain())),
    "another authority": (
        node_leaf(),
        certificate(BOOTSTRAP.peer_id, Role.BOOTSTRAP, OTHER_AUTHORITY),
    ),
    "too long": (*node_chain(), *bootstrap_chain(), *bootstrap_chain()),
    "three": (*node_chain(), *bootstrap_chain()),
    "another peer": node_chain(OTHER_NODE),
    "not a valid account": (
        node_leaf(account_id=AccountId("acct-nobody")),
        *bootstrap_chain(),
    ),
    "an expired leaf": (node_leaf(issued_ms=LONG_AGO), *bootstrap_chain()),
    "an expired bootstrap": (node_leaf(), *bootstrap_chain(issued_ms=LONG_AGO)),
    "from the future": (
        node_leaf(issued_ms=START_MS + CLOCK_SKEW_MS_MAX + 1),
        *bootstrap_chain(),
    ),
    "no lifetime": (node_leaf(lifetime_s=0, issued_ms=START_MS + 10), *bootstrap_chain()),
    "another network": (node_leaf(network=OTHER_NETWORK), *bootstrap_chain()),
}


@pytest.mark.parametrize("name", BAD_CHAINS)
def test_bad_chains(name: str) -> None:
    with pytest.raises(UntrustedError):
        verify_chain(BAD_CHAINS[name], NETWORK, NODE.peer_id, START_MS)


def test_a_certificate_that_names_another_network_than_it_is_signed_for() -> None:
    document = Certificate(
        OTHER_NETWORK, GATEWAY.peer_id, Role.GATEWAY, SOME_ACCOUNT, START_MS, END_MS
    )
    with pytest.raises(WrongNetworkError):
        verify_chain([AUTHORITY.sign(NETWORK, document)], NETWORK, GATEWAY.peer_id, START_MS)


def test_a_certificate_ends_at_its_millisecond() -> None:
    with pytest.raises(StaleError, match=GATEWAY.peer_id):
        verify_chain(gateway_chain(), NETWORK, GATEWAY.peer_id, END_MS)


# --- adverts ------------------------------------------------------------------------------------
MODEL = ModelAdvert("tiny-chat", MODEL_DIGEST, MODEL_ID, 1024, "q8_0", 4, ("chat",), ("text",))


def advert(
    pair: KeyPair = NODE,
    sequence: int = 1,
    *,
    about: PeerId | None = None,
    chain: Chain | None = None,
    issued_ms: int = START_MS,
    lifetime_s: float = 45.0,
    signer: KeyPair | None = None,
) -> Signed:
    document = Advert(
        peer_id=about or pair.peer_id,
        sequence=sequence,
        issued_ms=issued_ms,
        expires_ms=issued_ms + int(lifetime_s * 1000),
        chain=node_chain(pair) if chain is None else chain,
        addresses=("/ip4/127.0.0.1/tcp/1",),
        models=(MODEL,),
        software="resultity/test",
    )
    return (signer or pair).sign(NETWORK, document)


def known(pair: KeyPair = NODE, sequence: int = 1, **options: Any) -> KnownAdvert:
    return verify_advert(advert(pair, sequence, **options), NETWORK, START_MS)


def test_a_node_advertises_itself() -> None:
    found = known()
    assert found.advert.models == (MODEL,)
    assert found.certificate.account_id == SOME_ACCOUNT


@pytest.mark.parametrize(
    "bad",
    [
        advert(about=OTHER_NODE.peer_id),
        advert(about=OTHER_NODE.peer_id, chain=node_chain(OTHER_NODE)),
        advert(chain=node_chain(OTHER_NODE)),
        advert(signer=OTHER_NODE),
        advert(GATEWAY, chain=gateway_chain()),
        advert(BOOTSTRAP, chain=bootstrap_chain()),
        advert(issued_ms=START_MS - 45_000),
        advert(issued_ms=START_MS + CLOCK_SKEW_MS_MAX + 1),
        advert(chain=node_chain(issued_ms=LONG_AGO)),
        advert(lifetime_s=ADVERT_LIFETIME_S_MAX + 1),
        advert(lifetime_s=0),
    ],
)
def test_adverts_that_are_not_believed(bad: Signed) -> None:
    with pytest.raises(UntrustedError):
        verify_advert(bad, NETWORK, START_MS)
    with pytest.raises(P2PError):
        check_record(NETWORK, START_MS, advert_key(NODE.peer_id), bad)


def test_an_advert_of_another_network() -> None:
    with pytest.raises(UntrustedError):
        verify_advert(advert(), OTHER_NETWORK, START_MS)


def test_a_directory_record_stands_under_its_own_key() -> None:
    signed = advert(sequence=7)
    assert check_record(NETWORK, START_MS, advert_key(NODE.peer_id), signed) == 7
    for key in (advert_key(OTHER_NODE.peer_id), b"", model_key(MODEL_DIGEST)):
        with pytest.raises(UntrustedError, match="another peer's key"):
            check_record(NETWORK, START_MS, key, signed)


@given(st.text(max_size=20))
def test_topics_are_few_and_fixed(subcloud: str) -> None:
    assert advert_topic(subcloud) in all_advert_topics()
    assert len(all_advert_topics()) == TOPIC_SHARDS


def test_keys_are_what_they_were() -> None:
    assert advert_topic() == "adverts/2"
    assert len(model_key(MODEL_DIGEST)) == 32
    assert advert_key(NODE.peer_id) == b"advert/" + NODE.public_key


# --- the book -----------------------------------------------------------------------------------
def test_the_newest_advert_counts() -> None:
    book = AdvertBook()
    assert book.add(known(sequence=5), START_MS)
    assert not book.add(known(sequence=5), START_MS)
    with pytest.raises(StaleError):
        book.add(known(sequence=4), START_MS)
    with pytest.raises(StaleError):
        book.add(known(sequence=5, lifetime_s=60), START_MS)
    assert book.add(known(sequence=6), START_MS)
    found = book.get(NODE.peer_id, START_MS)
    assert found is not None
    assert found.advert.sequence == 6
    assert len(book) == 1


def test_an_expired_advert_is_as_good_as_none() -> None:
    book = AdvertBook()
    book.add(known(), START_MS)
    book.add(known(OTHER_NODE, lifetime_s=100), START_MS)
    late = START_MS + 45_000
    assert book.get(NODE.peer_id, late) is None
    assert [item.advert.peer_id for item in book.live(late)] == [OTHER_NODE.peer_id]
    assert book.prune(late) == (NODE.peer_id,)
    assert len(book) == 1
    assert book.get(NODE.peer_id, START_MS) is None


def test_a_full_book_takes_nobody_new_until_some_expire() -> None:
    book = AdvertBook(entries_max=2)
    nodes = [key_pair(100 + number) for number in range(3)]
    book.add(known(nodes[0], lifetime_s=10), START_MS)
    book.add(known(nodes[1]), START_MS)
    with pytest.raises(StaleError, match="too many"):
        book.add(known(nodes[2]), START_MS)
    assert book.add(known(nodes[1], 2), START_MS)
    assert book.add(known(nodes[2]), START_MS + 10_000)
    assert len(book) == 2
