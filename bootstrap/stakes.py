"""Owns stakes for subclouds as a bootstrap sees them: what may be asked, and who has one."""

from __future__ import annotations

from ledger.errors import ValueRefusedError
from ledger.ledger import Ledger
from ledger.stakes import ReturnStake, StakeSubcloud
from ledger.store.stake_queries import stake_of
from p2p.allowed_terms import Policies
from p2p.codec import decode_any_message
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import Signed, open_signed
from p2p.stake_messages import SubcloudStake, SubcloudUnstake
from p2p.subclouds.identity import SubcloudId
from p2p.types import NetworkId


class Stakes:
    """Says whether a subcloud has its stake (`has_stake`), with one process's ledger."""

    def __init__(self, ledger: Ledger) -> None:
        """Look into a running ledger."""
        self._ledger = ledger

    async def has_stake(self, identity: SubcloudId, microcredits: int) -> bool:
        """Whether so much is set aside for a subcloud now. Raises: StorageError."""
        return await self._ledger.read(lambda c: stake_of(c, identity)) >= microcredits


def stake_operation(
    network: NetworkId,
    signed: Signed,
    configuration: NetworkConfiguration,
    policies: Policies | None,
) -> StakeSubcloud | ReturnStake | None:
    """Open a signed stake or its return; None if it is another document.

    Raises: UntrustedError, MalformedError, ValueRefusedError (the network asks for no stakes).
    """
    match decode_any_message(signed.body):
        case SubcloudStake():
            rules = configuration.subclouds
            if rules.creation != "stake":
                raise ValueRefusedError("this network asks for no stake to create a subcloud")
            document = open_signed(signed, SubcloudStake, network)
            return StakeSubcloud(signed, document, network, rules.stake_microcredits)
        case SubcloudUnstake():
            back = open_signed(signed, SubcloudUnstake, network)
            identity = SubcloudId(back.subcloud_id)
            known = policies.get(identity) if policies is not None else None
            return ReturnStake(signed, back, None if known is None else known.policy.ended)
        case _:
            return None
