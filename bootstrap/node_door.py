"""Owns the binding of nodes at admission: by the network's rule, with an invite or without one.

The account is opened first, if it is new; a node that is bound already needs no invite, so that a
certificate is renewed however its node came in.
"""

from __future__ import annotations

from collections.abc import Callable

from bootstrap.account_door import AccountDoor, direct_opening, invite_issuers
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.operations import AdmitNode, BindNode, OpeningRule
from p2p.admission import Applicant
from p2p.errors import RefusedError
from p2p.network_configuration import NetworkConfiguration
from p2p.types import NetworkId


class NodeDoor:
    """Lets nodes in, by the rule of the network configuration."""

    def __init__(
        self,
        ledger: Ledger,
        door: AccountDoor,
        network_id: NetworkId,
        configuration: Callable[[], NetworkConfiguration],
    ) -> None:
        """Bind nodes in this ledger, to accounts that come in by `door`."""
        self._ledger = ledger
        self._door = door
        self._network_id = network_id
        self._configuration = configuration

    async def bind(self, applicant: Applicant) -> None:
        """Open the account if it is new, and bind the node to it.

        Raises: RefusedError with the ledger's code and reason; P2PError.
        """
        opening = direct_opening(
            applicant.opening, self._network_id, applicant.peer_id, applicant.address
        )
        try:
            await self._door.open(opening)
            await self._door.require_key(applicant.account_id, applicant.account_key)
            await self._ledger.submit(self._operation(applicant))
        except LedgerError as error:
            raise RefusedError(error.code, str(error), error.retry_after_s) from error

    def _operation(self, applicant: Applicant) -> BindNode | AdmitNode:
        configuration = self._configuration()
        participation = configuration.participation
        invited_only = participation.nodes == "invite"
        invitation = applicant.invitation
        if invitation is None:
            return BindNode(applicant.peer_id, applicant.account_id, invited_only)
        rule = OpeningRule(
            invited_only,
            invite_issuers(configuration, invitation.issuer),
            participation.revoked_invite_ids,
        )
        return AdmitNode(invitation, rule)
