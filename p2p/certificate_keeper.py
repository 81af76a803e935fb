"""Owns how a peer that a bootstrap admits gets its certificate, and keeps it.

A certificate is kept in the data folder and renewed when less than a third of its life is left.
Without a valid one the peer is a newcomer: it asks a bootstrap's admission protocol, and connects
again as a member with what it got.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from p2p.admission import JoinResult
from p2p.calls import ADMISSION_PROTOCOL, CallLink
from p2p.certificates import Certificate, Chain, verify_chain
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import (
    P2PError,
    PeerUnavailableError,
    RefusedError,
    UntrustedError,
    WrongNetworkError,
)
from p2p.member_files import load_chain, store_chain
from p2p.membership import Membership
from p2p.network import Network
from p2p.signing import Signed
from p2p.types import AccountId, PeerId
from p2p.uplink import Uplink

log = logging.getLogger(__name__)
LOOK_INTERVAL_S = 30.0
"""How soon a certificate is noticed that the clock or a ban has ended."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How a certificate is asked for: the bootstrap's call, and what makes the signed request
    (which is told the time)."""

    method: str
    account_id: AccountId
    request: Callable[[int], Signed]


class CertificateKeeper:
    """A peer's certificate: loaded, asked for, renewed."""

    def __init__(
        self,
        membership: Membership,
        asking: Asking,
        configuration: ConfigurationBook,
        path: Path,
        *,
        clock_ms: Clock,
    ) -> None:
        """Use the certificate in `path` if it is still good (for this peer, role and account)."""
        self._asking = asking
        self._membership = membership
        self._configuration = configuration
        self._path = path
        self._clock_ms = clock_ms
        self.on_renewed: Callable[[Chain], None] = lambda chain: None
        """Called with each new certificate."""
        self._load()

    @property
    def certified(self) -> bool:
        """Whether there is a certificate with some life left."""
        return bool(self._membership.chain) and self.renew_in_s() > -60

    @property
    def ends_ms(self) -> int:
        """When the chain ends (milliseconds since 1970): worth nothing when any link of it has
        ended; 0 without one."""
        links = self._membership.chain[:2]  # the binding of an account's own gateway ends no sooner
        chain = [decode_message(signed.body, Certificate) for signed in links]
        return min((link.expires_ms for link in chain), default=0)

    def renew_in_s(self) -> float:
        """Seconds until two thirds of the chain's life are over (negative: overdue; -inf: it is
        worth nothing)."""
        if not self._membership.chain:
            return 0.0
        try:
            certificate = self._check(self._membership.chain)
        except P2PError:
            return -math.inf
        life_ms = self.ends_ms - certificate.issued_ms
        return (certificate.issued_ms + life_ms * 2 / 3 - self._clock_ms()) / 1000

    async def join(
        self, network: Network, bootstraps: tuple[str, ...], *, patience_s: float = math.inf
    ) -> None:
        """Get a certificate as a newcomer; tries until a bootstrap grants one.

        Args: patience_s: with an end, a refusal that time does not heal ends it at once, too.
        Raises: WrongNetworkError if all bootstraps belong to another network; with an end:
            RefusedError, PeerUnavailableError (no bootstrap granted it in time).
        """
        done = trio.Event()
        mistake: P2PError | None = None

        async def greeting(link: CallLink) -> None:
            nonlocal mistake
            try:
                await self._ask(link)
            except RefusedError as error:
                if patience_s == math.inf or _may_pass(error, patience_s):
                    raise
                mistake = error
            done.set()

        async def dial() -> None:
            nonlocal mistake
            try:
                await uplink.run()
            except WrongNetworkError as error:
                mistake = error  # raised outside: a nursery would wrap it in a group
                done.set()

        uplink = Uplink(network, bootstraps, protocol=ADMISSION_PROTOCOL, greeting=greeting)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            with trio.move_on_after(patience_s) as waiting:
                await done.wait()
            nursery.cancel_scope.cancel()
        if waiting.cancelled_caught and mistake is None:
            mistake = PeerUnavailableError(
                f"no bootstrap let this {self._membership.role} in within {patience_s:g} s: "
                f"{uplink.trouble.removesuffix('; trying again') or 'none of them answers'}"
            )
        if mistake is not None:
            raise mistake
        for peer_id in network.peers():  # they greeted a newcomer: come back as a member
            await network.disconnect(peer_id)

    async def keep(self, uplink: Uplink, network: Network, bootstraps: tuple[str, ...]) -> None:
        """Renew the certificate over the uplink before it ends, for as long as the peer runs.

        With one that has ended (the computer slept, all bootstraps were away), or whose bootstrap
        is banned now, no peer takes this one as a member: it becomes a newcomer again, and joins.
        """
        said = ""
        while True:
            await trio.sleep(max(5.0, min(LOOK_INTERVAL_S, self.renew_in_s())))
            if self.renew_in_s() > 0:
                continue
            try:
                self._take(await uplink.call(self._asking.method, self._request()))
                said = ""
                continue
            except P2PError as error:
                if str(error) != said:
                    log.warning("the certificate could not be renewed: %s", error)
                said = str(error)
            if self.renew_in_s() != -math.inf:
                continue
            log.warning("the certificate is worth nothing any more: asking for admission")
            self._membership.chain = ()
            try:
                await self.join(network, bootstraps)
            except P2PError as error:
                log.warning("no bootstrap admits this peer: %s", error)

    def _request(self) -> bytes:
        return encode_message(self._asking.request(self._clock_ms()))

    async def _ask(self, link: CallLink) -> None:
        self._take(await link.call(self._asking.method, self._request()))

    def _take(self, answer: bytes) -> None:
        result = decode_message(answer, JoinResult)
        self._configuration.offer(result.configuration)
        self._check(result.chain)
        store_chain(self._path, result.chain)
        self._membership.chain = result.chain
        self.on_renewed(result.chain)
        left_s = (self.ends_ms - self._clock_ms()) / 1000
        log.info("certified as a %s for %.1f days", self._membership.role, left_s / 86_400)

    def _check(self, chain: Chain) -> Certificate:
        peer_id: PeerId = self._membership.key_pair.peer_id
        certificate = verify_chain(chain, self._membership.network, peer_id, self._clock_ms())
        wanted = self._membership.role
        if certificate.role is not wanted:
            raise UntrustedError(
                f"this is a certificate for a {certificate.role}, not for a {wanted}"
            )
        if certificate.account_id != self._asking.account_id:
            raise UntrustedError("this certificate names another account")
        known = self._configuration.known
        if known and any(self._configuration.current.is_banned(link.peer_id) for link in chain):
            raise UntrustedError("the bootstrap that signed this certificate is banned")
        return certificate

    def _load(self) -> None:
        if not self._path.exists():
            return
        try:
            chain = load_chain(self._path)
            self._check(chain)
        except P2PError as error:
            log.warning("%s is not usable (%s): asking for a new certificate", self._path, error)
            return
        self._membership.chain = chain


def _may_pass(error: RefusedError, patience_s: float) -> bool:
    """Tell whether asking again within that time may help."""
    return error.retry_after_s is not None and error.retry_after_s < patience_s
