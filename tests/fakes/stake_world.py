"""Owns the operations of stakes for ledger tests, beside `tests.fakes.ledger_world`."""

from __future__ import annotations

from ledger.stakes import ReturnStake, StakeSubcloud
from p2p.signing import KeyPair
from p2p.stake_messages import SubcloudStake, SubcloudUnstake
from p2p.subclouds.identity import SubcloudId, subcloud_id
from tests.fakes.ledger_world import NETWORK, Tenant, World


def staked_subcloud(tenant: Tenant, label: str = "staked") -> SubcloudId:
    """A subcloud that a tenant founds."""
    return subcloud_id(NETWORK, tenant.account_id, label)


def stake(
    world: World,
    tenant: Tenant,
    amount: int,
    *,
    label: str = "staked",
    amount_min: int = 1,
    signer: KeyPair | None = None,
    subcloud: str = "",
    namespace: str = "",
) -> StakeSubcloud:
    """Credits that a tenant sets aside for a subcloud of its own."""
    document = SubcloudStake(
        world.new_id(),
        tenant.account_id,
        namespace or tenant.namespace,
        subcloud or staked_subcloud(tenant, label),
        amount,
        world.now_ms,
    )
    signed = (signer or tenant.keys).sign(NETWORK, document)
    return StakeSubcloud(signed, document, NETWORK, amount_min)


def unstake(
    world: World,
    tenant: Tenant,
    *,
    label: str = "staked",
    ended: bool | None = True,
    signer: KeyPair | None = None,
    subcloud: str = "",
    namespace: str = "",
) -> ReturnStake:
    """The stake, taken back."""
    document = SubcloudUnstake(
        world.new_id(),
        tenant.account_id,
        namespace or tenant.namespace,
        subcloud or staked_subcloud(tenant, label),
        world.now_ms,
    )
    return ReturnStake((signer or tenant.keys).sign(NETWORK, document), document, ended)
