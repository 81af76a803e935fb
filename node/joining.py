"""Owns how a node gets its certificate: by a request that it and its account sign."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from p2p.account_file import AccountKeys
from p2p.admission import JOIN, join_request
from p2p.certificate_keeper import Asking, CertificateKeeper
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.membership import Membership
from p2p.opening_messages import InviteSecret


class NodeStanding(CertificateKeeper):
    """The node's certificate: loaded, asked for, renewed."""

    def __init__(
        self,
        membership: Membership,
        account: AccountKeys,
        configuration: ConfigurationBook,
        path: Path,
        *,
        software: str,
        clock_ms: Clock,
        invite: InviteSecret | None = None,
    ) -> None:
        """Use the certificate in `path` if it is still good (for this node and account).

        Args: invite: opens the account, if the network opens accounts by invite.
        """
        request = partial(
            join_request,
            membership.key_pair,
            account,
            membership.network,
            software,
            invite=invite,
        )
        asking = Asking(JOIN, account.account_id, request)
        super().__init__(membership, asking, configuration, path, clock_ms=clock_ms)
