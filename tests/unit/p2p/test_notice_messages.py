"""Whose ledger notices are believed."""

from __future__ import annotations

import pytest

from p2p.certificates import Chain
from p2p.codec import encode_message
from p2p.errors import MalformedError, P2PError, StaleError, UntrustedError
from p2p.lease_messages import LedgerNotice, LedgerNoticeMessage, key_mark
from p2p.ledger_notices import encode_notice, open_notice
from p2p.signing import KeyPair, Signed
from tests.fakes.clocks import START_MS
from tests.fakes.trust import (
    BOOTSTRAP,
    GATEWAY,
    NETWORK,
    NODE,
    OTHER_BOOTSTRAP,
    bootstrap_chain,
    gateway_chain,
    node_chain,
)

NOW_MS = START_MS + 1000
NOTICE = LedgerNotice(NOW_MS, (key_mark("a" * 16),), (key_mark("b" * 16),))


def test_a_bootstrap_is_believed() -> None:
    data = encode_notice(NOTICE, BOOTSTRAP, NETWORK, bootstrap_chain())
    assert open_notice(data, NETWORK, NOW_MS) == (NOTICE, BOOTSTRAP.peer_id)


@pytest.mark.parametrize(
    ("pair", "chain", "issued_ms", "kind"),
    [
        (GATEWAY, gateway_chain(), NOW_MS, UntrustedError),
        (NODE, node_chain(), NOW_MS, UntrustedError),
        (OTHER_BOOTSTRAP, bootstrap_chain(), NOW_MS, UntrustedError),
        (BOOTSTRAP, gateway_chain(), NOW_MS, UntrustedError),
        (BOOTSTRAP, (), NOW_MS, MalformedError),
        (BOOTSTRAP, bootstrap_chain(), NOW_MS - 120_001, StaleError),
        (BOOTSTRAP, bootstrap_chain(), NOW_MS + 60_001, StaleError),
    ],
)
def test_nobody_else_is(pair: KeyPair, chain: Chain, issued_ms: int, kind: type[P2PError]) -> None:
    data = encode_notice(LedgerNotice(issued_ms), pair, NETWORK, chain)
    with pytest.raises(kind):
        open_notice(data, NETWORK, NOW_MS)


def test_a_forged_signature_is_not() -> None:
    signed = BOOTSTRAP.sign(NETWORK, NOTICE)
    forged = Signed(signed.body, signed.signer, bytes(64))
    data = encode_message(LedgerNoticeMessage(forged, bootstrap_chain()))
    with pytest.raises(UntrustedError):
        open_notice(data, NETWORK, NOW_MS)
