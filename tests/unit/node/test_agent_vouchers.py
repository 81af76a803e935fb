"""Owns the tests of vouchers at the node: nothing runs before a good one, and each works once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from node.limits import VOUCHER_WAIT_S
from p2p.errors import StaleError
from p2p.job_messages import (
    AcceptFrame,
    EndFrame,
    OutputFrame,
)
from p2p.signing import KeyPair
from p2p.types import Role
from tests.fakes.clocks import START_MS
from tests.fakes.job_desk import Desk
from tests.fakes.trust import (
    BOOTSTRAP,
    DAY_S,
    GATEWAY,
    NODE,
    OTHER_AUTHORITY,
    OTHER_BOOTSTRAP,
    bootstrap_chain,
    certificate,
    configuration,
    gateway_chain,
    node_chain,
)


async def test_nothing_runs_before_its_voucher() -> None:
    async with Desk().session() as desk:
        offer = desk.offer()
        desk.send_offer(offer)
        await desk.next(AcceptFrame)
        await desk.settle()
        assert desk.runtime.sinks == {}
        assert desk.of(OutputFrame) == []
        desk.send_voucher(offer)
        await desk.settle()
        assert set(desk.runtime.sinks) == {1}


async def test_a_voucher_may_come_while_the_prompt_is_prepared() -> None:
    desk = Desk()
    desk.runtime.hold_back = trio.Event()
    async with desk.session():
        offer = desk.offer()
        desk.send_offer(offer)
        desk.send_voucher(offer)
        await desk.settle()
        assert desk.of(AcceptFrame) == []
        desk.runtime.hold_back.set()
        await desk.next(AcceptFrame)
        assert set(desk.runtime.sinks) == {1}


BAD_VOUCHERS: list[tuple[KeyPair, dict[str, Any], str]] = [
    (BOOTSTRAP, {"job_id": bytes(16)}, "another job"),
    (BOOTSTRAP, {"hold_id": bytes(16)}, "another job"),
    (BOOTSTRAP, {"gateway_id": BOOTSTRAP.peer_id}, "another gateway"),
    (BOOTSTRAP, {"maximum": 1}, "less than the offer"),
    (BOOTSTRAP, {"expires_ms": START_MS}, "expired"),
    (BOOTSTRAP, {"issued_ms": START_MS + 100_000, "expires_ms": START_MS + 200_000}, "future"),
    (GATEWAY, {"chain": gateway_chain()}, "only a bootstrap"),
    (GATEWAY, {"chain": bootstrap_chain()}, "only a bootstrap"),
    (GATEWAY, {"chain": ()}, "only a bootstrap"),
    (NODE, {"chain": node_chain()}, "only a bootstrap"),
    (OTHER_BOOTSTRAP, {"chain": ()}, "not known"),
    (OTHER_BOOTSTRAP, {"chain": bootstrap_chain()}, "another peer"),
    (
        OTHER_BOOTSTRAP,
        {"chain": (certificate(OTHER_BOOTSTRAP.peer_id, Role.BOOTSTRAP, OTHER_AUTHORITY),)},
        "authority",
    ),
    (
        OTHER_BOOTSTRAP,
        {"chain": bootstrap_chain(OTHER_BOOTSTRAP, issued_ms=START_MS - int(2000 * DAY_S))},
        "expired",
    ),
]


@pytest.mark.parametrize(("signer", "changes", "reason"), BAD_VOUCHERS)
async def test_vouchers_that_are_worth_nothing(
    signer: KeyPair, changes: dict[str, Any], reason: str
) -> None:
    async with Desk().session() as desk:
        offer = desk.offer()
        desk.send_offer(offer)
        await desk.next(AcceptFrame)
        desk.send_voucher(offer, signer=signer, **changes)
        end = await desk.next(EndFrame)
        assert (end.outcome, end.receipt) == ("failed", None)
        assert reason in end.detail
        assert desk.runtime.sinks == {}
        assert desk.runtime.cancelled == [1]
        assert desk.agent.jobs == 0
        assert desk.link.is_open


async def test_terms_in_the_voucher_are_those_of_the_offer() -> None:
    async with Desk().session() as desk:
        offer = desk.offer()
        desk.send_offer(offer)
        await desk.next(AcceptFrame)
        desk.book.offer(configuration(2, desk.book.signed))
        other = desk.offer(2)
        assert other.terms != offer.terms
        desk.send_voucher(offer, terms=other.terms)
        assert (await desk.next(EndFrame)).outcome == "failed"


async def test_a_voucher_of_a_banned_bootstrap() -> None:
    async with Desk().session() as desk:
        offer = desk.offer()
        desk.send_offer(offer)
        await desk.next(AcceptFrame)
        desk.book.offer(configuration(2, desk.book.signed, banned_peers=(BOOTSTRAP.peer_id,)))
        desk.send_voucher(offer)
        assert "banned" in (await desk.next(EndFrame)).detail


async def test_an_issuer_is_remembered_until_it_expires() -> None:
    async with Desk().session() as desk:
        await desk.start_job(1)
        second = desk.offer(2)
        desk.send_offer(second, 2)
        desk.send_voucher(second, 2, chain=())
        await desk.settle()
        assert set(desk.runtime.sinks) == {1, 2}


async def test_an_attempt_runs_once() -> None:
    """The same offer with the same voucher, again and under another number."""
    async with Desk().session() as desk:
        offer = await desk.start_job()
        desk.runtime.sink.on_end("stop", "")
        desk.send_offer(offer, 2)
        desk.send_voucher(offer, 2)
        await desk.next(EndFrame, 2)
        assert "begun before" in desk.of(EndFrame)[1].detail
        assert set(desk.runtime.sinks) == {1}
        again = await desk.start_job(3, attempt=1)
        assert again.attempt == 1


async def test_no_voucher_in_time(autojump_clock: trio.abc.Clock) -> None:
    async with Desk().session() as desk:
        offer = desk.offer()
        desk.send_offer(offer)
        await desk.next(AcceptFrame)
        desk.clock.advance(VOUCHER_WAIT_S + 1)
        end = await desk.next(EndFrame)
        assert (end.outcome, end.receipt) == ("failed", None)
        assert "no voucher" in end.detail
        assert desk.runtime.cancelled == [1]
        desk.send_voucher(offer)
        await trio.sleep(5)
        assert desk.runtime.sinks == {}


def test_a_hold_pays_for_one_job() -> None:
    desk = Desk()
    offer = desk.offer()
    book = desk.agent.issuers
    book.use_once(offer)
    book.use_once(replace(offer, attempt=offer.attempt + 1))
    with pytest.raises(StaleError, match="another job"):
        book.use_once(replace(offer, job_id=bytes(16)))
