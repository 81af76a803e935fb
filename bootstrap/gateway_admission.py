"""Owns the admission of accounts' own gateways: each serves its account's namespaces only."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from bootstrap.limits import OWN_GATEWAYS_PER_ACCOUNT_MAX
from ledger.errors import LedgerError
from p2p.admission import JoinResult
from p2p.calls import Caller, CallHandler
from p2p.certificates import issue_certificate
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import RefusedError
from p2p.gateway_admission import (
    ADMIT_GATEWAY,
    OwnGateway,
    open_admission_request,
    own_gateway_chain,
)
from p2p.membership import Membership
from p2p.signing import Signed
from p2p.types import AccountId, PeerId, Role

log = logging.getLogger(__name__)
RequireKey = Callable[[AccountId, bytes], Awaitable[None]]
"""Sees that the ledger has the account, and that the key may sign for it now."""


class GatewayAdmissionService:
    """Signs certificates for gateways that an account bound to itself."""

    def __init__(
        self,
        membership: Membership,
        configuration: ConfigurationBook,
        require_key: RequireKey,
        *,
        clock_ms: Clock,
    ) -> None:
        """Admit under our own certificate, which is the delegation to do so."""
        self._membership = membership
        self._configuration = configuration
        self._require_key = require_key
        self._clock_ms = clock_ms
        self._admitted: dict[AccountId, dict[PeerId, int]] = {}

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that newcomers (and members, for renewal) may make."""
        return {ADMIT_GATEWAY: self.admit}

    async def admit(self, caller: Caller, body: bytes) -> bytes:
        """Admit a gateway of an account's own.

        Raises: RefusedError, UntrustedError, MalformedError (told to the caller).
        """
        configuration, now_ms = self._configuration.current, self._clock_ms()
        if configuration.is_banned(caller.peer_id):
            raise RefusedError("banned", "this peer is banned by the network's configuration")
        certificate = caller.certificate
        if certificate is not None and not certificate.own_namespaces_only:
            raise RefusedError("other_role", "this peer has another role already")
        gateway = open_admission_request(
            decode_message(body, Signed), self._membership.network, caller.peer_id, now_ms
        )
        try:
            await self._require_key(gateway.account_id, gateway.account_key)
        except LedgerError as error:
            raise RefusedError(error.code, str(error), error.retry_after_s) from error
        lifetime_s = configuration.participation.node_certificate_lifetime_s
        until_ms = min(now_ms + lifetime_s * 1000, gateway.until_ms)
        self._count(gateway, now_ms, until_ms)
        signed = issue_certificate(
            self._membership.key_pair,
            self._membership.network,
            gateway.peer_id,
            Role.GATEWAY,
            gateway.account_id,
            issued_ms=now_ms,
            lifetime_s=(until_ms - now_ms) / 1000,
            own_namespaces_only=True,
        )
        assert self._configuration.signed is not None
        log.info("gateway %s admitted for account %s", gateway.peer_id, gateway.account_id)
        chain = own_gateway_chain(signed, self._membership.chain, gateway.proof)
        self._membership.renewed(gateway.peer_id, chain)
        return encode_message(JoinResult(chain, self._configuration.signed))

    def _count(self, gateway: OwnGateway, now_ms: int, until_ms: int) -> None:
        """Bound an account's gateways; the count begins anew with this process.

        Raises: RefusedError `too_many_gateways`.
        """
        for account_id in [a for a, g in self._admitted.items() if max(g.values()) <= now_ms]:
            del self._admitted[account_id]
        known = self._admitted.get(gateway.account_id, {})
        alive = {peer_id: end_ms for peer_id, end_ms in known.items() if end_ms > now_ms}
        if gateway.peer_id not in alive and len(alive) >= OWN_GATEWAYS_PER_ACCOUNT_MAX:
            raise RefusedError(
                "too_many_gateways",
                f"an account has at most {OWN_GATEWAYS_PER_ACCOUNT_MAX} gateways of its own",
            )
        self._admitted[gateway.account_id] = {**alive, gateway.peer_id: until_ms}
