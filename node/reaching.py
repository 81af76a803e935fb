"""Owns how gateways reach this node: by dialling it, by its own dials, or through a relay.

Theory of operation. A bootstrap is asked to dial this node back (`reach.check`). If that works, the
node says its addresses in its adverts and waits. If not, it is hidden: it learns from its bootstrap
which gateways can be dialled, verifies each one's own signed statement, dials them and keeps the
connections, over which the gateways open their job sessions. For gateways that cannot be dialled
either it reserves a place at the bootstrap's relay and says that address in its adverts. As long as
nobody can tell, it does as both kinds do.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable

import trio

from node.limits import (
    GATEWAY_MEMORY_MS,
    GATEWAY_PAUSE_S_MAX,
    GATEWAY_PAUSE_S_MIN,
    GATEWAY_STABLE_S,
    GATEWAYS_ASK_INTERVAL_S,
    GATEWAYS_DIALLED_MAX,
    OWN_GATEWAYS_DIALLED_MAX,
    REACH_CHECK_INTERVAL_S,
    REACH_RETRY_S,
)
from p2p.adverts import HIDDEN
from p2p.clock import Clock
from p2p.codec import decode_message, decode_messages
from p2p.errors import P2PError, PeerUnavailableError
from p2p.limits import ADDRESSES_MAX, DIAL_TIMEOUT_S
from p2p.network import Network, Way, first_of
from p2p.reaching.gateway_statements import (
    GATEWAYS_LIST,
    GATEWAYS_TOPIC,
    GatewayBook,
    KnownGateway,
    verify_gateway,
)
from p2p.reaching.reach_client import ask_reach, dialable
from p2p.reaching.relay_client import RelayReservation
from p2p.signing import Signed
from p2p.types import PeerId
from p2p.uplink import Uplink

log = logging.getLogger(__name__)


class Reaching:
    """Keeps this node within reach of the gateways."""

    def __init__(
        self,
        network: Network,
        uplink: Uplink,
        *,
        mode: str,
        announced: bool,
        clock_ms: Clock,
        on_change: Callable[[], None],
        jitter: Callable[[], float] = random.random,
        is_banned: Callable[[PeerId], bool] = lambda peer_id: False,
    ) -> None:
        """`mode` is one of HIDDEN_MODES; `on_change` is called when `where` says something new.

        Args:
            announced: the operator said what others are to dial: that is believed.
            jitter: from 0 to 1, for pauses that many nodes would otherwise take together.
            is_banned: which gateways are not dialled: they would learn where this node is.
        """
        self._network = network
        self._uplink = uplink
        self._asks = mode == "auto" and not announced and bool(network.addresses())
        self._clock_ms = clock_ms
        self._on_change = on_change
        self._jitter = jitter
        self._is_banned = is_banned
        self._reached = ""
        self._book = GatewayBook()
        self._dialled: dict[PeerId, trio.Event] = {}
        """The gateways that have a dialling task, with what wakes it from its pause."""
        self._reservation = RelayReservation(network, uplink, on_change)
        self._turned = trio.Event()
        self._news = trio.Event()
        self.hidden: bool | None = None
        """None while it is not known."""
        self._nobody_can_tell = False
        if not self._asks:
            self.hidden = not network.addresses() or mode == "yes"

    def where(self) -> tuple[tuple[str, ...], str]:
        """Give the addresses and the `reach` that the node's advert says."""
        if self.hidden:
            relayed = self._reservation.address
            return ((relayed,) if relayed else ()), HIDDEN
        listening = self._network.addresses()[:ADDRESSES_MAX]
        return (dialable(self._reached, listening) if self._reached else listening), ""

    def summary(self) -> str:
        """Say for the operator how gateways reach this node."""
        if self.hidden is None:
            return "whether others can dial it is not known"
        if not self.hidden:
            return f"can be dialled at {self._reached}" if self._reached else "says its addresses"
        dialled = sum(self._network.way_to(peer_id) is Way.DIRECT for peer_id in self._dialled)
        relay = "a relay passes others on" if self._reservation.address else "no relay"
        return f"hidden: has dialled {dialled} of {len(self._dialled)} gateways, {relay}"

    async def run(self) -> None:
        """Keep within reach until cancelled."""
        self._network.watch_ways(self._on_way)
        if self.hidden:
            log.info("this node is hidden: it dials gateways, and is relayed where it must be")
        follows = False
        async with trio.open_nursery() as outer:
            if self._asks:
                outer.start_soon(self._look)
            while True:
                self._turned = trio.Event()
                if not follows and (self.hidden or self._nobody_can_tell):
                    follows = True  # a topic is subscribed to once
                    outer.start_soon(self._follow_gateways)
                async with trio.open_nursery() as nursery:
                    if self.hidden or self._nobody_can_tell:
                        nursery.start_soon(self._dial_gateways)
                    if self.hidden:
                        nursery.start_soon(self._reservation.run)
                    await self._turned.wait()
                    nursery.cancel_scope.cancel()

    # --- can we be dialled? -----------------------------------------------------------------------
    async def _look(self) -> None:
        while True:
            await self._uplink.wait_up()
            asked = self._uplink.bootstrap
            pause_s = REACH_CHECK_INTERVAL_S
            try:
                answer = await ask_reach(self._uplink.call, self._network.addresses())
                self._take(answer.address, answer.reason)
            except P2PError as error:
                log.info("whether this node can be dialled is not known: %s", error)
                pause_s = REACH_RETRY_S
                if self.hidden is None and not self._nobody_can_tell:
                    self._nobody_can_tell = True
                    self._turned.set()
            with trio.move_on_after(pause_s):
                while self._uplink.bootstrap in (asked, None):
                    await self._uplink.wait_changed()

    def _take(self, address: str, reason: str) -> None:
        hidden = not address
        changed = (hidden, address) != (self.hidden, self._reached)
        turned = hidden is not self.hidden
        self.hidden, self._reached = hidden, address
        if hidden and turned:
            log.info(
                "this node cannot be dialled (%s): it dials gateways, and is relayed where it must"
                " be",
                reason,
            )
        elif turned:
            log.info("this node can be dialled at %s", address)
        if changed:
            self._on_change()
        if turned:
            self._turned.set()

    # --- the gateways -----------------------------------------------------------------------------
    async def _dial_gateways(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._uplink.wait_up()
                    try:
                        await self._ask()
                    except P2PError as error:
                        log.info("gateways are not known: %s", error)
                    ask_at_s = trio.current_time() + GATEWAYS_ASK_INTERVAL_S * (
                        0.75 + self._jitter() / 2
                    )
                    while trio.current_time() < ask_at_s and self._uplink.bootstrap is not None:
                        news = self._news = trio.Event()
                        for known in self._choose():
                            nursery.start_soon(self._keep, known.statement.peer_id)
                        with trio.move_on_at(ask_at_s):
                            await first_of(news.wait, self._uplink.wait_changed)
        finally:
            self._dialled.clear()

    async def _ask(self) -> None:
        answer = await self._uplink.call(GATEWAYS_LIST, b"")
        for item in decode_messages(answer) if answer else ():
            if isinstance(item, Signed):
                self._hear(item)

    async def _follow_gateways(self) -> None:
        async for item in self._network.subscribe(GATEWAYS_TOPIC):
            try:
                self._hear(decode_message(item.data, Signed))
            except P2PError as error:
                log.debug("not a gateway's statement, from %s: %s", item.author, error)

    def _hear(self, signed: Signed) -> None:
        """Take a gateway's word about itself; what cannot be believed is dropped."""
        now_ms = self._clock_ms()
        try:
            known = verify_gateway(signed, self._network.network_id, now_ms)
            peer_id = known.statement.peer_id
            before = self._book.get(peer_id, now_ms)
            self._book.add(known, now_ms)
        except P2PError as error:
            log.debug("a gateway's statement was dropped: %s", error)
            return
        if peer_id not in self._dialled:
            self._news.set()
        elif before and before.statement.addresses != known.statement.addresses:
            self._dialled[peer_id].set()

    def _choose(self) -> list[KnownGateway]:
        """Give the gateways to dial from now on: of too many, each node takes others. Those that
        the authority certified come first, accounts' own ones have some of the places only."""

        def place(known: KnownGateway) -> tuple[bool, bool, bytes]:
            peer_id, own = known.statement.peer_id, known.certificate.own_namespaces_only
            pair = f"{self._network.local}/{peer_id}"
            return own, peer_id not in self._dialled, hashlib.sha256(pair.encode()).digest()

        own_left, fresh = OWN_GATEWAYS_DIALLED_MAX, []
        for known in sorted(self._book.reachable(self._clock_ms()), key=place):
            peer_id, own = known.statement.peer_id, known.certificate.own_namespaces_only
            if peer_id == self._network.local or self._is_banned(peer_id):
                continue
            if peer_id not in self._dialled and (own_left > 0 or not own):
                fresh.append(known)
            own_left -= own
        fresh = fresh[: max(0, GATEWAYS_DIALLED_MAX - len(self._dialled))]
        for known in fresh:
            self._dialled[known.statement.peer_id] = trio.Event()
        return fresh

    def _on_way(self, peer_id: PeerId, way: Way | None) -> None:
        if peer_id in self._dialled:
            self._dialled[peer_id].set()

    async def _keep(self, peer_id: PeerId) -> None:
        """Keep a connection to a gateway; a while after its last statement it is given up."""
        pause_s = GATEWAY_PAUSE_S_MIN
        said = ""
        known: KnownGateway | None = None
        try:
            while True:
                woken = self._dialled[peer_id] = trio.Event()
                now_ms = self._clock_ms()
                known = self._book.get(peer_id, now_ms) or known
                if self._network.way_to(peer_id) is Way.DIRECT:
                    with trio.move_on_after(GATEWAY_STABLE_S) as stable:
                        await woken.wait()
                    if stable.cancelled_caught:
                        pause_s, said = GATEWAY_PAUSE_S_MIN, ""
                        await woken.wait()
                    woken = self._dialled[peer_id] = trio.Event()
                elif known is None or now_ms > known.statement.expires_ms + GATEWAY_MEMORY_MS:
                    log.info("gateway %s says nothing any more", peer_id)
                    return
                elif self._is_banned(peer_id):
                    log.info("gateway %s is banned", peer_id)
                    return
                else:
                    said = await self._dial_quietly(known, said)
                if self._network.way_to(peer_id) is Way.DIRECT:
                    continue
                # Also after a connection that was lost at once: it may be lost again.
                with trio.move_on_after(pause_s * (0.5 + self._jitter())):
                    await woken.wait()
                pause_s = min(GATEWAY_PAUSE_S_MAX, 2 * pause_s)
        finally:
            self._dialled.pop(peer_id, None)

    async def _dial_quietly(self, known: KnownGateway, said: str) -> str:
        """Dial a gateway; gives the failure, which is logged unless it was `said` already."""
        peer_id = known.statement.peer_id
        try:
            await self._dial(known.statement.addresses)
        except P2PError as error:
            if str(error) != said:
                log.info("gateway %s: %s", peer_id, error)
            return str(error)
        log.info("connected to gateway %s", peer_id)
        return ""

    async def _dial(self, addresses: tuple[str, ...]) -> None:
        failure: P2PError = PeerUnavailableError("it names no address")
        for address in addresses:
            try:
                with trio.fail_after(DIAL_TIMEOUT_S):
                    await self._network.connect(address)
                return
            except trio.TooSlowError:
                failure = PeerUnavailableError(f"{address} does not answer")
            except P2PError as error:
                failure = error
        raise failure
