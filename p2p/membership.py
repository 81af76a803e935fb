"""Owns the hello: how two peers make sure of each other before anything else happens.

Theory of operation. Noise has authenticated the peer IDs when a connection stands; it says nothing
about networks and roles. Each side therefore sends one signed Hello, checks the other's, and then
sends a HelloVerdict:

    Hello: network ID, our peer ID, the other's peer ID, role, certificate chain, time, nonce,
    configuration version

It is refused if it names another network, another pair of peers (a replayed or relayed hello), a
time too far away, or a chain that does not lead to the authority. A peer without a certificate is a
newcomer: only a bootstrap lets it in, and only to the admission protocol. Banned peers are refused.
The network's ID is given to this process, never learned.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeVar

import trio

from p2p.certificates import Certificate, Chain, verify_chain
from p2p.clock import Clock
from p2p.codec import Limit, Message, decode_message, encode_message, message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import (
    MalformedError,
    P2PError,
    RefusedError,
    SessionLostError,
    StaleError,
    UntrustedError,
    WrongNetworkError,
)
from p2p.freshness import NonceGuard, check_times
from p2p.limits import CERTIFICATES_MAX, HELLO_TIMEOUT_S, NAME_CHARACTERS_MAX, TEXT_CHARACTERS_MAX
from p2p.network import Access, Stream
from p2p.signing import Document, KeyPair, Signed, open_signed
from p2p.types import NetworkId, PeerId, Role
from p2p.wire import FrameDecoder, encode_frame

log = logging.getLogger(__name__)
HELLO_BYTES_MAX = 8192
HELLO_LIFETIME_MS = 60_000
VERDICT_LINGER_S = 0.5
PROTOCOL_GENERATION = 1
M = TypeVar("M", bound=Message)


@message(11)
@dataclass(frozen=True, slots=True)
class Hello(Document):
    """The first word on a connection (see above). `role` is empty for newcomers."""

    PURPOSE: ClassVar[str] = "hello"
    network_id: Annotated[NetworkId, Limit(NAME_CHARACTERS_MAX)]
    peer_id: Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
    remote_peer_id: Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
    role: Annotated[str, Limit(16)]
    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX)]
    generation: int
    software: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    nonce: Annotated[bytes, Limit(16, 16)]
    issued_ms: int
    configuration_version: int = 0


@message(12)
@dataclass(frozen=True, slots=True)
class HelloVerdict(Message):
    """Whether the sender accepts the other side: `code` is empty if so."""

    code: Annotated[str, Limit(64)]
    reason: Annotated[str, Limit(TEXT_CHARACTERS_MAX)]


class Membership:
    """Our own standing in the network and that of the peers we are connected to (a `Gate`)."""

    def __init__(
        self,
        key_pair: KeyPair,
        network: NetworkId,
        role: Role,
        configuration: ConfigurationBook,
        *,
        clock_ms: Clock,
        software: str,
        chain: Chain = (),
    ) -> None:
        """Stand with this certificate chain (empty: a newcomer that wants to be a node)."""
        self.key_pair = key_pair
        self.network = network
        self.role = role
        self.chain = chain
        self._configuration = configuration
        self._clock_ms = clock_ms
        self._software = software
        self._members: dict[PeerId, Certificate] = {}
        self._chains: dict[PeerId, Chain] = {}
        self._nonces = NonceGuard()

    def certificate_of(self, peer_id: PeerId) -> Certificate | None:
        """The certificate of a connected member, if it has not expired or been banned meanwhile."""
        certificate = self._members.get(peer_id)
        if certificate is None or certificate.expires_ms <= self._clock_ms():
            return None
        issuers = (link.peer_id for link in self._chains.get(peer_id, ()))
        return None if self._banned(peer_id, *issuers) else certificate

    def renewed(self, peer_id: PeerId, chain: Chain) -> None:
        """A connected member has got this newer certificate (by us: it is not verified again)."""
        if peer_id in self._members:
            self._members[peer_id] = decode_message(chain[0].body, Certificate)
            self._chains[peer_id] = chain

    def chain_of(self, peer_id: PeerId) -> Chain:
        """The certificate chain that a connected member showed; empty if there is none."""
        return self._chains.get(peer_id, ())

    def members(self, role: Role) -> tuple[PeerId, ...]:
        """The connected members with a role."""
        return tuple(p for p, certificate in self._members.items() if certificate.role is role)

    def forget(self, peer_id: PeerId) -> None:
        """The last connection to this peer is gone."""
        self._members.pop(peer_id, None)
        self._chains.pop(peer_id, None)

    async def greet(self, stream: Stream, *, dialled: bool) -> Access:
        """Exchange hellos and verdicts. Raises: as `p2p.network.Gate.greet`."""
        with trio.move_on_after(HELLO_TIMEOUT_S):
            return await self._greet(stream)
        raise SessionLostError(f"{stream.remote} did not say hello in {HELLO_TIMEOUT_S:g} s")

    async def _greet(self, stream: Stream) -> Access:
        reader = _Reader(stream)
        await _send(stream, self.key_pair.sign(self.network, self._hello(stream.remote)))
        refusal: P2PError | None = None
        hello: Hello | None = None
        certificate: Certificate | None = None
        try:
            hello, certificate = self._judge(await reader.next(Signed), stream.remote)
        except (UntrustedError, MalformedError, RefusedError) as error:
            refusal = error
        await _send(stream, _verdict(refusal))
        if refusal is not None:
            log.info("%s refused: %s", stream.remote, refusal)
            await _let_read(stream)
            raise refusal if isinstance(refusal, UntrustedError) else UntrustedError(str(refusal))
        answer = await reader.next(HelloVerdict)
        if answer.code:
            raise _refused_by(stream.remote, answer)
        assert hello is not None
        if certificate is None:
            return Access.NEWCOMER
        # Only now: a peer that was not heard to the end is no member, and `forget` comes only for
        # connections that both sides wanted.
        self._members[stream.remote] = certificate
        self._chains[stream.remote] = hello.chain
        return Access.MEMBER

    def _banned(self, *peers: PeerId) -> bool:
        if not self._configuration.known:
            return False
        configuration = self._configuration.current
        return any(configuration.is_banned(peer_id) for peer_id in peers)

    def _hello(self, remote: PeerId) -> Hello:
        return Hello(
            network_id=self.network,
            peer_id=self.key_pair.peer_id,
            remote_peer_id=remote,
            role=self.role if self.chain else "",
            chain=self.chain,
            generation=PROTOCOL_GENERATION,
            software=self._software,
            nonce=secrets.token_bytes(16),
            issued_ms=self._clock_ms(),
            configuration_version=self._configuration.current.version
            if self._configuration.known
            else 0,
        )

    def _judge(self, signed: Signed, remote: PeerId) -> tuple[Hello, Certificate | None]:
        # The network is read before the signature is checked: a signature for another network can
        # never verify here, and "wrong network" is what the operator needs to be told.
        claimed = decode_message(signed.body, Hello)
        if claimed.network_id != self.network:
            raise WrongNetworkError(
                f"this is network {self.network}, you are of {claimed.network_id}"
            )
        hello = open_signed(signed, Hello, self.network)
        if signed.peer_id != remote or hello.peer_id != remote:
            raise UntrustedError("a hello of another peer")
        if hello.remote_peer_id != self.key_pair.peer_id:
            raise UntrustedError("a hello that was meant for another peer")
        now_ms = self._clock_ms()
        expires_ms = hello.issued_ms + HELLO_LIFETIME_MS
        check_times(hello.issued_ms, expires_ms, now_ms)
        self._nonces.check(hello.nonce, now_ms + 2 * HELLO_LIFETIME_MS, now_ms)
        if self._banned(remote):
            raise UntrustedError("this peer is banned by the network's configuration")
        if self._banned(*(link.peer_id for link in hello.chain)):
            raise UntrustedError("whoever certified this peer is banned: it has to join again")
        if not hello.chain:
            if self.role is not Role.BOOTSTRAP:
                raise UntrustedError("no certificate: a newcomer asks a bootstrap for admission")
            return hello, None
        certificate = verify_chain(hello.chain, self.network, remote, now_ms)
        if certificate.role != hello.role:
            raise UntrustedError("the hello names another role than the certificate")
        return hello, certificate


_CODES: tuple[tuple[type[P2PError], str], ...] = (
    (WrongNetworkError, "wrong_network"),
    (StaleError, "stale"),
    (UntrustedError, "untrusted"),
    (MalformedError, "malformed"),
)


def _verdict(refusal: P2PError | None) -> HelloVerdict:
    if refusal is None:
        return HelloVerdict("", "")
    code = next((code for kind, code in _CODES if isinstance(refusal, kind)), "refused")
    return HelloVerdict(code, str(refusal)[:TEXT_CHARACTERS_MAX])


def _refused_by(remote: PeerId, answer: HelloVerdict) -> UntrustedError:
    text = f"{remote} refused us: {answer.reason}"
    return WrongNetworkError(text) if answer.code == "wrong_network" else UntrustedError(text)


async def _send(stream: Stream, item: Message) -> None:
    await stream.send_all(encode_frame(encode_message(item), HELLO_BYTES_MAX))


async def _let_read(stream: Stream) -> None:
    """Give the other side the time to read why it is refused: it then closes by itself."""
    with trio.move_on_after(VERDICT_LINGER_S):
        try:
            while await stream.receive_some():
                pass
        except SessionLostError:
            pass


class _Reader:
    """Reads the two frames of a hello, bounded."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = FrameDecoder(HELLO_BYTES_MAX)
        self._frames: list[bytes] = []

    async def next(self, cls: type[M]) -> M:
        while not self._frames:
            data = await self._stream.receive_some()
            if not data:
                raise SessionLostError(f"{self._stream.remote} went away during the hello")
            self._frames += self._decoder.feed(data)
            if len(self._frames) > 2:
                raise MalformedError("more than a hello and a verdict")
        return decode_message(self._frames.pop(0), cls)
