"""What a bootstrap tells gateways about keys and leases, and when that is believed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from bootstrap.limits import WANTED_NOTICE_INTERVAL_S
from bootstrap.notices import Notices
from ledger.ledger import Ledger
from p2p.certificates import Chain
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, P2PError, StaleError, UntrustedError
from p2p.lease_messages import (
    LEDGER_NOTICE_TOPIC,
    LedgerNotice,
    LedgerNoticeMessage,
    key_mark,
)
from p2p.ledger_notices import NOTICE_AGE_MS_MAX, open_notice
from p2p.limits import GOSSIP_MESSAGE_BYTES_MAX, NOTICE_MARKS_MAX
from p2p.network import Network
from p2p.types import network_id
from tests.fakes.clocks import START_MS
from tests.fakes.ledger_desk import ACCOUNT, KEY, Desk
from tests.fakes.ledger_world import NETWORK as LEDGER_NETWORK
from tests.fakes.trust import BOOTSTRAP, GATEWAY, NETWORK, bootstrap_chain, gateway_chain

ONE, OTHER = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"


class GossipNetwork:
    """A network that only takes gossip."""

    def __init__(self) -> None:
        self.told: list[tuple[float, LedgerNotice]] = []
        self.fails = False

    async def publish(self, topic: str, data: bytes) -> None:
        if self.fails:
            raise MalformedError("not now")
        assert topic == LEDGER_NOTICE_TOPIC
        assert len(data) <= GOSSIP_MESSAGE_BYTES_MAX
        self.told.append((trio.current_time(), open_notice(data, NETWORK, START_MS)[0]))


@pytest.fixture
def network() -> GossipNetwork:
    return GossipNetwork()


@pytest.fixture
async def notices(network: GossipNetwork, autojump_clock: trio.abc.Clock, nursery: Any) -> Notices:
    made = Notices(BOOTSTRAP, bootstrap_chain(), NETWORK, lambda: START_MS)
    nursery.start_soon(made.run, cast(Network, network))
    return made


async def test_changed_keys_are_told_together_within_a_moment(
    notices: Notices, network: GossipNetwork, autojump_clock: trio.abc.Clock
) -> None:
    started = trio.current_time()
    notices.changed(ONE)
    await trio.sleep(0.01)
    notices.changed(OTHER)
    notices.changed(ONE)
    await trio.sleep(1)
    ((at, notice),) = network.told
    assert at - started < 0.5
    assert notice.changed_keys == (key_mark(ONE), key_mark(OTHER))
    notices.changed(ONE)
    await trio.sleep(1)
    assert len(network.told) == 2


async def test_wanted_leases_are_told_once_a_second_at_most(
    notices: Notices, network: GossipNetwork, autojump_clock: trio.abc.Clock
) -> None:
    for _ in range(50):
        notices.wanted([ONE, OTHER])
        await trio.sleep(0.1)
    times = [at for at, _ in network.told]
    assert 3 <= len(times) <= 6
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= WANTED_NOTICE_INTERVAL_S
    assert {notice.wanted_keys for _, notice in network.told} == {(key_mark(ONE), key_mark(OTHER))}


async def test_a_changed_key_does_not_wait_for_wanted_leases(
    notices: Notices, network: GossipNetwork, autojump_clock: trio.abc.Clock
) -> None:
    notices.wanted([ONE])
    await trio.sleep(0.2)
    notices.wanted([OTHER])
    notices.changed(ONE)
    await trio.sleep(0.2)
    assert [(n.changed_keys, n.wanted_keys) for _, n in network.told] == [
        ((), (key_mark(ONE),)),
        ((key_mark(ONE),), ()),
    ]


async def test_a_notice_fits_into_gossip_however_many_keys_change(
    notices: Notices, network: GossipNetwork, autojump_clock: trio.abc.Clock
) -> None:
    for number in range(3 * NOTICE_MARKS_MAX):
        notices.changed(f"key-{number:012}")
    await trio.sleep(1)
    ((_, notice),) = network.told
    assert len(notice.changed_keys) == NOTICE_MARKS_MAX


async def test_a_network_that_fails_does_not_end_it(
    notices: Notices, network: GossipNetwork, autojump_clock: trio.abc.Clock
) -> None:
    network.fails = True
    notices.changed(ONE)
    await trio.sleep(1)
    network.fails = False
    notices.changed(OTHER)
    await trio.sleep(1)
    assert [notice.changed_keys for _, notice in network.told] == [(key_mark(OTHER),)]


# --- what is believed ---------------------------------------------------------------------------
def message(pair: Any = BOOTSTRAP, chain: Chain | None = None, issued_ms: int = START_MS) -> bytes:
    notice = LedgerNotice(issued_ms, (key_mark(ONE),), ())
    chain = bootstrap_chain() if chain is None else chain
    return encode_message(LedgerNoticeMessage(pair.sign(NETWORK, notice), chain))


def test_only_a_fresh_notice_of_a_bootstrap_is_believed() -> None:
    notice, issuer = open_notice(message(), NETWORK, START_MS + NOTICE_AGE_MS_MAX)
    assert (notice.changed_keys, issuer) == ((key_mark(ONE),), BOOTSTRAP.peer_id)
    refused: list[tuple[bytes, type[P2PError]]] = [
        (b"nonsense", MalformedError),
        (message(issued_ms=START_MS - NOTICE_AGE_MS_MAX - 1), StaleError),
        (message(issued_ms=START_MS + NOTICE_AGE_MS_MAX + 1), StaleError),
        (message(GATEWAY, gateway_chain()), UntrustedError),
        (message(GATEWAY), UntrustedError),
    ]
    received = decode_message(message(), LedgerNoticeMessage)
    forged = replace(received, notice=replace(received.notice, signature=bytes(64)))
    refused.append((encode_message(forged), UntrustedError))
    for data, kind in refused:
        with pytest.raises(kind):
            open_notice(data, NETWORK, START_MS)
    with pytest.raises(UntrustedError):
        open_notice(message(), network_id("other", BOOTSTRAP.public_key), START_MS)


# --- who names them -----------------------------------------------------------------------------
class Named:
    """Remembers what was named."""

    def __init__(self) -> None:
        self.changed_keys: list[str] = []
        self.wanted_keys: list[str] = []


async def test_the_service_names_revoked_keys(tmp_path: Path, monkeypatch: Any) -> None:
    named = Named()
    monkeypatch.setattr(Notices, "changed", lambda _, key_id: named.changed_keys.append(key_id))
    ledger = Ledger(
        f"sqlite:///{tmp_path / 'ledger.db'}", LEDGER_NETWORK, clock_ms=lambda: 1_800_000_000_000
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        desk = Desk(ledger)
        await desk.set_up()
        assert named.changed_keys == []
        await desk.client(ACCOUNT).revoke_key(desk.account_id, KEY.key_id)
        assert named.changed_keys == [KEY.key_id]
        nursery.cancel_scope.cancel()
