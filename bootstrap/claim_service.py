"""Owns the calls by which a node sees to its own pay: how its jobs' holds stand, and claims.

Theory of operation. A claim is verified as a leg of a capture is: the node's signature on the
receipt, the gateway's on the delivery count (and on the leased hold), all for one hold. Who asks
must be the node that signed. A claim whose job was settled as it proves, or better, is told so and
not kept; one that proves more than what was paid is kept as evidence (`ledger.claim_rules`).
"""

from __future__ import annotations

from collections.abc import Callable

from bootstrap.ledger_checks import cached_peer_id, require_role, require_signer
from ledger import methods
from ledger.claim_operations import RecordClaim
from ledger.errors import HoldEndedError, LedgerError, ReceiptError
from ledger.ledger import Ledger
from ledger.operations import Leg
from ledger.store.claim_store import hold_standing
from p2p.calls import Caller, CallHandler
from p2p.claim_messages import Claim, ClaimResult, HoldQuery, HoldStandings
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, UntrustedError
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.lease_messages import LeasedHold
from p2p.signing import Signed, open_signed
from p2p.types import NetworkId, Role

_SETTLED = ("captured", "claimed")


class ClaimService:
    """Answers CLAIM and HOLD_STANDINGS with one process's ledger."""

    def __init__(self, ledger: Ledger, network_id: NetworkId, clock_ms: Callable[[], int]) -> None:
        """Serve a running ledger."""
        self._ledger = ledger
        self._network_id = network_id
        self._clock_ms = clock_ms

    def handlers(self) -> dict[str, CallHandler]:
        """Give the handler of each method; they raise LedgerError or P2PError."""
        return {methods.CLAIM: self._claim, methods.HOLD_STANDINGS: self._standings}

    async def _claim(self, caller: Caller, body: bytes) -> bytes:
        signed = decode_message(body, Signed)
        require_role(caller, Role.NODE)
        require_signer(caller, signed)
        document = open_signed(signed, Claim, self._network_id)
        try:
            operation = claim_operation(self._network_id, signed, document)
            lease_id = operation.part.lease_id if operation.part is not None else b""
            node_id, counted = caller.peer_id, operation.leg.delivery
            standing = await self._ledger.read(
                lambda c: hold_standing(c, document.hold_id, lease_id, node_id, counted.attempt)
            )
            if (
                standing.state in _SETTLED
                and standing.input_tokens >= counted.input_tokens
                and standing.output_tokens >= counted.output_tokens
            ):
                raise HoldEndedError(standing.state)
            result = await self._ledger.submit(operation)
        except LedgerError as error:
            self._ledger.note_refusal(caller.peer_id, error, body)
            raise
        return encode_message(ClaimResult(result.exists, result.amount))

    async def _standings(self, caller: Caller, body: bytes) -> bytes:
        query = decode_message(body, HoldQuery)
        require_role(caller, Role.NODE)
        if len(query.holds) != len(query.leases):
            raise MalformedError("a hold query names a lease, or none, for each hold")
        asked = list(zip(query.holds, query.leases, strict=True))
        found = await self._ledger.read(
            lambda c: [hold_standing(c, hold, lease, caller.peer_id) for hold, lease in asked]
        )
        return encode_message(
            HoldStandings(
                tuple(standing.state for standing in found),
                tuple(standing.input_tokens for standing in found),
                tuple(standing.output_tokens for standing in found),
            )
        )


def claim_operation(network: NetworkId, signed: Signed, document: Claim) -> RecordClaim:
    """Verify the signatures in a claim (its own has been).

    Raises: ReceiptError naming what does not fit.
    """
    try:
        receipt = open_signed(document.receipt, NodeReceipt, network, signer=signed.signer)
        delivery = open_signed(document.delivery, DeliveryCount, network)
        gateway_key, part = document.delivery.signer, None
        if document.leased_hold is not None:
            part = open_signed(document.leased_hold, LeasedHold, network, signer=gateway_key)
    except (UntrustedError, MalformedError) as error:
        raise ReceiptError(f"claim: {error}") from error
    if part is not None and part.hold_id != document.hold_id:
        raise ReceiptError("a claim names another hold than its leased hold")
    if receipt.hold_id != document.hold_id:
        raise ReceiptError("a claim names another hold than its receipt")
    leg = Leg(cached_peer_id(signed.signer), receipt, delivery)
    return RecordClaim(signed, document, cached_peer_id(gateway_key), leg, part)
