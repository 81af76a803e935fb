"""Candidates, known policies and certificates for tests of a node's memberships."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from node.subclouds.membership_rules import Candidate, Finding, judge
from p2p.account_proof import ProvenAccount
from p2p.signing import KeyPair, Signed
from p2p.subclouds.facts import NodeFacts
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.membership_standing import SubcloudState
from p2p.subclouds.memberships import MembershipCertificate, RevocationList
from p2p.subclouds.policy import SubcloudPolicy, policy_digest, sign_policy
from p2p.subclouds.records import KnownPolicy, PolicyRecord
from p2p.types import PeerId
from tests.fakes.subclouds import DELEGATE, NETWORK, NOW_MS, OWNER, a_model, a_policy

NODE = KeyPair(b"n" * 32)
OWNER_KEY = KeyPair(b"o" * 32)


def known_policy(policy: SubcloudPolicy) -> KnownPolicy:
    """A policy as if its record had been verified."""
    digest = policy_digest(sign_policy(OWNER_KEY, policy))
    owner = ProvenAccount(OWNER, frozenset({OWNER_KEY.public_key}), b"", 0)
    return KnownPolicy(policy, digest, owner, cast(PolicyRecord, None))


def a_state(revocations: RevocationList | None = None, **fields: Any) -> SubcloudState:
    """The state of a subcloud; with certificates, it has an empty revocation list."""
    policy = a_policy(**fields)
    if revocations is None and policy.join != "open":
        revocations = RevocationList(policy.identity, 1, NOW_MS)
    return SubcloudState(known_policy(policy), revocations=revocations)


def a_candidate(state: SubcloudState | None = None, **fields: Any) -> Candidate:
    """A subcloud that the operator named."""
    state = state if state is not None else a_state()
    identity = state.known.identity
    return Candidate(identity, **{"named": True, "state": state} | fields)


def own(**fields: Any) -> NodeFacts:
    """A node with one model."""
    return NodeFacts(NODE.peer_id, **{"models": (a_model(),)} | fields)


def a_certificate(
    identity: SubcloudId,
    *,
    issued_ms: int = NOW_MS,
    life_ms: int = 300_000,
    peer_id: PeerId = NODE.peer_id,
    key: KeyPair = DELEGATE,
    number: int = 1,
    **fields: Any,
) -> Signed:
    """A delegate's certificate for the node."""
    document = MembershipCertificate(
        bytes([number]) * 16, identity, peer_id, issued_ms, issued_ms + life_ms, **fields
    )
    return key.sign(NETWORK, document)


def a_member(state: SubcloudState, at_ms: int = NOW_MS, **fields: Any) -> Candidate:
    """The candidate of a node that joined at that time."""
    candidate = a_candidate(state, **fields)
    found: Finding = judge(candidate, own(), at_ms)
    assert found.kept is not None, found
    return replace(candidate, kept=found.kept)
