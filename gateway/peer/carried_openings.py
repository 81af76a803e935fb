"""Owns what a gateway adds to the opening of an account that it carries: where the client is.

The bootstrap bounds how many accounts the clients of one network open. It learns the network (/24
or /48) from the gateway's signed wrapper, and nothing else of the address.
"""

from __future__ import annotations

from p2p.codec import decode_any_message, decode_message, encode_message
from p2p.errors import MalformedError
from p2p.ledger_messages import AccountFounding
from p2p.opening_messages import CarriedFounding, InvitedFounding, network_prefix
from p2p.signing import KeyPair, Signed
from p2p.types import NetworkId


def wrap_opening(
    body: bytes, client: str, key_pair: KeyPair, network: NetworkId, now_ms: int
) -> bytes:
    """Wrap a document that opens an account; everything else stays as it is.

    Args:
        body: an encoded `Signed`, not checked yet (the ledger does that).
        client: the client's IP address.
    """
    try:
        signed = decode_message(body, Signed)
        opens = isinstance(decode_any_message(signed.body), AccountFounding | InvitedFounding)
    except MalformedError:
        return body
    if not opens:
        return body
    carried = CarriedFounding(signed, network_prefix(client), now_ms)
    return encode_message(key_pair.sign(network, carried))
