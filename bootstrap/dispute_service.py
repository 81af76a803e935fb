"""Owns what is asked about disputes: opening them, and showing each side what it may see.

Answers and decisions come as account operations do (`ledger.methods.OPERATION`). Openings come
with their evidence, which must have the hash that was signed and be sealed to exactly the deciders
of now; what is in it nobody here can read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from bootstrap.ledger_checks import check_fresh, require_role
from ledger import methods
from ledger.errors import (
    DisputesOffError,
    DisputeUnknownError,
    NotAuthorizedError,
    ValueRefusedError,
)
from ledger.ledger import Ledger
from ledger.operations import OpenDispute
from ledger.store.dispute_queries import DECIDER, OPERATOR, PAYER, dispute_list, dispute_view
from ledger.store.queries import account_view
from p2p.allowed_terms import AllowedTerms
from p2p.calls import Caller, CallHandler
from p2p.codec import decode_message, encode_message
from p2p.dispute_messages import (
    DisputeList,
    DisputeOpening,
    DisputeRequest,
    DisputeSubmission,
    SealedEvidence,
)
from p2p.errors import MalformedError
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import Signed, open_signed
from p2p.types import NetworkId, Role


class DisputeService:
    """Answers the calls about disputes with one process's ledger."""

    def __init__(
        self,
        ledger: Ledger,
        network_id: NetworkId,
        terms: AllowedTerms,
        clock_ms: Callable[[], int],
    ) -> None:
        """Serve a running ledger; `terms` knows the configuration in force."""
        self._ledger = ledger
        self._network_id = network_id
        self._terms = terms
        self._clock_ms = clock_ms

    def handlers(self) -> dict[str, CallHandler]:
        """Give the handler of each method. They raise LedgerError."""
        return {methods.DISPUTE_OPEN: self._open, methods.DISPUTES: self._show}

    async def _open(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, Role.GATEWAY, Role.BOOTSTRAP)
        submission = decode_message(body, DisputeSubmission)
        document = open_signed(submission.opening, DisputeOpening, self._network_id)
        configuration = self._terms.current(self._clock_ms())
        check_evidence(submission.evidence, document.evidence, configuration)
        operation = OpenDispute(
            submission.opening, document, submission.evidence, configuration.dispute_window_ms
        )
        return encode_message(await self._ledger.submit(operation))

    async def _show(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, Role.GATEWAY, Role.BOOTSTRAP)
        signed = decode_message(body, Signed)
        document = open_signed(signed, DisputeRequest, self._network_id)
        check_fresh(document.issued_ms, self._clock_ms())
        side = await self._side(document, signed)
        account_id = document.account_id
        if not document.hold_id:
            found = await self._ledger.read(
                lambda c: dispute_list(c, side, account_id, document.skip)
            )
            return encode_message(found)
        view = await self._ledger.read(
            lambda c: dispute_view(c, document.hold_id, side, account_id)
        )
        if view is None:
            raise DisputeUnknownError(
                f"there is no dispute about hold {document.hold_id.hex()} that this key may see"
            )
        return encode_message(DisputeList((view,), False))

    async def _side(self, document: DisputeRequest, signed: Signed) -> str:
        """Tell as whom somebody asks. Raises: NotAuthorizedError."""
        if not document.account_id:
            configuration = self._terms.current(self._clock_ms())
            if signed.signer not in configuration.decision_public_keys:
                raise NotAuthorizedError("this is not signed by a dispute key of the network")
            return DECIDER
        account = await self._ledger.read(lambda c: account_view(c, document.account_id))
        if account is None or signed.signer not in account.signing_keys:
            raise NotAuthorizedError("this is not signed by a key of the account")
        return OPERATOR if document.operator else PAYER


def check_evidence(evidence: bytes, digest: bytes, configuration: NetworkConfiguration) -> None:
    """See that evidence is what was signed, and sealed to those who decide.

    Raises: DisputesOffError (nobody decides disputes here), ValueRefusedError.
    """
    if not configuration.dispute_keys:
        raise DisputesOffError("this network's configuration names nobody who decides disputes")
    if hashlib.sha256(evidence).digest() != digest:
        raise ValueRefusedError("the evidence is not what the dispute's opening was signed with")
    try:
        sealed = decode_message(evidence, SealedEvidence)
    except MalformedError as error:
        raise ValueRefusedError(f"this is no sealed evidence: {error}") from error
    if {key.decider for key in sealed.keys} != set(configuration.dispute_public_keys):
        raise ValueRefusedError(
            "the evidence must be sealed to the deciders whom the configuration names now: get the "
            "configuration again"
        )
