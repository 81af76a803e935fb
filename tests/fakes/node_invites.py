"""Owns node invites and the join requests that use them, for tests of the ledger and admission."""

from __future__ import annotations

from dataclasses import replace

from ledger.operations import AdmitNode, OpeningRule
from p2p.account_file import AccountKeys
from p2p.admission import Applicant, join_request, verify_join_request
from p2p.node_invites import JoinInvite, NodeBinding, open_admission
from p2p.opening_messages import NodeInvite
from p2p.signing import KeyPair
from tests.fakes.ledger_world import AUTHORITY, NETWORK, START_MS, Tenant, key_pair

DAY_MS = 86_400_000
BY_AUTHORITY = OpeningRule(True, frozenset([AUTHORITY.public_key]))


def node_invite(
    uses: int = 1,
    *,
    issuer: KeyPair = AUTHORITY,
    secret: int = 600,
    expires_ms: int = START_MS + 7 * DAY_MS,
) -> JoinInvite:
    """An invite for nodes, by the authority unless said otherwise."""
    keys = key_pair(secret)
    document = NodeInvite(keys.public_key, uses, expires_ms, START_MS)
    return JoinInvite(keys, issuer.sign(NETWORK, document), NETWORK, ("/ip4/192.0.2.1/tcp/1",))


def node_key(number: int) -> KeyPair:
    return key_pair(7000 + number)


def admitting(
    tenant: Tenant,
    node: KeyPair,
    invite: JoinInvite,
    rule: OpeningRule = BY_AUTHORITY,
    *,
    signer: KeyPair | None = None,
) -> AdmitNode:
    """Bind a node to a tenant's account with an invite."""
    binding = NodeBinding(tenant.account_id, node.peer_id, START_MS)
    signed = invite.admit((signer or tenant.keys).sign(NETWORK, binding))
    return AdmitNode(open_admission(signed, NETWORK), rule)


def applicant(
    tenant: Tenant, node: KeyPair, now_ms: int, invite: JoinInvite | None = None
) -> Applicant:
    """What admission makes of a node's request."""
    account = AccountKeys(tenant.keys, tenant.founding.signed)
    signed = join_request(node, account, NETWORK, "resultity/test", now_ms, invite)
    found = verify_join_request(signed, NETWORK, node.peer_id, now_ms)
    return replace(found, address="192.0.2.7")
