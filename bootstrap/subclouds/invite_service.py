"""Owns the uses of invites to subclouds: counts them, and countersigns each (`subclouds.invite`).

The count is kept in one database by all bootstraps that share it. A node that asks again gets the
same answer; it costs no second use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from p2p.calls import Caller, CallHandler
from p2p.certificates import Chain
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.errors import RefusedError, StaleError, UntrustedError
from p2p.signing import KeyPair, Signed
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.invites import (
    USE_INVITE,
    InvitedMembership,
    VerifiedUse,
    check_invite_use,
    open_invite_use,
)
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.records import KnownPolicy
from p2p.types import NetworkId, Role


class Policies(Protocol):
    """What is known of policies (`p2p.subclouds.policy_book.PolicyBook`)."""

    def get(self, identity: SubcloudId) -> KnownPolicy | None:
        """The policy in force."""
        ...

    def revocations(self, identity: SubcloudId) -> RevocationList | None:
        """The newest revocation list."""
        ...


class InviteUses(Protocol):
    """Where uses are counted."""

    async def use_invite(
        self, use: VerifiedUse, make: Callable[[int], bytes], now_ms: int
    ) -> bytes | None:
        """Count a use in one transaction, and keep the answer that `make` makes of its number.

        Returns: the answer (the kept one if this node used the invite before), or None if all
            uses are taken.
        """
        ...


class InviteService:
    """Answers `subclouds.invite`."""

    def __init__(
        self,
        uses: InviteUses,
        policies: Policies,
        key_pair: KeyPair,
        chain: Chain,
        network: NetworkId,
        clock_ms: Clock,
    ) -> None:
        """Countersign with a bootstrap's key (`chain`: its certificate)."""
        self._uses = uses
        self._policies = policies
        self._key_pair = key_pair
        self._chain = chain
        self._network = network
        self._clock_ms = clock_ms

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that members may make."""
        return {USE_INVITE: self.use}

    async def use(self, caller: Caller, body: bytes) -> bytes:
        """Give a signed InvitedMembership for a node's signed InviteUse.

        Raises: RefusedError (`not_authorized`, `unknown_subcloud`, `invite_refused`,
            `invite_used_up`, `banned`), UntrustedError, MalformedError.
        """
        signed = decode_message(body, Signed)
        use = open_invite_use(signed, self._network)
        if caller.certificate is None or caller.certificate.role is not Role.NODE:
            raise RefusedError("not_authorized", "only nodes use invites to subclouds")
        if caller.peer_id != use.peer_id:
            raise RefusedError("not_authorized", "this invite is used for another node")
        known = self._policies.get(use.invite.subcloud_id)
        if known is None:
            raise RefusedError("unknown_subcloud", "this bootstrap knows no such subcloud", 1)
        now_ms = self._clock_ms()
        self._check(use, known, now_ms)

        def make(number: int) -> bytes:
            membership = InvitedMembership(signed, number, now_ms, self._chain)
            return encode_message(self._key_pair.sign(self._network, membership))

        answer = await self._uses.use_invite(use, make, now_ms)
        if answer is None:
            raise RefusedError(
                "invite_used_up", f"all {use.invite.uses} uses of this invite are taken"
            )
        return answer

    def _check(self, use: VerifiedUse, known: KnownPolicy, now_ms: int) -> None:
        policy = known.policy
        if policy.join == "open":
            raise RefusedError("invite_refused", "this subcloud is open: join it without an invite")
        if policy.ended or policy.expires_ms <= now_ms:
            raise RefusedError("invite_refused", "the policy of this subcloud is over")
        try:
            check_invite_use(use, policy, now_ms)
        except StaleError as error:
            raise RefusedError("invite_refused", f"this invite: {error}") from error
        except UntrustedError as error:
            raise RefusedError("invite_refused", str(error)) from error
        revocations = self._policies.revocations(known.identity)
        if revocations is None:
            return
        if use.invite_id in revocations.revoked_invites:
            raise RefusedError("invite_refused", "this invite was taken back")
        if use.peer_id in revocations.banned_peers:
            raise RefusedError("banned", "this node is banned from the subcloud")
