"""Owns what a delegate does for a subcloud: admits, denies, takes back, invites. Blocking calls.

Theory of operation. The revocation list is the only state: each change takes the newest list, adds
to it, and publishes it with the next number. Two delegates at once make two lists of one number;
the bootstraps take the first, and who is refused begins again from it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from p2p.clock import Clock
from p2p.errors import P2PError
from p2p.limits import REVOKED_PER_LIST_MAX
from p2p.signing import KeyPair, Signed
from p2p.subclouds.directory_messages import KnownJoinRequest, verify_join_request
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.memberships import MembershipCertificate, RevocationList
from p2p.subclouds.records import KnownPolicy
from p2p.subclouds.requests import JoinDenial
from p2p.types import NetworkId, PeerId
from resultity.errors import GatewayCallError, SettingsError
from resultity.subclouds.delegate_files import RevocationMemory

T = TypeVar("T")
log = logging.getLogger("resultity.delegate")
ATTEMPTS = 5
"""To publish a list while other delegates do."""
OLDER_LIST_CODES = ("stale", "fork", "untrusted")
CERTIFICATE_LIFETIME_S = 30 * 86_400


class SubcloudCalls(Protocol):
    """What is asked of a gateway (`resultity.subclouds.client.SubcloudClient`)."""

    def revocations(self, known: KnownPolicy) -> RevocationList | None:
        """The newest revocation list."""
        ...

    def publish_revocations(self, subcloud: SubcloudId, signed: Signed) -> None:
        """Publish a revocation list."""
        ...

    def certify(self, subcloud: SubcloudId, signed: Signed) -> None:
        """Hand a certificate to its node."""
        ...

    def deny(self, subcloud: SubcloudId, signed: Signed) -> None:
        """Answer a node with no."""
        ...

    def requests(self, subcloud: SubcloudId, signer: KeyPair) -> Sequence[Signed]:
        """The join requests that wait."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a certificate allows: for how long (seconds), which models (digests), how many slots."""

    lifetime_s: int = CERTIFICATE_LIFETIME_S
    models: tuple[bytes, ...] = ()
    slots_max: int = 0


NO_LIMITS = Limits()


class DelegateDesk:
    """Acts for one subcloud by a delegate's key."""

    def __init__(
        self,
        calls: SubcloudCalls,
        key: KeyPair,
        known: KnownPolicy,
        memory: RevocationMemory,
        clock_ms: Clock,
    ) -> None:
        """`known`: the policy in force; `key`: one of its delegates'."""
        self._calls = calls
        self._key = key
        self._memory = memory
        self._clock_ms = clock_ms
        self.known = known

    @property
    def key(self) -> KeyPair:
        """The delegate's key."""
        return self._key

    # --- members ------------------------------------------------------------------------------
    def requests(self) -> list[KnownJoinRequest]:
        """Give the requests that wait and verify. Raises: GatewayCallError."""
        found = []
        for signed in self._calls.requests(self.known.identity, self._key):
            try:
                request = verify_join_request(signed, self._network, self._clock_ms())
            except P2PError:
                continue  # a node that cannot prove who it is, or a request that is over
            if request.request.subcloud_id == self.known.identity and not request.request.withdrawn:
                found.append(request)
        return found

    def certify(self, peer_id: PeerId, limits: Limits = NO_LIMITS) -> MembershipCertificate:
        """Admit a node, or renew its membership. Raises: GatewayCallError, SettingsError."""
        if self.known.policy.join == "open":
            raise SettingsError("an open subcloud admits nobody: nodes join by themselves")
        revocations = self.newest_list()
        if revocations is not None and peer_id in revocations.banned_peers:
            raise SettingsError(f"{peer_id} is banned: `members unban` first")
        now_ms = self._clock_ms()
        certificate = MembershipCertificate(
            os.urandom(16),
            self.known.identity,
            peer_id,
            now_ms,
            now_ms + limits.lifetime_s * 1000,
            limits.models,
            limits.slots_max,
        )
        self._calls.certify(self.known.identity, self._key.sign(self._network, certificate))
        return certificate

    def deny(self, peer_id: PeerId, until_s: int, reason: str) -> None:
        """Answer a node's request with no, for so many seconds. Raises: GatewayCallError."""
        now_ms = self._clock_ms()
        denial = JoinDenial(self.known.identity, peer_id, now_ms, now_ms + until_s * 1000, reason)
        self._calls.deny(self.known.identity, self._key.sign(self._network, denial))

    # --- the revocation list ------------------------------------------------------------------
    def newest_list(self) -> RevocationList | None:
        """Give the newest revocation list. Raises: GatewayCallError, P2PError."""
        found = self._calls.revocations(self.known)
        return self._memory.newest(self.known.policy, found)

    def ban(self, peers: Collection[PeerId]) -> RevocationList:
        """Keep nodes out for good, whatever they show."""
        return self.change(
            lambda old: replace(old, banned_peers=_joined(old.banned_peers, peers, "nodes"))
        )

    def unban(self, peers: Collection[PeerId]) -> RevocationList:
        """Let nodes ask again."""
        return self.change(
            lambda old: replace(
                old, banned_peers=tuple(p for p in old.banned_peers if p not in peers)
            )
        )

    def revoke(
        self,
        *,
        certificates: Collection[bytes] = (),
        tokens: Collection[bytes] = (),
        invites: Collection[bytes] = (),
    ) -> RevocationList:
        """Take back single certificates, tokens, invites (with what rests on them)."""

        def with_these(old: RevocationList) -> RevocationList:
            return replace(
                old,
                revoked_certificates=_joined(
                    old.revoked_certificates, certificates, "certificates"
                ),
                revoked_tokens=_joined(old.revoked_tokens, tokens, "tokens"),
                revoked_invites=_joined(old.revoked_invites, invites, "invites"),
            )

        return self.change(with_these)

    def keep_young(self, share: int) -> int:
        """Publish the list again if more than 1/`share` of its allowed age is over, if there is
        none, or if the bootstraps have an older one. Returns: the number that is in force.

        Raises: GatewayCallError, P2PError.
        """
        policy = self.known.policy
        found = self._calls.revocations(self.known)
        newest = self._memory.newest(policy, found)
        if newest is not None and found is not None and found.number >= newest.number:
            age_ms = self._clock_ms() - newest.issued_ms
            if age_ms * share < policy.revocation_list_age_s_max * 1000:
                return newest.number
        number = self.reissue().number
        log.info("%s: published revocation list %d", self.known.identity, number)
        return number

    def reissue(self) -> RevocationList:
        """Publish the same list again, so that it is young."""
        return self.change(lambda old: old)

    def change(self, make: Callable[[RevocationList], RevocationList]) -> RevocationList:
        """Publish what `make` makes of the newest list.

        Raises: GatewayCallError, SettingsError (the list is full), P2PError.
        """
        for attempt in range(1, ATTEMPTS + 1):
            old = self.newest_list() or RevocationList(self.known.identity, 0, 0)
            new = replace(make(old), number=old.number + 1, issued_ms=self._clock_ms())
            signed = self._key.sign(self._network, new)
            try:
                self._calls.publish_revocations(self.known.identity, signed)
            except GatewayCallError as error:
                if error.code not in OLDER_LIST_CODES or attempt == ATTEMPTS:
                    raise
                continue
            self._memory.keep(self.known.policy, signed)
            return new
        raise AssertionError("the last attempt raises")

    @property
    def _network(self) -> NetworkId:
        return NetworkId(self.known.policy.network_id)


def _joined(old: tuple[T, ...], new: Collection[T], what: str) -> tuple[T, ...]:
    joined = (*old, *(item for item in dict.fromkeys(new) if item not in old))
    if len(joined) > REVOKED_PER_LIST_MAX:
        raise SettingsError(
            f"the revocation list has room for {REVOKED_PER_LIST_MAX} {what}: replace the "
            "delegate's key in the policy instead, and certify again who stays"
        )
    return joined
