"""Owns the calls about leases as a bootstrap answers them, and batches of captures.

Theory of operation. A lease is granted like a hold, under the same checks, and answered with a
Lease signed by this bootstrap: made after the lease is durable, and the same again if the question
is repeated. Captures of a batch are verified one after another, with pauses for others, and given
to the ledger together; each is judged by itself, and its outcome stands at its place in the answer.

When a hold or lease is refused for want of credit, the open leases of the namespace may be why.
Then the refusal says so, and the gateways that hold them are asked by gossip (`bootstrap.notices`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import trio

from bootstrap.hold_contexts import context_of
from bootstrap.ledger_checks import (
    capture_operation,
    from_gateway,
    leased_capture_operation,
    require_may_spend,
    require_role,
    require_signer,
)
from bootstrap.notices import Notices
from ledger import methods
from ledger.errors import (
    InsufficientFundsError,
    KeyCapError,
    KeyDayCapError,
    LedgerError,
    RequestError,
)
from ledger.lease_shortage import shortage_of
from ledger.ledger import Ledger
from ledger.operations import OpenLease, Operation, PlaceHold, ReturnLease, content_of
from ledger.store.lease_queries import standing_of
from ledger.store.statements import select_past
from p2p.allowed_terms import AllowedTerms
from p2p.calls import Caller, CallHandler
from p2p.codec import decode_any_message, decode_message, encode_message
from p2p.errors import MalformedError, P2PError, RefusedError, UntrustedError
from p2p.freshness import check_times
from p2p.lease_messages import (
    CaptureBatch,
    CaptureBatchResult,
    CaptureOutcome,
    Lease,
    LeasedCapture,
    LeaseRequest,
    LeaseResult,
    LeaseReturn,
)
from p2p.ledger_messages import CaptureRequest, TransferResult
from p2p.limits import CLOCK_SKEW_MS_MAX, TEXT_CHARACTERS_MAX
from p2p.signing import KeyPair, Signed, open_signed
from p2p.types import NetworkId, Role


class LeaseService:
    """Answers LEASE, LEASE_RETURN and CAPTURES with one process's ledger."""

    def __init__(
        self,
        ledger: Ledger,
        key_pair: KeyPair,
        network_id: NetworkId,
        terms: AllowedTerms,
        clock_ms: Callable[[], int],
        notices: Notices,
    ) -> None:
        """Serve a running ledger; `key_pair` is the bootstrap's and signs leases."""
        self._ledger = ledger
        self._key_pair = key_pair
        self._network_id = network_id
        self._terms = terms
        self._clock_ms = clock_ms
        self._notices = notices

    def handlers(self) -> dict[str, CallHandler]:
        """Give the handler of each method; they raise LedgerError or P2PError."""
        return {
            methods.LEASE: self._lease,
            methods.LEASE_RETURN: self._return,
            methods.CAPTURES: self._captures,
        }

    async def submit(self, operation: PlaceHold | OpenLease) -> TransferResult:
        """Do a hold or a lease; a refusal for want of credit says if leases are why, and asks for
        them. Raises: RequestError, LedgerBusyError, StorageError.
        """
        for last in (False, False, True):
            try:
                return await self._ledger.submit(operation)
            except RequestError as error:
                found = await self._explained(error, operation.document.key_id)
                if found is not None or last:
                    raise found or error from error
        raise AssertionError("the last attempt returns or raises")

    async def repeated(self, transfer_id: bytes, content: bytes) -> TransferResult | None:
        """Give the first result of a hold or lease that was made before its terms ceased to be good
        and whose answer was lost; None if there is none. Raises: StorageError.
        """
        found = await self._ledger.read(lambda c: select_past(c, [transfer_id]))
        for _, known, result in found:
            if known == content:
                return replace(decode_message(result, TransferResult), exists=True)
        return None

    async def _explained(self, error: RequestError, key_id: str) -> RequestError | None:
        """Give what a hold of a key is refused with; None: try again, the credit is there now.

        Raises: StorageError.
        """
        if not isinstance(error, InsufficientFundsError | KeyCapError | KeyDayCapError):
            return error
        standing = await self._ledger.read(lambda c: standing_of(c, key_id))
        if standing is None:
            return error
        found, wanted = shortage_of(error, standing)
        if wanted:
            self._notices.wanted(sorted(wanted))
        return found

    async def _lease(self, caller: Caller, body: bytes) -> bytes:
        now_ms = self._clock_ms()
        configuration = self._terms.current(now_ms)
        signed = from_gateway(caller, body, configuration)
        document = open_signed(signed, LeaseRequest, self._network_id)
        check_times(document.issued_ms, document.expires_ms, now_ms)
        certificate = require_role(caller, Role.GATEWAY)
        limits = configuration.limits
        lifetime_s = limits.hold_lifetime_s_max + limits.lease_usable_s
        try:
            job = self._terms.find(document.terms, now_ms)
            context = context_of(certificate, job, self._terms, now_ms)
        except RefusedError:
            result = await self.repeated(document.lease_id, content_of(signed.signer, document))
            if result is None:
                raise
        else:
            operation = OpenLease(
                signed,
                document,
                self._network_id,
                caller.peer_id,
                certificate.account_id,
                bytes.fromhex(job.model.digest),
                configuration.fee_rule,
                lifetime_s * 1000 + CLOCK_SKEW_MS_MAX,
                limits.lease_microcredits_max if limits.lease_usable_s else 0,
                limits.gateway_exposure_microcredits_max,
                context,
            )
            result = await self.submit(operation)
        lease = Lease(
            document.lease_id,
            caller.peer_id,
            document.amount,
            document.terms,
            document.issued_ms,
            document.expires_ms,
        )
        promise = self._key_pair.sign(self._network_id, lease)
        return encode_message(LeaseResult(promise, result.available, result.exists))

    async def _return(self, caller: Caller, body: bytes) -> bytes:
        signed = from_gateway(caller, body, self._terms.current(self._clock_ms()))
        document = open_signed(signed, LeaseReturn, self._network_id)
        operation = ReturnLease(signed, document, caller.peer_id)
        return encode_message(await self._ledger.submit(operation))

    async def _captures(self, caller: Caller, body: bytes) -> bytes:
        require_may_spend(caller, self._terms.current(self._clock_ms()))
        batch = decode_message(body, CaptureBatch)
        outcomes: list[CaptureOutcome | None] = []
        operations: list[Operation] = []
        for signed in batch.captures:
            found = self._opened(caller, signed)
            if isinstance(found, CaptureOutcome):
                outcomes.append(found)
            else:
                outcomes.append(None)
                operations.append(found)
            # The signatures of a batch take some milliseconds: others have their turn.
            await trio.lowlevel.checkpoint()
        results = iter(await self._ledger.submit_all(operations))
        told = [
            outcome or self._outcome(caller, next(results), signed)
            for outcome, signed in zip(outcomes, batch.captures, strict=True)
        ]
        return encode_message(CaptureBatchResult(tuple(told)))

    def _opened(self, caller: Caller, signed: Signed) -> Operation | CaptureOutcome:
        try:
            require_signer(caller, signed)
            match decode_any_message(signed.body):
                case CaptureRequest():
                    request = open_signed(signed, CaptureRequest, self._network_id)
                    return capture_operation(self._network_id, signed, request, caller.peer_id)
                case LeasedCapture():
                    leased = open_signed(signed, LeasedCapture, self._network_id)
                    return leased_capture_operation(
                        self._network_id, signed, leased, caller.peer_id
                    )
                case other:
                    raise MalformedError(f"a {type(other).__name__} is no capture")
        except LedgerError as error:
            return self._outcome(caller, error, signed)
        except RefusedError as error:
            return _refused(error.code, error)
        except (MalformedError, UntrustedError) as error:
            return _refused("malformed", error)

    def _outcome(
        self, caller: Caller, found: TransferResult | LedgerError, signed: Signed
    ) -> CaptureOutcome:
        if isinstance(found, TransferResult):
            return CaptureOutcome(found)
        self._ledger.note_refusal(caller.peer_id, found, encode_message(signed))
        return _refused(found.code, found)


def _refused(code: str, error: LedgerError | P2PError) -> CaptureOutcome:
    return CaptureOutcome(code=code, reason=str(error)[:TEXT_CHARACTERS_MAX])
