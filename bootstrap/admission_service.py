"""Owns admission: newcomers show who they are and get a node's certificate."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from p2p.admission import JOIN, Applicant, JoinResult, certificate_chain, verify_join_request
from p2p.calls import Caller, CallHandler
from p2p.certificates import issue_certificate
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import RefusedError
from p2p.membership import Membership
from p2p.signing import Signed
from p2p.types import Role

log = logging.getLogger(__name__)

BindNode = Callable[[Applicant], Awaitable[None]]
"""Opens the account if it is new, refuses a binding that none of its present keys signed, and
records whose earnings the node's work pays."""


class AdmissionService:
    """Signs certificates for nodes that the configuration lets in."""

    def __init__(
        self,
        membership: Membership,
        configuration: ConfigurationBook,
        bind_node: BindNode,
        *,
        clock_ms: Clock,
    ) -> None:
        """Admit under our own certificate, which is the delegation to do so."""
        self._membership = membership
        self._configuration = configuration
        self._bind_node = bind_node
        self._clock_ms = clock_ms

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that newcomers (and members, for renewal) may make."""
        return {JOIN: self.join}

    async def join(self, caller: Caller, body: bytes) -> bytes:
        """Admit a node.

        Raises: RefusedError, UntrustedError, MalformedError (told to the caller).
        """
        configuration = self._configuration.current
        now_ms = self._clock_ms()
        if configuration.is_banned(caller.peer_id):
            raise RefusedError("banned", "this peer is banned by the network's configuration")
        if caller.certificate is not None and caller.certificate.role is not Role.NODE:
            raise RefusedError("other_role", "this peer has another role already")
        applicant = verify_join_request(
            decode_message(body, Signed), self._membership.network, caller.peer_id, now_ms
        )
        await self._bind_node(replace(applicant, address=caller.address))
        certificate = issue_certificate(
            self._membership.key_pair,
            self._membership.network,
            applicant.peer_id,
            Role.NODE,
            applicant.account_id,
            issued_ms=now_ms,
            lifetime_s=configuration.participation.node_certificate_lifetime_s,
        )
        assert self._configuration.signed is not None
        log.info("node %s admitted for account %s", applicant.peer_id, applicant.account_id)
        chain = certificate_chain(certificate, self._membership.chain)
        self._membership.renewed(applicant.peer_id, chain)  # its connection may outlive the old one
        return encode_message(JoinResult(chain, self._configuration.signed))
