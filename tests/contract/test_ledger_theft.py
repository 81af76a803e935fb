"""Theft: what each kind of thief can take is computed, is at most the stated bound, and is seen.

The bounds are those of docs/explanation/trust.md ("What a thief can take").
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bootstrap.ledger_checks import require_role
from ledger import methods
from ledger.log.proofs import verify_reply
from ledger.store.log.proofs import inclusion_reply
from ledger.store.queries import balance, earnings_view
from p2p.api_keys import new_api_key
from p2p.calls import Caller
from p2p.certificates import issue_certificate, verify_chain
from p2p.codec import encode_message
from p2p.errors import P2PError, RefusedError, UntrustedError
from p2p.key_limits import KeyLimits
from p2p.log_messages import ConsumerLeg
from p2p.network_configuration import Limits
from p2p.types import Role
from tests.fakes.claim_desk import claim, desk_on, quiet
from tests.fakes.ledger_desk import ACCOUNT, CONFIGURATION, KEY, TERMS, Desk, caller, open_hold_id
from tests.fakes.ledger_log import sequencer
from tests.fakes.ledger_world import (
    AUTHORITY,
    GATEWAY,
    GATEWAY_ACCOUNT,
    MINT,
    NETWORK,
    NODE_ACCOUNTS,
    NODES,
    OTHER_GATEWAY,
    key_pair,
)

CREDIT = 100_000
"""What the owner's namespace has."""
MAXIMUM = 1_000
"""What one hold takes."""


async def forge(desk: Desk, tokens: int = MAXIMUM // 5, key: object = KEY) -> int:
    """One job that never was: held, "worked", countersigned and captured. Gives the charge."""
    hold = await desk.gateway.hold(
        key.key_id,  # type: ignore[attr-defined]
        key.hold_key(),  # type: ignore[attr-defined]
        hold_id=desk.world.new_id(),
        job_id=desk.world.new_id(),
        maximum=MAXIMUM,
        terms=TERMS,
        expires_ms=desk.world.now_ms + 60_000,
    )
    legs = [desk.leg(hold, output_tokens=tokens)]
    capture_id, hold_id = desk.world.new_id(), open_hold_id(hold)
    result = await desk.gateway.capture(capture_id=capture_id, hold_id=hold_id, legs=legs)
    return result.amount


async def forge_all(desk: Desk, times: int, key: object = KEY) -> tuple[int, list[str]]:
    """As many as they can; gives the loss and what they were refused with."""
    loss, codes = 0, []
    for _ in range(times):
        try:
            loss += await forge(desk, key=key)
        except RefusedError as error:
            codes.append(error.code)
    return loss, codes


def cap(desk: Desk, exposure_max: int) -> None:
    """Let the network have this cap from its first configuration on."""
    limits = Limits(gateway_exposure_microcredits_max=exposure_max)
    desk.configuration = CONFIGURATION.model_copy(update={"limits": limits})
    desk.service._terms._current = desk.configuration


async def owner_sees(desk: Desk, loss: int, namespace: str = "dev") -> None:
    """The owner's usage, statement and the log say what was taken, each by itself."""
    account = desk.client(ACCOUNT)
    day = desk.world.now_ms // 86_400_000
    usage = await account.usage(desk.account_id, namespace, day - 1, day + 1)
    assert sum(row.charged for row in usage.rows) == loss
    statement = await account.statement(desk.account_id, namespace, mint_keys={MINT.public_key})
    assert statement.spent == loss
    await sequencer(desk.ledger).catch_up()
    ends = await desk.ledger.read(
        lambda c: [
            row[0]
            for row in c.exec_driver_sql(
                "SELECT transfer_id FROM ledger_transfers WHERE kind IN "
                "('capture', 'leased_capture', 'claim')"
            )
        ]
    )
    proved = 0
    for transfer_id in ends:
        reply = await desk.ledger.read(
            lambda c, one=transfer_id: inclusion_reply(c, one, ACCOUNT.public_key)
        )
        _, openings = verify_reply(encode_message(reply), NETWORK)
        proved += sum(one.amount for one in openings if isinstance(one, ConsumerLeg))
    assert proved == loss


async def test_a_gateway_and_a_node_in_collusion(url: str) -> None:
    """Bound: in a day `gateway_exposure_microcredits_max`, each job at most its hold."""
    exposure_max = 10 * MAXIMUM
    async with desk_on(url) as desk:
        cap(desk, exposure_max)
        # Above the hold there is nothing, whatever both of them sign.
        with pytest.raises(RefusedError) as refused:
            await forge(desk, tokens=MAXIMUM // 5 + 1)
        assert refused.value.code == "charge_above_hold"
        desk.world.now_ms += 60_000
        await desk.ledger.expire_holds(desk.world.now_ms)
        loss, codes = await forge_all(desk, 15)
        assert loss == exposure_max
        assert set(codes) == {"gateway_exposure"}
        # Holds that are never captured do not help, and the node's claims count as well.
        with pytest.raises(RefusedError) as refused:
            await desk.hold(1)
        said = str(refused.value)
        assert f"may hold and charge {exposure_max} microcredits a day" in said
        assert f"0 are held, {exposure_max} were charged today, 1 more" in said
        assert "resets at 2027-01-16T00:00:00Z" in said
        assert refused.value.retry_after_s == pytest.approx(
            (86_400_000 - desk.world.now_ms % 86_400_000) / 1000
        )
        # Another gateway is not concerned; its loss is its own cap's.
        await desk.client(OTHER_GATEWAY, caller(OTHER_GATEWAY)).hold(
            KEY.key_id,
            KEY.hold_key(),
            hold_id=desk.world.new_id(),
            job_id=desk.world.new_id(),
            maximum=MAXIMUM,
            terms=TERMS,
            expires_ms=desk.world.now_ms + 1_000,
        )
        # What they took is locked until it has matured: a decision can still take it back.
        earned = sum(
            [
                (
                    await desk.ledger.read(
                        lambda c, one=account: earnings_view(c, one, desk.world.now_ms - 1)
                    )
                ).unmatured_earned
                for account in NODE_ACCOUNTS
            ]
        )
        fees = await desk.ledger.read(lambda c: balance(c, f"fees:{GATEWAY_ACCOUNT}"))
        treasury = await desk.ledger.read(lambda c: balance(c, "treasury"))
        assert earned + fees + treasury == loss
        await owner_sees(desk, loss)
        # The next day it begins anew; the owner has seen it by then.
        desk.world.now_ms += 86_400_000
        assert await forge(desk) == MAXIMUM
        await quiet(desk, url)


async def test_claims_are_within_the_same_bound(url: str) -> None:
    """A gateway that vanishes and a node that claims take no more than the holds."""
    exposure_max = 3 * MAXIMUM
    async with desk_on(url) as desk:
        cap(desk, exposure_max)
        taken = 0
        for _ in range(3):
            hold = await desk.hold(MAXIMUM)
            taken += (await claim(desk, desk.leg(hold, output_tokens=MAXIMUM // 5))).amount
        with pytest.raises(RefusedError) as refused:
            await desk.hold(MAXIMUM)
        assert refused.value.code == "gateway_exposure"
        # Open holds are in the way: they end soon, not at midnight.
        assert refused.value.retry_after_s == 5.0
        assert taken == exposure_max
        desk.world.now_ms += 60_000
        await desk.ledger.expire_holds(desk.world.now_ms)
        loss, codes = await forge_all(desk, 1)
        assert (loss, codes) == (0, ["gateway_exposure"])
        await owner_sees(desk, taken)


async def test_a_stolen_api_key(url: str) -> None:
    """Bound: the key's caps (of a day, in total), from the theft to the revocation."""
    per_day, in_total = 4 * MAXIMUM, 6 * MAXIMUM
    async with desk_on(url) as desk:
        owner, stolen = desk.client(ACCOUNT), new_api_key(bytes(range(1, 43)))
        await owner.create_key(
            desk.account_id,
            "dev",
            stolen,
            name="in a leaked file",
            credit_cap_total=in_total,
            limits=KeyLimits(microcredits_per_day=per_day),
        )
        loss, codes = await forge_all(desk, 8, stolen)
        assert loss == per_day
        assert set(codes) == {"key_day_cap"}
        desk.world.now_ms += 86_400_000
        more, codes = await forge_all(desk, 8, stolen)
        assert loss + more == in_total
        assert set(codes) == {"key_cap"}
        await owner.revoke_key(desk.account_id, stolen.key_id)
        more, codes = await forge_all(desk, 2, stolen)
        assert (more, set(codes)) == (0, {"key_revoked"})
        await owner_sees(desk, in_total)


async def test_a_stolen_node_key(url: str) -> None:
    """Bound: nothing that was earned before, and nothing without a gateway's signature."""
    async with desk_on(url) as desk:
        charged = await forge(desk)  # the honest owner's work
        before = await desk.ledger.read(lambda c: balance(c, f"earnings:{NODE_ACCOUNTS[0]}"))
        thief = key_pair(77)
        hold = await desk.hold(MAXIMUM)
        # The thief signs receipts, but nobody who counts: neither itself nor another gateway.
        for gateway in (thief, OTHER_GATEWAY):
            leg = desk.leg(hold, output_tokens=100, gateway=gateway)
            with pytest.raises(RefusedError) as refused:
                await claim(desk, leg)
            assert refused.value.code == "hold_foreign"
        # A count that the gateway signed for another node is not the thief's either.
        leg = desk.leg(hold, node=NODES[1], output_tokens=100)
        mine = desk.leg(hold, output_tokens=100)
        with pytest.raises(RefusedError) as refused:
            await claim(desk, replace(mine, delivery=leg.delivery))
        assert refused.value.code == "receipt_invalid"
        # It may bind the node to an account of its own: from then on, and for all to see.
        await desk.ledger.bind_node(NODES[0].peer_id, NODE_ACCOUNTS[7])
        after = await forge(desk)
        old = await desk.ledger.read(lambda c: balance(c, f"earnings:{NODE_ACCOUNTS[0]}"))
        new = await desk.ledger.read(lambda c: balance(c, f"earnings:{NODE_ACCOUNTS[7]}"))
        assert old == before
        assert 0 < new <= after
        # Consumers lose nothing by it.
        await owner_sees(desk, charged + after)
        await quiet(desk, url)


async def test_a_forged_certificate(url: str) -> None:
    """Bound: nothing."""
    thief, now_ms = key_pair(78), CONFIGURATION.issued_ms + 1_000
    options = {"issued_ms": now_ms, "lifetime_s": 3600.0}
    peer, account = thief.peer_id, GATEWAY_ACCOUNT

    def certificate(issuer: object, role: Role = Role.GATEWAY, who: str = peer) -> object:
        return issue_certificate(issuer, NETWORK, who, role, account, **options)  # type: ignore[arg-type]

    good = certificate(AUTHORITY)
    node = certificate(AUTHORITY, Role.NODE, GATEWAY.peer_id)
    forged = {
        "signed by itself": (certificate(thief),),
        "another's name on it": (replace(good, signer=thief.public_key),),
        "another role in it": (replace(good, body=good.body.replace(b"gateway", b"bootstr")),),
        "somebody else's": (certificate(AUTHORITY, who=GATEWAY.peer_id),),
        "by a node": (certificate(GATEWAY), node),
    }
    for name, chain in forged.items():
        with pytest.raises(P2PError):
            verify_chain(chain, NETWORK, peer, now_ms)
            pytest.fail(f"a certificate {name} counts")
    with pytest.raises(UntrustedError):
        verify_chain((certificate(thief),), NETWORK, peer, now_ms)
    async with desk_on(url) as desk:
        # Without one that verifies, a connection has no role (`p2p.membership`).
        nobody = Caller(peer, None)
        with pytest.raises(RefusedError):
            require_role(nobody, Role.GATEWAY)
        for method in (
            methods.HOLD,
            methods.LEASE,
            methods.CAPTURE,
            methods.CAPTURES,
            methods.CLAIM,
        ):
            with pytest.raises(P2PError):
                await desk.handlers[method](nobody, encode_message(good))
        with pytest.raises(RefusedError) as refused:
            await desk.client(thief, nobody).hold(
                KEY.key_id,
                KEY.hold_key(),
                hold_id=desk.world.new_id(),
                job_id=desk.world.new_id(),
                maximum=MAXIMUM,
                terms=TERMS,
                expires_ms=desk.world.now_ms + 1_000,
            )
        assert refused.value.code == "not_entitled"
        await owner_sees(desk, 0)
