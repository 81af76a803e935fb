"""An account's own gateway: who gets a certificate for one, and which chains are believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.gateway_admission import GatewayAdmissionService
from bootstrap.limits import OWN_GATEWAYS_PER_ACCOUNT_MAX
from gateway.errors import GatewaySetupError
from gateway.own_gateway import own_gateway
from ledger.errors import NotAuthorizedError
from p2p.account_messages import AccountKeyChange
from p2p.account_proof import AccountProof
from p2p.admission import JoinResult
from p2p.calls import Caller
from p2p.certificate_keeper import CertificateKeeper
from p2p.certificates import Certificate, Chain, issue_certificate, verify_chain
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, RefusedError, StaleError, UntrustedError
from p2p.gateway_admission import (
    PROOF_DOCUMENTS_MAX,
    admission_request,
    bind_gateway,
    encode_binding,
    load_binding,
)
from p2p.member_files import store_chain
from p2p.signing import KeyPair, Signed
from p2p.types import Role
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.trust import (
    BOOTSTRAP,
    GATEWAY,
    NETWORK,
    OTHER_BOOTSTRAP,
    OTHER_GATEWAY,
    SOME_ACCOUNT,
    account_keys,
    book_with,
    bootstrap_chain,
    gateway_chain,
    key_pair,
    membership,
)

ACCOUNT = account_keys()
SECOND_KEY = key_pair(77)
DAY_S = 86_400


def binding(peer: KeyPair = GATEWAY, **options: Any) -> tuple[Signed, ...]:
    given: dict[str, Any] = {
        "account_id": ACCOUNT.account_id,
        "issued_ms": START_MS,
        "lifetime_s": 10 * DAY_S,
        "key": ACCOUNT.signing,
        "account": AccountProof(ACCOUNT.founding),
    }
    given |= options
    return bind_gateway(given.pop("key"), NETWORK, given.pop("account"), peer.peer_id, **given)


class Desk:
    """The service with a set of keys instead of a ledger."""

    def __init__(self) -> None:
        self.clock, self.book = FakeClock(), book_with()
        standing = membership(
            BOOTSTRAP, Role.BOOTSTRAP, bootstrap_chain(), self.clock, book=self.book
        )
        self.keys = {(ACCOUNT.account_id, ACCOUNT.signing.public_key)}
        self.service = GatewayAdmissionService(
            standing, self.book, self._require, clock_ms=self.clock
        )

    async def _require(self, account_id: str, public_key: bytes) -> None:
        if (account_id, public_key) not in self.keys:
            raise NotAuthorizedError("this is not signed by a key of the account")

    async def admit(
        self,
        proof: tuple[Signed, ...],
        peer: KeyPair = GATEWAY,
        *,
        by: KeyPair | None = None,
        certificate: Certificate | None = None,
    ) -> Chain:
        request = admission_request(by or peer, NETWORK, proof, "test", self.clock())
        caller = Caller(peer.peer_id, certificate)
        answer = await self.service.admit(caller, encode_message(request))
        return decode_message(answer, JoinResult).chain


async def test_an_account_has_a_gateway_of_its_own() -> None:
    desk = Desk()
    chain = await desk.admit(binding())
    found = verify_chain(chain, NETWORK, GATEWAY.peer_id, START_MS)
    assert (found.role, found.account_id) == (Role.GATEWAY, ACCOUNT.account_id)
    assert found.own_namespaces_only
    assert found.expires_ms == START_MS + 10 * DAY_S * 1000  # the binding's end
    renewed = await desk.admit(binding(), certificate=found)
    assert verify_chain(renewed, NETWORK, GATEWAY.peer_id, START_MS).own_namespaces_only


async def test_a_key_that_was_added_later_binds_with_its_proof() -> None:
    desk = Desk()
    change = AccountKeyChange(
        ACCOUNT.account_id,
        1,
        (SECOND_KEY.public_key,),
        (ACCOUNT.signing.public_key,),
        START_MS,
    )
    proof = AccountProof(ACCOUNT.founding, (ACCOUNT.signing.sign(NETWORK, change),))
    desk.keys = {(ACCOUNT.account_id, SECOND_KEY.public_key)}
    chain = await desk.admit(binding(key=SECOND_KEY, account=proof))
    assert len(chain) == 5
    verify_chain(chain, NETWORK, GATEWAY.peer_id, START_MS)
    # The first key was removed: what it signs counts neither with the whole proof, nor at the
    # ledger with a part of it.
    with pytest.raises(UntrustedError, match="not signed by a key"):
        await desk.admit(binding(account=proof))
    with pytest.raises(RefusedError, match="not signed by a key") as caught:
        await desk.admit(binding())
    assert caught.value.code == "not_authorized"


async def test_who_gets_none() -> None:
    desk = Desk()
    with pytest.raises(UntrustedError, match="another gateway"):
        await desk.admit(binding(OTHER_GATEWAY))
    with pytest.raises(UntrustedError):  # signed by somebody else than the caller
        await desk.admit(binding(), by=OTHER_GATEWAY)
    with pytest.raises(UntrustedError, match="not signed by a key"):
        await desk.admit(binding(key=SECOND_KEY))
    with pytest.raises(UntrustedError, match="another account"):
        await desk.admit(binding(account_id=SOME_ACCOUNT))
    with pytest.raises(StaleError):
        await desk.admit(binding(lifetime_s=1, issued_ms=START_MS - 2000))
    public = decode_message(gateway_chain()[0].body, Certificate)
    with pytest.raises(RefusedError, match="another role"):
        await desk.admit(binding(), certificate=public)


async def test_an_account_has_a_bounded_number_of_them() -> None:
    desk = Desk()
    for number in range(OWN_GATEWAYS_PER_ACCOUNT_MAX):
        pair = key_pair(500 + number)
        await desk.admit(binding(pair), pair)
    late = key_pair(499)
    with pytest.raises(RefusedError, match="at most 16"):
        await desk.admit(binding(late), late)
    await desk.admit(binding(key_pair(500)), key_pair(500))  # a renewal is no new one
    desk.clock.advance(11 * DAY_S)
    with pytest.raises(StaleError):
        await desk.admit(binding(late), late)
    await desk.admit(binding(late, issued_ms=desk.clock()), late)


async def test_chains_that_are_not_believed() -> None:
    good = await Desk().admit(binding())
    leaf, bootstrap, bound, founding = good

    def judged(*chain: Signed) -> None:
        verify_chain(chain, NETWORK, GATEWAY.peer_id, START_MS)

    def certified(by: KeyPair, role: Role = Role.GATEWAY, *, own: bool = True) -> Signed:
        return issue_certificate(
            by,
            NETWORK,
            GATEWAY.peer_id,
            role,
            ACCOUNT.account_id,
            issued_ms=START_MS,
            lifetime_s=60,
            own_namespaces_only=own,
        )

    judged(*good)
    for wrong in (
        (leaf,),
        (leaf, bootstrap),
        (leaf, bootstrap, bound),
        (leaf, bootstrap, founding, bound),
        (leaf, bootstrap, *binding(OTHER_GATEWAY)),
        (leaf, bootstrap, *binding(key=SECOND_KEY)),
        # A bootstrap cannot make a gateway for everybody, nor a node of this kind.
        (certified(BOOTSTRAP, own=False), bootstrap),
        (certified(BOOTSTRAP, own=False), bootstrap, bound, founding),
        (certified(BOOTSTRAP, Role.NODE), bootstrap, bound, founding),
        (certified(OTHER_BOOTSTRAP), bootstrap, bound, founding),
        (certified(ACCOUNT.signing), bootstrap, bound, founding),
    ):
        with pytest.raises((UntrustedError, MalformedError)):
            judged(*wrong)
    authority = replace(decode_message(gateway_chain()[0].body, Certificate))
    assert not authority.own_namespaces_only


async def test_the_gateway_keeps_what_it_got(tmp_path: Path) -> None:
    desk = Desk()
    (tmp_path / "binding").write_bytes(encode_binding(binding()))
    store_chain(tmp_path / "chain", await desk.admit(binding()))

    def started() -> CertificateKeeper:
        standing = membership(GATEWAY, Role.GATEWAY, (), desk.clock, book=desk.book)
        return own_gateway(
            standing, desk.book, tmp_path / "binding", tmp_path / "chain", clock_ms=desk.clock
        )

    assert started().certified
    assert started().ends_ms == START_MS + DAY_S * 1000  # the bootstrap's own certificate's end
    assert started().renew_in_s() == pytest.approx(DAY_S * 2 / 3)
    for content in (b"nonsense", encode_binding(binding(OTHER_GATEWAY))):
        (tmp_path / "binding").write_bytes(content)
        with pytest.raises(GatewaySetupError, match="binding"):
            started()


def test_a_file_that_holds_no_binding(tmp_path: Any) -> None:
    path = tmp_path / "binding"
    for content in (b"", b"nonsense", encode_message(binding()[0])):
        path.write_bytes(content)
        with pytest.raises(MalformedError):
            load_binding(path)


def test_an_account_with_too_many_changes_is_told() -> None:
    changes = (binding()[0],) * (PROOF_DOCUMENTS_MAX - 1)
    with pytest.raises(MalformedError, match="changed its keys more than 8 times"):
        binding(account=AccountProof(ACCOUNT.founding, changes))
