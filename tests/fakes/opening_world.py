"""Owns invites, invited openings and referrals for tests."""

from __future__ import annotations

from dataclasses import replace

from ledger.operations import FoundAccount, OpeningRule, ReferAccount
from p2p.opening_messages import (
    AccountInvite,
    InviteSecret,
    Referral,
    open_opening,
)
from p2p.signing import KeyPair
from p2p.types import AccountId
from tests.fakes.ledger_world import AUTHORITY, NETWORK, START_MS, Tenant, World, key_pair

DAY_MS = 86_400_000
INVITED_ONLY = OpeningRule(True, frozenset([AUTHORITY.public_key]))


def invite(
    uses: int = 1,
    *,
    issuer: KeyPair = AUTHORITY,
    secret: int = 500,
    expires_ms: int = START_MS + 7 * DAY_MS,
) -> InviteSecret:
    """An invite, by the authority unless said otherwise."""
    keys = key_pair(secret)
    document = AccountInvite(keys.public_key, uses, expires_ms, START_MS)
    return InviteSecret(keys, issuer.sign(NETWORK, document))


def invited(tenant: Tenant, found: InviteSecret, rule: OpeningRule = INVITED_ONLY) -> FoundAccount:
    """Open a tenant's account with an invite."""
    opening = found.use(NETWORK, tenant.founding.signed)
    return FoundAccount(*open_opening(opening, NETWORK), rule)


def uninvited(tenant: Tenant, rule: OpeningRule = INVITED_ONLY) -> FoundAccount:
    """Open a tenant's account without an invite, where one is needed."""
    return replace(tenant.founding, rule=rule)


def referred(
    world: World,
    tenant: Tenant,
    by: Tenant | AccountId,
    *,
    signer: KeyPair | None = None,
    window_ms: int = 30 * DAY_MS,
    chain_max: int = 64,
) -> ReferAccount:
    """A tenant says who brought it."""
    referrer = by if isinstance(by, str) else by.account_id
    document = Referral(tenant.account_id, referrer, world.now_ms)
    signed = (signer or tenant.keys).sign(NETWORK, document)
    return ReferAccount(signed, document, window_ms, chain_max)
