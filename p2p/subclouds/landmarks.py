"""Owns the measurement between a landmark and a node: direct round trips, and what is said of them.

Theory of operation. The network's configuration names landmarks: peers whose place the authority
vouches for. A node opens a stream to one. The landmark sends a nonce, the node signs it together
with the landmark's ID, and the time in between is one round trip; the best of several is stated.
Light bounds the distance: 1 ms there and back is at most 150 km. What is measured is the way to
whoever holds the node's key; delays only make it longer, so that nobody seems nearer than that.

    node                                landmark
      (opens the stream)        ─────▶   named by the configuration? a direct connection? how often?
                                ◀─────   LandmarkChallenge(nonce) | RefuseFrame
      Signed(LandmarkEcho)      ─────▶   ... LANDMARK_ROUNDS times
                                ◀─────   Signed(LandmarkStatement)

Only the connection that carries the stream counts: one through a relay is refused.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable

import trio

from p2p.call_service import PeerBuckets
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.errors import DeadlineError, MalformedError, P2PError, RefusedError, UntrustedError
from p2p.job_messages import RefuseFrame
from p2p.limits import (
    LANDMARK_ANSWER_TIMEOUT_S,
    LANDMARK_AT_ONCE_MAX,
    LANDMARK_BURST_PER_PEER,
    LANDMARK_LIFETIME_S,
    LANDMARK_MEASURE_TIMEOUT_S,
    LANDMARK_PER_HOUR_PER_PEER,
    LANDMARK_ROUNDS,
)
from p2p.network import Network, Stream, Way, way_of
from p2p.signing import KeyPair, Signed, open_signed
from p2p.subclouds.evidence_messages import (
    LANDMARK_PROTOCOL,
    LandmarkChallenge,
    LandmarkEcho,
    LandmarkStatement,
)
from p2p.subclouds.message_stream import MessageStream
from p2p.types import NetworkId, PeerId, public_key_of

log = logging.getLogger(__name__)
NONCE_BYTES = 32
CHALLENGES_MAX = 32
"""A node answers no more for one statement, whatever the landmark wants."""


class LandmarkService:
    """Measures nodes that ask for it, while the configuration names this peer as a landmark."""

    def __init__(
        self,
        key_pair: KeyPair,
        network_id: NetworkId,
        configuration: ConfigurationBook,
        clock_ms: Clock,
        *,
        clock_s: Callable[[], float] = trio.current_time,
    ) -> None:
        """`clock_s` runs evenly: round trips are taken by it."""
        self._key_pair = key_pair
        self._network_id = network_id
        self._configuration = configuration
        self._clock_ms = clock_ms
        self._clock_s = clock_s
        self._buckets = PeerBuckets(LANDMARK_PER_HOUR_PER_PEER / 3600, LANDMARK_BURST_PER_PEER)
        self._under_way = 0

    async def serve(self, stream: Stream) -> None:
        """Serve one inbound stream (a `StreamHandler`)."""
        messages = MessageStream(stream)
        try:
            self._check(stream)
        except RefusedError as error:
            retry_after_ms = int((error.retry_after_s or 0) * 1000)
            refusal = RefuseFrame(0, error.code, str(error), retry_after_ms)
            await messages.send(refusal, LANDMARK_ANSWER_TIMEOUT_S)
            return
        self._under_way += 1
        try:
            with trio.move_on_after(LANDMARK_MEASURE_TIMEOUT_S) as scope:
                signed = await self._measure(messages)
                await messages.send(signed, LANDMARK_ANSWER_TIMEOUT_S)
            if scope.cancelled_caught:
                raise DeadlineError(f"more than {LANDMARK_MEASURE_TIMEOUT_S:g} s in all")
        except P2PError as error:
            log.info("round trips to %s were not measured: %s", stream.remote, error)
        finally:
            self._under_way -= 1

    def _check(self, stream: Stream) -> None:
        known = self._configuration.known
        landmarks = self._configuration.current.landmarks if known else ()
        if all(landmark.peer_id != self._key_pair.peer_id for landmark in landmarks):
            raise RefusedError("no_landmark", "the network's configuration names me no landmark")
        if way_of(stream) is not Way.DIRECT:
            raise RefusedError("relayed", "round trips are measured over direct connections only")
        now_s = trio.current_time()
        if not self._buckets.of(stream.remote, now_s).take(now_s):
            raise RefusedError("rate_limited", "measured a few times an hour at most", 300)
        if self._under_way >= LANDMARK_AT_ONCE_MAX:
            raise RefusedError("busy", "too many measurements at once", 30)

    async def _measure(self, messages: MessageStream) -> Signed:
        node = messages.stream.remote
        best_s = float("inf")
        seen = hashlib.sha256()
        for _ in range(LANDMARK_ROUNDS):
            nonce = secrets.token_bytes(NONCE_BYTES)
            seen.update(nonce)
            begun_s = self._clock_s()
            await messages.send(LandmarkChallenge(nonce), LANDMARK_ANSWER_TIMEOUT_S)
            signed = await messages.next(LANDMARK_ANSWER_TIMEOUT_S, Signed)
            taken_s = self._clock_s() - begun_s
            self._check_echo(signed, node, nonce)
            best_s = min(best_s, taken_s)
        now_ms = self._clock_ms()
        statement = LandmarkStatement(
            self._key_pair.peer_id,
            node,
            max(0, int(best_s * 10**6)),
            seen.digest(),
            now_ms,
            now_ms + int(LANDMARK_LIFETIME_S * 1000),
        )
        return self._key_pair.sign(self._network_id, statement)

    def _check_echo(self, signed: Signed, node: PeerId, nonce: bytes) -> None:
        echo = open_signed(signed, LandmarkEcho, self._network_id, public_key_of(node))
        if (echo.landmark, echo.node, echo.nonce) != (self._key_pair.peer_id, node, nonce):
            raise UntrustedError("an echo of another challenge")


def serve_landmark(
    network: Network,
    key_pair: KeyPair,
    configuration: ConfigurationBook,
    clock_ms: Clock,
) -> None:
    """Measure members that ask for it (only while the configuration names us a landmark)."""
    service = LandmarkService(key_pair, network.network_id, configuration, clock_ms)
    network.handle(LANDMARK_PROTOCOL, service.serve)


async def ask_landmark(network: Network, key_pair: KeyPair, landmark: PeerId) -> Signed:
    """Have a connected landmark measure the way to us; gives its signed `LandmarkStatement`.

    Raises: PeerUnavailableError, RefusedError (it is none, relayed, too often), DeadlineError,
        SessionLostError, UntrustedError, MalformedError.
    """
    stream = await network.open_stream(landmark, LANDMARK_PROTOCOL)
    try:
        return await _answer(network, key_pair, MessageStream(stream))
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await stream.close()


async def _answer(network: Network, key_pair: KeyPair, messages: MessageStream) -> Signed:
    landmark = messages.stream.remote
    for _ in range(CHALLENGES_MAX):
        item = await messages.next(
            LANDMARK_ANSWER_TIMEOUT_S, LandmarkChallenge, Signed, RefuseFrame
        )
        if isinstance(item, RefuseFrame):
            raise RefusedError(item.code, item.reason, item.retry_after_ms / 1000 or None)
        if isinstance(item, Signed):
            statement = open_signed(item, LandmarkStatement, network.network_id)
            if item.peer_id != landmark or statement.landmark != landmark:
                raise UntrustedError("a statement of another landmark")
            if statement.node != key_pair.peer_id:
                raise UntrustedError("a statement about another node")
            return item
        assert isinstance(item, LandmarkChallenge)
        echo = LandmarkEcho(landmark, key_pair.peer_id, item.nonce)
        signed = key_pair.sign(network.network_id, echo)
        await messages.send(signed, LANDMARK_ANSWER_TIMEOUT_S)
    raise MalformedError("a landmark that never comes to an end")
