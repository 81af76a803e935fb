"""Owns the check of what a capture says of nodes that failed: whose word it is.

A proof is the node's signed Accept of an attempt of the same job. What it proves is that the node
had taken the job; that it then failed remains the gateway's word, which is why nobody's word weighs
much (`p2p.subclouds.conduct`). A proof that is none makes the failure unproven and refuses nothing:
money does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.operations import FailedNodes, Leg
from p2p.conduct_messages import FailedAttempt
from p2p.errors import P2PError
from p2p.job_messages import Accept
from p2p.lease_messages import LeasedCapture
from p2p.ledger_messages import CaptureRequest
from p2p.signing import open_signed
from p2p.types import NetworkId, PeerId


def failed_nodes(
    network: NetworkId, document: CaptureRequest | LeasedCapture, legs: Sequence[Leg]
) -> FailedNodes:
    """Give the nodes that a capture says failed, each once, and whether its failure is proven."""
    if not document.failures or not legs:
        return ()
    job_id = legs[0].receipt.job_id
    paid = {leg.receipt.attempt for leg in legs}
    found: dict[PeerId, bool] = {}
    for failure in document.failures:
        proven = _is_proven(network, failure, job_id, paid)
        found[failure.node_id] = proven or found.get(failure.node_id, False)
    return tuple(found.items())


def _is_proven(network: NetworkId, failure: FailedAttempt, job_id: bytes, paid: set[int]) -> bool:
    if failure.accept is None:
        return False
    try:
        if failure.accept.peer_id != failure.node_id:
            return False
        accept = open_signed(failure.accept, Accept, network)
    except P2PError:
        return False
    return accept.job_id == job_id and accept.attempt not in paid
