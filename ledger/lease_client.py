"""Owns the asking side of leases: signs each question, checks each answer (see `ledger.client`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ledger import methods
from ledger.client import Call
from p2p.api_keys import lease_mac
from p2p.codec import decode_message, encode_message
from p2p.errors import UntrustedError
from p2p.lease_messages import (
    CaptureBatch,
    CaptureBatchResult,
    CaptureOutcome,
    Lease,
    LeaseRequest,
    LeaseResult,
    LeaseReturn,
)
from p2p.ledger_messages import TransferResult
from p2p.prices import PriceTerms
from p2p.signing import Document, KeyPair, Signed, open_signed
from p2p.types import NetworkId


class LeaseClient:
    """Asks for leases, gives them back, and settles in batches, in the name of one gateway.

    Every method raises what `call` raises (RefusedError with the ledger's code, DeadlineError,
    PeerUnavailableError, ...), MalformedError for an answer that cannot be read and UntrustedError
    for one that must not be believed. Each can be asked again with the same IDs and values.
    """

    def __init__(
        self,
        call: Call,
        key_pair: KeyPair,
        network_id: NetworkId,
        clock_ms: Callable[[], int],
        *,
        trusts: Callable[[bytes], bool],
    ) -> None:
        """Ask through `call`, sign with the gateway's `key_pair`.

        Args:
            clock_ms: milliseconds since 1970.
            trusts: tells whether a public key may sign leases (a certified bootstrap's).
        """
        self._call = call
        self._key_pair = key_pair
        self._network_id = network_id
        self._clock_ms = clock_ms
        self._trusts = trusts

    async def lease(
        self,
        key_id: str,
        hold_key: bytes,
        *,
        lease_id: bytes,
        amount: int,
        terms: PriceTerms,
        expires_ms: int,
        source_network: str = "",
        caller_network: str = "",
    ) -> LeaseResult:
        """Have `amount` microcredits of a key's credit set aside for us until `expires_ms`.

        Args:
            hold_key: `ApiKey.hold_key()`.
            source_network: which of the key's networks the clients are in, if it is limited.
            caller_network: the same of the subcloud that `terms` name.
        """
        mac = lease_mac(
            hold_key, self._network_id, self._key_pair.peer_id, lease_id, amount, expires_ms
        )
        request = LeaseRequest(
            lease_id,
            key_id,
            amount,
            terms,
            self._clock_ms(),
            expires_ms,
            mac,
            source_network,
            caller_network,
        )
        result = decode_message(await self._ask(methods.LEASE, request), LeaseResult)
        self._check_lease(result.lease, request)
        return result

    def _check_lease(self, signed: Signed, request: LeaseRequest) -> None:
        lease = open_signed(signed, Lease, self._network_id)
        if not self._trusts(signed.signer):
            raise UntrustedError("this lease is not signed by a bootstrap of the network")
        asked = Lease(
            request.lease_id,
            self._key_pair.peer_id,
            request.amount,
            request.terms,
            lease.issued_ms,  # of the first time that this was asked
            request.expires_ms,
        )
        if asked != lease:
            raise UntrustedError("this lease promises something else than what was asked for")

    async def give_back(
        self,
        *,
        return_id: bytes,
        lease_id: bytes,
        amount: int = 0,
        final: bool = False,
        failed: int = 0,
        client_left: int = 0,
    ) -> TransferResult:
        """Give a part of a lease back, or (`final`, with amount 0) all that it has left.

        Args:
            failed: jobs of this lease that cost nothing because they failed.
            client_left: jobs of this lease that cost nothing because the client had left; both
                count those that were not told before.
        Returns: a result whose `amount` is what came back.
        """
        document = LeaseReturn(
            return_id, lease_id, amount, final, self._clock_ms(), failed, client_left
        )
        answer = await self._ask(methods.LEASE_RETURN, document)
        result = decode_message(answer, TransferResult)
        if result.transfer_id != return_id:
            raise UntrustedError("the ledger answered with another transfer's result")
        return result

    async def captures(self, captures: Sequence[Signed]) -> tuple[CaptureOutcome, ...]:
        """Send signed captures (CaptureRequest or LeasedCapture); give their outcomes in order.

        Args: at most CAPTURES_PER_BATCH_MAX of them.
        """
        body = encode_message(CaptureBatch(tuple(captures)))
        answer = decode_message(await self._call(methods.CAPTURES, body), CaptureBatchResult)
        if len(answer.outcomes) != len(captures):
            raise UntrustedError("the ledger answered for another number of captures")
        return answer.outcomes

    async def _ask(self, method: str, document: Document) -> bytes:
        signed = self._key_pair.sign(self._network_id, document)
        return await self._call(method, encode_message(signed))
