"""Owns the question of a peer whether it can be dialled, and what it makes of the answer."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

from p2p.codec import decode_message, encode_message
from p2p.errors import UntrustedError
from p2p.limits import ADDRESSES_MAX
from p2p.reaching.relay_messages import REACH_CHECK, ReachAnswer, ReachQuestion

Call = Callable[[str, bytes], Awaitable[bytes]]
_PORT = re.compile(r"^/(?:ip4|ip6|dns|dns4|dns6)/([^/]+)/tcp/(\d{1,5})(?:/|$)")
_ANYWHERE = ("/ip4/0.0.0.0/", "/ip6/::/")


def ports_of(addresses: Sequence[str]) -> tuple[int, ...]:
    """Give the TCP ports of addresses, each once."""
    ports = (int(match[2]) for match in map(_PORT.match, addresses) if match is not None)
    return tuple(dict.fromkeys(port for port in ports if 0 < port <= 65_535))[:ADDRESSES_MAX]


def is_loopback(address: str) -> bool:
    """Tell whether only this machine can dial an address."""
    match = _PORT.match(address)
    return match is not None and (match[1].startswith("127.") or match[1] in ("::1", "localhost"))


async def ask_reach(call: Call, addresses: Sequence[str]) -> ReachAnswer:
    """Ask a bootstrap to dial us back at one of our addresses.

    Raises: P2PError if it cannot say; UntrustedError if it names a place that is not ours: said to
        others, it would have all that we say refused.
    """
    ports = ports_of(addresses)
    if not ports:
        return ReachAnswer("", "nothing is listened on")
    answer = decode_message(
        await call(REACH_CHECK, encode_message(ReachQuestion(ports))), ReachAnswer
    )
    own = addresses[0].rpartition("/p2p/")[2]
    if answer.address and not (
        answer.address.endswith(f"/p2p/{own}") and set(ports_of([answer.address])) & set(ports)
    ):
        raise UntrustedError("the bootstrap says that we were reached at a place that is not ours")
    return answer


def dialable(reached: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """Give what to tell others: where we were reached first, then our other addresses.

    What only this machine can dial is left out, unless that is where we were reached, and so is
    "any address", which nobody can dial.
    """
    others = (a for a in addresses if a != reached and not a.startswith(_ANYWHERE))
    if not is_loopback(reached):
        others = (a for a in others if not is_loopback(a))
    return (reached, *others)[:ADDRESSES_MAX]
