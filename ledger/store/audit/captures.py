"""Owns the way from a row back to the operation that made it: captures and what leases do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from ledger.errors import IntegrityError
from ledger.lease_rules import leased_part
from ledger.log.leaves import LoggedTransfer
from ledger.operations import (
    CaptureHold,
    CaptureLeased,
    Leg,
    OpenLease,
    Operation,
    ReturnLease,
)
from ledger.receipts import settle
from ledger.records import Binding, Hold, TransferKind
from ledger.store.audit.report import Replay
from ledger.store.audit.tokens import context_of
from p2p.api_keys import lease_mac
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.lease_messages import LeasedCapture, LeasedHold, LeaseRequest, LeaseReturn
from p2p.ledger_messages import CaptureLeg, CaptureRequest
from p2p.signing import Signed, open_signed
from p2p.types import AccountId

NO_BOUND = 2**62
"""Bounds that only the configuration of the moment knew; the rest of each rule is applied."""


def capture(replay: Replay, transfer: LoggedTransfer, signed: Signed) -> CaptureHold:
    """Make the operation of a capture. Raises: P2PError, IntegrityError, KeyError."""
    document = open_signed(signed, CaptureRequest, replay.network)
    legs = verified_legs(replay, document.legs, signed.signer)
    bind_nodes(replay, transfer, replay.book.holds[document.hold_id], legs)
    return CaptureHold(signed, document, signed.peer_id, legs)


def lease_operation(replay: Replay, transfer: LoggedTransfer, signed: Signed) -> Operation | None:
    """Make the operation of a lease's transfer; None if it is another kind.

    Raises: P2PError, IntegrityError, KeyError.
    """
    network, lease = replay.network, transfer.hold
    match transfer.kind:
        case TransferKind.LEASE if lease is not None:
            return _opening(replay, lease, signed)
        case TransferKind.LEASED_CAPTURE:
            document = open_signed(signed, LeasedCapture, network)
            part = open_signed(document.hold, LeasedHold, network, signer=signed.signer)
            legs = verified_legs(replay, document.legs, signed.signer)
            hold = leased_part(replay.book.holds[part.lease_id], part)
            bind_nodes(replay, transfer, hold, legs)
            return CaptureLeased(signed, document, part, signed.peer_id, legs)
        case TransferKind.LEASE_RETURN:
            return ReturnLease(signed, open_signed(signed, LeaseReturn, network), signed.peer_id)
    return None


def _opening(replay: Replay, lease: Hold, signed: Signed) -> OpenLease:
    document = open_signed(signed, LeaseRequest, replay.network)

    def mac(hold_key: bytes) -> bytes:
        return lease_mac(
            hold_key,
            replay.network,
            signed.peer_id,
            document.lease_id,
            document.amount,
            document.expires_ms,
        )

    use_secret(replay, document.key_id, mac, document.mac)
    return OpenLease(
        signed,
        document,
        replay.network,
        signed.peer_id,
        lease.gateway_account,
        lease.model_digest,
        lease.fees,
        NO_BOUND,
        NO_BOUND,
        context=context_of(replay, lease, document),
    )


def use_secret(replay: Replay, key_id: str, make_mac: Callable[[bytes], bytes], mac: bytes) -> None:
    """Give an API key the secret that it had when somebody proved to have it by `mac`."""
    key = replay.book.keys[key_id]
    for hold_key in replay.hold_keys[key_id]:
        if make_mac(hold_key) == mac:
            replay.book.keys[key_id] = replace(key, hold_key=hold_key)


def verified_legs(
    replay: Replay, legs: Iterable[CaptureLeg], gateway_key: bytes
) -> tuple[Leg, ...]:
    """Verify and open the legs of a capture. Raises: P2PError."""
    return tuple(
        Leg(
            leg.receipt.peer_id,
            open_signed(leg.receipt, NodeReceipt, replay.network),
            open_signed(leg.delivery, DeliveryCount, replay.network, signer=gateway_key),
        )
        for leg in legs
    )


def bind_nodes(replay: Replay, transfer: LoggedTransfer, hold: Hold, legs: tuple[Leg, ...]) -> None:
    """Bind each node to the account that it was bound to then. Raises: IntegrityError."""
    split = settle(hold, legs, transfer.at_ms).split
    paid = iter([e.account for e in transfer.entries if e.account.startswith("earnings:")])
    for leg, amount in zip(legs, split.nodes, strict=True):
        history = replay.bindings.get(leg.node_id, [])
        then = [account for bound_ms, account in history if bound_ms <= transfer.at_ms]
        account_id = then[-1] if then else history[0][1]
        if amount:
            account_id = next(paid, "").removeprefix("earnings:")
            if account_id not in [account for _, account in history]:
                raise IntegrityError(f"node {leg.node_id} was never bound to {account_id}")
        replay.book.bindings[leg.node_id] = Binding(leg.node_id, AccountId(account_id), 0)
