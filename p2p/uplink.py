"""Owns the uplink: a peer's standing connection to one bootstrap, redialled as long as it runs.

Theory of operation. Nodes and gateways need one bootstrap: for calls, for gossip and for the DHT.
The uplink dials the given addresses in turn, with a pause that grows to two seconds, opens a call
link and runs a greeting of the owner's choice over it (fetch the configuration, be admitted). A
bootstrap that fails the greeting is dropped and the next one tried: nothing it says is believed
because it is a bootstrap. Calls wait for the link within their own deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import trio

from p2p.calls import CALLS_PROTOCOL, CallLink
from p2p.errors import P2PError, PeerUnavailableError, WrongNetworkError
from p2p.limits import CALL_TIMEOUT_S, REDIAL_PAUSE_S_MAX, REDIAL_PAUSE_S_MIN, UPLINK_WAIT_S
from p2p.link import Link
from p2p.network import Network
from p2p.types import PeerId

log = logging.getLogger(__name__)
Greeting = Callable[[CallLink], Awaitable[None]]


async def no_greeting(link: CallLink) -> None:
    """Greet a bootstrap without asking it anything."""


class Uplink:
    """Keeps a call link to one of several bootstraps."""

    def __init__(
        self,
        network: Network,
        addresses: Sequence[str],
        *,
        protocol: str = CALLS_PROTOCOL,
        greeting: Greeting = no_greeting,
    ) -> None:
        """Dial these multiaddresses."""
        assert addresses, "an uplink needs at least one bootstrap address"
        self._network = network
        self._addresses = tuple(addresses)
        self._protocol = protocol
        self._greeting = greeting
        self._said = ""
        self._was_up = False
        self._link: CallLink | None = None
        self._address = ""
        self._changed = trio.Event()

    @property
    def _open_link(self) -> CallLink | None:
        return self._link if self._link is not None and self._link.link.is_open else None

    def _set_link(self, link: CallLink | None) -> None:
        self._link = link
        self._changed.set()
        self._changed = trio.Event()

    @property
    def bootstrap(self) -> PeerId | None:
        """The bootstrap that we are linked to now."""
        link = self._open_link
        return link.link.remote if link is not None else None

    @property
    def address(self) -> str:
        """Where the bootstrap that we are linked to was dialled; empty while there is none."""
        return self._address if self._open_link is not None else ""

    @property
    def trouble(self) -> str:
        """What went wrong last; empty while nothing does."""
        return self._said

    async def wait_up(self) -> None:
        """Wait until a bootstrap was reached and greeted."""
        while self._open_link is None:
            await self._changed.wait()

    async def wait_changed(self) -> None:
        """Wait until the link comes up or goes down."""
        await self._changed.wait()

    async def call(
        self, method: str, body: bytes, timeout_s: float = CALL_TIMEOUT_S, *, urgent: bool = True
    ) -> bytes:
        """Ask the bootstrap (`urgent`: as `Link.send`).

        Raises: PeerUnavailableError (no bootstrap in time, or the link broke), DeadlineError,
            RefusedError, RateLimitedError.
        """
        deadline = trio.current_time() + timeout_s
        if self._open_link is None:
            # It is being dialled again and again: who asks meanwhile is told soon, not at the end.
            with trio.move_on_at(min(deadline, trio.current_time() + UPLINK_WAIT_S)):
                await self.wait_up()
        link = self._open_link
        if link is None:
            raise PeerUnavailableError("no bootstrap can be reached at the moment")
        left_s = max(0.001, deadline - trio.current_time())
        return await link.call(method, body, left_s, urgent=urgent)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the link up until cancelled; `task_status` starts at once.

        Raises: WrongNetworkError if all bootstraps say so before any of them was ever reached: that
            is the operator's mistake, not a passing fault.
        """
        task_status.started()
        pause_s = REDIAL_PAUSE_S_MIN
        turn = wrong = 0
        while True:
            address = self._addresses[turn % len(self._addresses)]
            turn += 1
            started = trio.current_time()
            try:
                await self._serve(address)
            except WrongNetworkError as error:
                wrong += 1
                if wrong >= len(self._addresses) and not self._was_up:
                    raise
                self._tell(f"bootstrap {address}: {error}; trying again")
            except P2PError as error:
                wrong = 0
                self._tell(f"bootstrap {address}: {error}; trying again")
            if trio.current_time() - started > REDIAL_PAUSE_S_MAX:
                pause_s = REDIAL_PAUSE_S_MIN
            await trio.sleep(pause_s)
            pause_s = min(REDIAL_PAUSE_S_MAX, pause_s * 2)

    async def _serve(self, address: str) -> None:
        peer_id = await self._network.connect(address)
        self._address = address
        try:
            stream = await self._network.open_stream(peer_id, self._protocol)
        except P2PError:
            await self._network.disconnect(peer_id)  # perhaps it greeted us as something else
            raise
        link = CallLink(Link(stream))
        failure: P2PError | None = None
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(link.run)
                nursery.start_soon(self._greet, link)
        except* P2PError as group:
            failure = _first(group)
        finally:
            self._set_link(None)
        if failure is not None:
            await self._network.disconnect(peer_id)
            raise failure

    async def _greet(self, link: CallLink) -> None:
        await self._greeting(link)
        self._was_up = True
        self._set_link(link)
        self._said = ""
        log.info("connected to bootstrap %s", link.link.remote)

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._said = text
            log.warning("%s", text)


def _first(group: ExceptionGroup[P2PError]) -> P2PError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, P2PError)
    return error
