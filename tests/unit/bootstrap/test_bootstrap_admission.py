"""Owns the tests of admission: who gets a node's certificate, and who does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bootstrap.admission_service import AdmissionService
from p2p.admission import (
    JOIN,
    REQUEST_LIFETIME_MS,
    Applicant,
    JoinRequest,
    JoinResult,
    NodeBinding,
    join_request,
)
from p2p.calls import Caller
from p2p.certificates import Certificate, verify_chain
from p2p.codec import decode_message, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import MalformedError, P2PError, RefusedError, StaleError, UntrustedError
from p2p.network_configuration import Participation, open_configuration
from p2p.signing import KeyPair, Signed
from p2p.types import AccountId, PeerId, Role
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.trust import (
    BOOTSTRAP,
    GATEWAY,
    NETWORK,
    NODE,
    OTHER_NETWORK,
    OTHER_NODE,
    account_keys,
    book_with,
    bootstrap_chain,
    configuration,
    gateway_chain,
    key_pair,
    membership,
    node_chain,
)

ACCOUNT = account_keys()


class Desk:
    """An admission service with a memory instead of a ledger."""

    def __init__(self, book: ConfigurationBook | None = None) -> None:
        self.clock = FakeClock()
        self.book = book or book_with()
        self.bound: list[tuple[PeerId, AccountId, Signed]] = []
        self.refusal: P2PError | None = None
        standing = membership(
            BOOTSTRAP, Role.BOOTSTRAP, bootstrap_chain(), self.clock, book=self.book
        )
        self.standing = standing
        self.service = AdmissionService(standing, self.book, self._bind, clock_ms=self.clock)

    async def _bind(self, applicant: Applicant) -> None:
        if self.refusal is not None:
            raise self.refusal
        if applicant.account_key != ACCOUNT.signing.public_key:
            raise RefusedError("not_authorized", "not a key of the account")
        self.bound.append((applicant.peer_id, applicant.account_id, applicant.founding))

    async def join(
        self, body: bytes | None = None, peer: KeyPair = NODE, certificate: Any = None
    ) -> JoinResult:
        handler = self.service.handlers()[JOIN]
        answer = await handler(
            Caller(peer.peer_id, certificate), request() if body is None else body
        )
        return decode_message(answer, JoinResult)


def request(peer: KeyPair = NODE, issued_ms: int = START_MS) -> bytes:
    return encode_message(join_request(peer, ACCOUNT, NETWORK, "resultity/test", issued_ms))


def leaf_of(pair: KeyPair, chain: tuple[Signed, ...]) -> Certificate:
    return verify_chain(chain, NETWORK, pair.peer_id, START_MS)


async def test_a_newcomer_becomes_a_node() -> None:
    desk = Desk()
    result = await desk.join()
    leaf = leaf_of(NODE, result.chain)
    assert (leaf.role, leaf.account_id) == (Role.NODE, ACCOUNT.account_id)
    lifetime_s = desk.book.current.participation.node_certificate_lifetime_s
    assert leaf.expires_ms - leaf.issued_ms == lifetime_s * 1000
    assert result.chain[1:] == bootstrap_chain()
    assert open_configuration(result.configuration, NETWORK).version == 1
    assert desk.bound == [(NODE.peer_id, ACCOUNT.account_id, ACCOUNT.founding)]


async def test_a_node_renews() -> None:
    desk = Desk()
    await desk.join()
    desk.clock.advance(3600)
    result = await desk.join(
        request(issued_ms=desk.clock.now_ms), certificate=leaf_of(NODE, node_chain())
    )
    leaf = decode_message(result.chain[0].body, Certificate)
    assert leaf.issued_ms == desk.clock.now_ms


async def test_a_connection_outlives_the_certificate_that_it_began_with() -> None:
    """A node that renewed stays a member of its bootstrap: nobody has to connect again for it."""
    desk = Desk()
    old = node_chain(lifetime_s=60)
    desk.standing._members[NODE.peer_id] = leaf_of(NODE, old)  # as its hello left it
    desk.standing._chains[NODE.peer_id] = old
    desk.clock.advance(50)
    await desk.join(request(issued_ms=desk.clock.now_ms), certificate=leaf_of(NODE, old))
    await desk.join(request(OTHER_NODE, desk.clock.now_ms), OTHER_NODE)
    desk.clock.advance(50)
    found = desk.standing.certificate_of(NODE.peer_id)
    assert found is not None
    assert found.account_id == ACCOUNT.account_id
    assert desk.standing.certificate_of(OTHER_NODE.peer_id) is None  # it has yet to say hello


async def test_the_lifetime_is_the_configurations() -> None:
    short = configuration(participation=Participation(node_certificate_lifetime_s=60))
    leaf = leaf_of(NODE, (await Desk(book_with(short)).join()).chain)
    assert leaf.expires_ms == START_MS + 60_000


@pytest.mark.parametrize(
    "chain", [gateway_chain(NODE), bootstrap_chain(NODE)], ids=["gateway", "bootstrap"]
)
async def test_other_roles_stay_what_they_are(chain: tuple[Signed, ...]) -> None:
    desk = Desk()
    with pytest.raises(RefusedError) as caught:
        await desk.join(certificate=leaf_of(NODE, chain))
    assert caught.value.code == "other_role"
    assert desk.bound == []


async def test_banned_nodes() -> None:
    desk = Desk(book_with(configuration(banned_peers=(NODE.peer_id,))))
    with pytest.raises(RefusedError) as caught:
        await desk.join()
    assert caught.value.code == "banned"
    await desk.join(request(OTHER_NODE), OTHER_NODE)


async def test_a_request_of_somebody_else() -> None:
    desk = Desk()
    for peer in (OTHER_NODE, GATEWAY):
        with pytest.raises(UntrustedError):
            await desk.join(peer=peer)
    assert desk.bound == []


async def test_a_request_of_long_ago_or_to_come() -> None:
    desk = Desk()
    for issued_ms in (START_MS - REQUEST_LIFETIME_MS, START_MS + 10 * REQUEST_LIFETIME_MS):
        with pytest.raises(StaleError):
            await desk.join(request(issued_ms=issued_ms))
    assert desk.bound == []


async def test_an_account_that_did_not_bind_the_node() -> None:
    desk = Desk()
    stranger = key_pair(66)
    binding = NodeBinding(ACCOUNT.account_id, NODE.peer_id, START_MS)
    for signer, document in (
        (stranger, binding),
        (ACCOUNT.signing, replace(binding, peer_id=OTHER_NODE.peer_id)),
        (ACCOUNT.signing, replace(binding, account_id=AccountId("acct-" + "b" * 40))),
    ):
        asked = JoinRequest(ACCOUNT.founding, signer.sign(NETWORK, document), "s", START_MS)
        with pytest.raises((UntrustedError, RefusedError)):
            await desk.join(encode_message(NODE.sign(NETWORK, asked)))
    other = join_request(NODE, account_keys(network=OTHER_NETWORK), NETWORK, "s", START_MS)
    with pytest.raises(UntrustedError):
        await desk.join(encode_message(other))
    assert desk.bound == []


NO_REQUEST = NODE.sign(NETWORK, NodeBinding(ACCOUNT.account_id, NODE.peer_id, 1))


@pytest.mark.parametrize("body", [b"", b"text", encode_message(NO_REQUEST)])
async def test_something_else_than_a_request(body: bytes) -> None:
    desk = Desk()
    with pytest.raises((MalformedError, UntrustedError)):
        await desk.join(body)
    assert desk.bound == []


async def test_no_certificate_without_the_ledger() -> None:
    desk = Desk()
    desk.refusal = RefusedError("busy", "too many accounts this hour", 60.0)
    with pytest.raises(RefusedError, match="too many accounts"):
        await desk.join()


async def test_no_certificate_without_a_configuration() -> None:
    with pytest.raises(RefusedError) as caught:
        await Desk(ConfigurationBook(NETWORK)).join()
    assert caught.value.code == "no_configuration"
