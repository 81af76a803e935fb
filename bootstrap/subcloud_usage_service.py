"""Owns the answer to what happened in a subcloud: for its owner and the policy's delegates."""

from __future__ import annotations

from bootstrap.ledger_checks import check_fresh, require_role
from ledger import methods
from ledger.errors import NotAuthorizedError, ValueRefusedError
from ledger.ledger import Ledger
from ledger.store.subcloud_queries import subcloud_report
from p2p.allowed_terms import Policies
from p2p.calls import Caller, CallHandler
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.errors import RefusedError
from p2p.signing import Signed, open_signed
from p2p.subcloud_usage_messages import BY_MEMBER, BY_MODEL, SubcloudUsageRequest
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.requests import may_ask
from p2p.types import NetworkId, Role


class SubcloudUsageService:
    """Answers SUBCLOUD_USAGE with one process's ledger."""

    def __init__(
        self, ledger: Ledger, network_id: NetworkId, policies: Policies | None, clock_ms: Clock
    ) -> None:
        """Serve a running ledger; `policies` say who may ask (None: no subcloud is known)."""
        self._ledger = ledger
        self._network_id = network_id
        self._policies = policies
        self._clock_ms = clock_ms

    def handlers(self) -> dict[str, CallHandler]:
        """Give the handler of each method. They raise LedgerError or P2PError."""
        return {methods.SUBCLOUD_USAGE: self.report}

    async def report(self, caller: Caller, body: bytes) -> bytes:
        """Answer a SubcloudUsageRequest. Raises: RefusedError, LedgerError, P2PError."""
        require_role(caller, Role.GATEWAY, Role.BOOTSTRAP)
        signed = decode_message(body, Signed)
        request = open_signed(signed, SubcloudUsageRequest, self._network_id)
        check_fresh(request.issued_ms, self._clock_ms())
        if request.by not in (BY_MODEL, BY_MEMBER):
            raise ValueRefusedError(f"usage of a subcloud is told by {BY_MODEL} or by {BY_MEMBER}")
        identity = SubcloudId(request.subcloud_id)
        known = self._policies.get(identity) if self._policies is not None else None
        if known is None:
            raise RefusedError("unknown_subcloud", f"no subcloud {identity[:80]} is known here")
        if not may_ask(known, signed.signer):
            raise NotAuthorizedError("only the subcloud's owner and its delegates may ask for this")
        return encode_message(await self._ledger.read(lambda c: subcloud_report(c, request)))
