"""Owns how a ledger notice travels: signed by a bootstrap, with the certificates that say so.

In gossip (`LEDGER_NOTICE_TOPIC`) a notice is a `LedgerNoticeMessage`: the signed notice and its
signer's certificate chain, so that a gateway that never met that bootstrap believes it too.
"""

from __future__ import annotations

from p2p.certificates import Chain, verify_chain
from p2p.codec import decode_message, encode_message
from p2p.errors import StaleError, UntrustedError
from p2p.lease_messages import LedgerNotice, LedgerNoticeMessage
from p2p.limits import CLOCK_SKEW_MS_MAX
from p2p.signing import KeyPair, open_signed
from p2p.types import NetworkId, PeerId, Role

NOTICE_AGE_MS_MAX = 120_000
"""An older notice says nothing any more: what it named was looked up again meanwhile."""


def encode_notice(
    notice: LedgerNotice, key_pair: KeyPair, network: NetworkId, chain: Chain
) -> bytes:
    """Sign a notice and put it into the form of gossip; `chain` certifies `key_pair`."""
    return encode_message(LedgerNoticeMessage(key_pair.sign(network, notice), tuple(chain)))


def open_notice(data: bytes, network: NetworkId, now_ms: int) -> tuple[LedgerNotice, PeerId]:
    """Read a notice, and who signed it.

    Raises: MalformedError, UntrustedError (not signed by a certified bootstrap), StaleError.
    """
    message = decode_message(data, LedgerNoticeMessage)
    issuer = message.notice.peer_id
    if verify_chain(message.chain, network, issuer, now_ms).role is not Role.BOOTSTRAP:
        raise UntrustedError("only a bootstrap gives ledger notices")
    notice = open_signed(message.notice, LedgerNotice, network)
    if not now_ms - NOTICE_AGE_MS_MAX <= notice.issued_ms <= now_ms + CLOCK_SKEW_MS_MAX:
        raise StaleError("a ledger notice of another time")
    return notice, issuer
