"""Who may open accounts: rates for all and for one network, stated by gateways; invites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from bootstrap.account_door import direct_opening
from gateway.peer.carried_openings import wrap_opening
from ledger import methods
from ledger.ledger import Ledger
from p2p.codec import encode_message
from p2p.errors import P2PError, RefusedError, UntrustedError
from p2p.opening_messages import CarriedFounding, Referral, invite_id_of
from p2p.signing import KeyPair, Signed
from tests.fakes.ledger_desk import ACCOUNT, CONFIGURATION, Desk, caller
from tests.fakes.ledger_world import GATEWAY, NETWORK, NODES, OTHER_GATEWAY, START_MS, key_pair
from tests.fakes.opening_world import DAY_MS, invite


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    known: list[Desk] = []
    ledger = Ledger(
        f"sqlite:///{tmp_path / 'ledger.db'}",
        NETWORK,
        clock_ms=lambda: known[0].clock_ms() if known else START_MS,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        known.append(Desk(ledger))
        await known[0].set_up()
        yield known[0]
        nursery.cancel_scope.cancel()


def configure(desk: Desk, **changes: Any) -> None:
    participation = CONFIGURATION.participation.model_copy(update=changes)
    desk.configuration = desk.configuration.model_copy(
        update={"participation": participation, "version": desk.configuration.version + 1}
    )


def founding(desk: Desk, number: int) -> Signed:
    return desk.world.tenant(number).founding.signed


async def carry(desk: Desk, document: Signed, client: str, gateway: KeyPair = GATEWAY) -> bytes:
    body = wrap_opening(encode_message(document), client, gateway, NETWORK, desk.clock_ms())
    return await desk.handlers[methods.OPERATION](caller(gateway), body)


async def refused(desk: Desk, document: Signed, client: str, gateway: KeyPair = GATEWAY) -> Any:
    with pytest.raises(RefusedError) as caught:
        await carry(desk, document, client, gateway)
    return caught.value


async def test_one_network_does_not_take_everybodys_openings(desk: Desk) -> None:
    configure(
        desk,
        accounts_opened_per_hour_max=6,
        accounts_opened_per_hour_per_network_max=2,
    )
    for number in (1, 2):
        await carry(desk, founding(desk, number), f"8.8.8.{number}")
    # The network is full, at whichever gateway; a repetition is not another opening.
    error = await refused(desk, founding(desk, 3), "8.8.8.200", OTHER_GATEWAY)
    assert error.code == "opening_limit"
    assert error.retry_after_s == 1800
    assert "one network" in str(error)
    assert "2027-01-15T08:30:00Z" in str(error)
    await carry(desk, founding(desk, 1), "8.8.8.8")
    # What was refused took nothing from the others.
    for number in (3, 4):
        await carry(desk, founding(desk, number), f"8.8.{number}.1")
    for number in (5, 6):
        await carry(desk, founding(desk, number), "2606:4700:1::1")
    error = await refused(desk, founding(desk, 7), "1.1.1.1")
    assert "in all" in str(error)
    assert error.retry_after_s == 600
    desk.world.now_ms += 600_000
    await carry(desk, founding(desk, 7), "1.1.1.1")


async def test_private_networks_are_counted_for_each_gateway(desk: Desk) -> None:
    configure(desk, accounts_opened_per_hour_per_network_max=1)
    for number, gateway in enumerate((GATEWAY, OTHER_GATEWAY), 1):
        await carry(desk, founding(desk, number), "10.0.0.1", gateway)
        assert (await refused(desk, founding(desk, 9), "10.0.0.9", gateway)).code == "opening_limit"


async def test_what_an_accounts_own_gateways_bring_counts_as_one_network(desk: Desk) -> None:
    configure(desk, accounts_opened_per_hour_per_network_max=2)

    async def bring(number: int, client: str, gateway: KeyPair) -> None:
        who = caller(gateway)
        assert who.certificate is not None
        own = replace(who, certificate=replace(who.certificate, own_namespaces_only=True))
        signed = encode_message(founding(desk, number))
        body = wrap_opening(signed, client, gateway, NETWORK, desk.clock_ms()) if client else signed
        await desk.handlers[methods.OPERATION](own, body)

    await bring(1, "8.8.8.8", GATEWAY)
    await bring(2, "", OTHER_GATEWAY)
    for gateway, client in ((GATEWAY, "1.1.1.1"), (OTHER_GATEWAY, "9.9.9.9"), (OTHER_GATEWAY, "")):
        with pytest.raises(RefusedError, match="one network"):
            await bring(3, client, gateway)
    await carry(desk, founding(desk, 3), "1.1.1.1")


async def test_a_wrapper_is_signed_by_the_gateway_that_sends_it_now(desk: Desk) -> None:
    document = CarriedFounding(founding(desk, 1), "8.8.8.0/24", desk.clock_ms())
    operation = desk.handlers[methods.OPERATION]
    foreign = encode_message(OTHER_GATEWAY.sign(NETWORK, document))
    with pytest.raises(RefusedError, match="signed by the peer"):
        await operation(caller(GATEWAY), foreign)
    own = encode_message(GATEWAY.sign(NETWORK, document))
    desk.world.now_ms += 61_000
    with pytest.raises(UntrustedError, match="clocks"):
        await operation(caller(GATEWAY), own)
    nested = CarriedFounding(GATEWAY.sign(NETWORK, document), "", desk.clock_ms())
    with pytest.raises(P2PError):
        await operation(caller(GATEWAY), encode_message(GATEWAY.sign(NETWORK, nested)))


async def test_a_gateway_wraps_openings_only(desk: Desk) -> None:
    other = encode_message(ACCOUNT.sign(NETWORK, Referral(desk.account_id, desk.account_id, 1)))
    for body in (other, b"", b"\x00", encode_message(Signed(b"x", bytes(32), bytes(64)))):
        assert wrap_opening(body, "8.8.8.8", GATEWAY, NETWORK, 1) == body


async def test_by_invite_only(desk: Desk) -> None:
    configure(desk, accounts="invite", accounts_opened_per_hour_per_network_max=1)
    error = await refused(desk, founding(desk, 1), "8.8.8.8")
    assert (error.code, "by invite only" in str(error)) == ("invite_refused", True)
    found = invite(2)
    for number in (1, 2):  # an invite is not counted by the network that it is used in
        await carry(desk, found.use(NETWORK, founding(desk, number)), "8.8.8.8")
    error = await refused(desk, found.use(NETWORK, founding(desk, 3)), "8.8.8.8")
    assert (error.code, "is used up: it has opened 2 of 2 accounts" in str(error)) == (
        "invite_refused",
        True,
    )
    # An account that is open needs none, whoever carries it.
    await carry(desk, founding(desk, 1), "8.8.8.8")


async def test_delegates_and_revocations_are_the_configurations(desk: Desk) -> None:
    configure(desk, accounts="invite")
    delegate = key_pair(77)
    found = invite(5, issuer=delegate)
    opening = found.use(NETWORK, founding(desk, 1))
    assert "not signed by" in str(await refused(desk, opening, "8.8.8.8"))
    configure(desk, accounts="invite", invite_keys=(delegate.public_key.hex(),))
    await carry(desk, opening, "8.8.8.8")
    invite_id = invite_id_of(found.invite).hex()
    configure(
        desk,
        accounts="invite",
        invite_keys=(delegate.public_key.hex(),),
        revoked_invites=(invite_id,),
    )
    second = found.use(NETWORK, founding(desk, 2))
    assert "revoked" in str(await refused(desk, second, "8.8.8.8"))


async def test_a_node_brings_its_account(desk: Desk) -> None:
    configure(desk, accounts_opened_per_hour_per_network_max=1)
    door, peers = desk.service._door, [node.peer_id for node in NODES]
    await door.open(direct_opening(founding(desk, 1), NETWORK, peers[0], "8.8.8.8"))
    with pytest.raises(Exception, match="one network"):
        await door.open(direct_opening(founding(desk, 2), NETWORK, peers[1], "8.8.8.9"))
    await door.open(direct_opening(founding(desk, 2), NETWORK, peers[1]))
    configure(desk, accounts="invite")
    with pytest.raises(Exception, match="by invite only"):
        await door.open(direct_opening(founding(desk, 3), NETWORK, peers[2]))
    opening = invite().use(NETWORK, founding(desk, 3))
    await door.open(direct_opening(opening, NETWORK, peers[2]))


async def test_the_window_of_referrals_is_the_configurations(desk: Desk) -> None:
    await carry(desk, founding(desk, 1), "8.8.8.8")
    tenant = desk.world.tenant(1)
    document = Referral(desk.account_id, tenant.account_id, desk.clock_ms())
    signed = ACCOUNT.sign(NETWORK, document)
    configure(desk, referral_within_s=60)
    desk.world.now_ms += 60_001
    with pytest.raises(RefusedError) as caught:
        await carry(desk, signed, "")
    assert caught.value.code == "referral_refused"
    configure(desk, referral_within_s=DAY_MS // 1000)
    await carry(desk, signed, "")
