"""Owns the opening of accounts: by anybody at the network's rates, or by invite.

Theory of operation. Without an invite an opening takes a token of two buckets: that of all openings
at this bootstrap, and that of the network that the client comes from. The gateway that carries the
opening states that network; a gateway that lies is still bound by the first bucket. Private and
loopback networks are counted for each gateway apart. What an account's own gateways state is not
believed (anybody may have such gateways): all that they bring is counted as one network. A node
that brings its account itself is counted by its connection's address, or by its peer ID if that is
not known. An invite needs no token: its uses are counted by the ledger.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from bootstrap.ledger_checks import check_fresh, require_role, require_signer
from bootstrap.limits import OPENING_NETWORKS_MAX
from ledger.errors import NotAuthorizedError
from ledger.ledger import Ledger
from ledger.opening_errors import InviteError, OpeningLimitError
from ledger.operations import FoundAccount, OpeningRule
from ledger.store.queries import account_view
from p2p.calls import Caller
from p2p.clock import Clock
from p2p.codec import decode_any_message
from p2p.ledger_messages import AccountFounding, TransferResult
from p2p.network_configuration import NetworkConfiguration, Participation
from p2p.opening_messages import (
    CarriedFounding,
    Invitation,
    InvitedFounding,
    is_public_prefix,
    network_prefix,
    open_opening,
)
from p2p.signing import Signed, open_signed
from p2p.token_bucket import TokenBucket
from p2p.types import (
    AccountId,
    NetworkId,
    PeerId,
    Role,
    account_id_from_founding,
    authority_matches,
)

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Opening:
    """A verified founding document and where it came from. `source` names what is counted."""

    signed: Signed
    document: AccountFounding
    invitation: Invitation | None
    source: str


def direct_opening(
    signed: Signed, network: NetworkId, peer_id: PeerId, address: str = ""
) -> Opening:
    """Read an opening that a peer brings itself. Raises: UntrustedError, MalformedError."""
    prefix = network_prefix(address)
    return Opening(*open_opening(signed, network), prefix or f"peer {peer_id}")


def opening_of(signed: Signed, network: NetworkId, caller: Caller, now_ms: int) -> Opening | None:
    """Read the opening of an account in a call; None if the document is another operation.

    Raises: UntrustedError, MalformedError, RefusedError (a wrapper of somebody else's).
    """
    match decode_any_message(signed.body):
        case CarriedFounding():
            require_role(caller, Role.GATEWAY)
            require_signer(caller, signed)
            carried = open_signed(signed, CarriedFounding, network)
            check_fresh(carried.issued_ms, now_ms)
            prefix = carried.source_network
            source = prefix if is_public_prefix(prefix) else f"{prefix} of peer {caller.peer_id}"
            opening = Opening(*open_opening(carried.opening, network), source)
        case AccountFounding() | InvitedFounding():
            opening = direct_opening(signed, network, caller.peer_id)
        case _:
            return None
    gateway = caller.certificate
    if gateway is not None and gateway.own_namespaces_only:
        return replace(opening, source=f"gateways of {gateway.account_id}")
    return opening


def invite_issuers(configuration: NetworkConfiguration, issuer: bytes) -> frozenset[bytes]:
    """Give who may sign invites: the configuration's keys, and `issuer` if it is the authority."""
    keys = configuration.participation.invite_public_keys
    if issuer and authority_matches(NetworkId(configuration.network_id), issuer):
        keys |= {issuer}
    return keys


class AccountDoor:
    """Lets new accounts in, by the rule of the network configuration."""

    def __init__(
        self,
        ledger: Ledger,
        configuration: Callable[[], NetworkConfiguration],
        clock_ms: Clock,
    ) -> None:
        """Open accounts in this ledger; a change of the rates begins with a full hour."""
        self._ledger = ledger
        self._configuration = configuration
        self._clock_ms = clock_ms
        self._rates = (0, 0)
        self._all = TokenBucket(1.0, 1.0, 0.0)
        self._sources: OrderedDict[str, TokenBucket] = OrderedDict()

    async def open(self, opening: Opening) -> TransferResult:
        """Open the account of a verified founding document (again and again has no effect).

        Raises: OpeningLimitError, InviteError, NotAuthorizedError, StorageError.
        """
        configuration = self._configuration()
        participation = configuration.participation
        account_id = account_id_from_founding(opening.signed.body)
        if await self._ledger.read(lambda c: account_view(c, account_id)) is None:
            self._admit(opening, participation)
        invitation = opening.invitation
        rule = OpeningRule(
            participation.accounts == "invite",
            invite_issuers(configuration, invitation.issuer if invitation is not None else b""),
            participation.revoked_invite_ids,
        )
        return await self._ledger.submit(
            FoundAccount(opening.signed, opening.document, invitation, rule)
        )

    async def require_key(self, account_id: AccountId, public_key: bytes) -> None:
        """See that a key may sign for an account now. Raises: NotAuthorizedError, StorageError."""
        account = await self._ledger.read(lambda c: account_view(c, account_id))
        if account is None or public_key not in account.signing_keys:
            raise NotAuthorizedError(f"this is not signed by a key of {account_id}")

    def _admit(self, opening: Opening, participation: Participation) -> None:
        """Take the tokens of an opening without an invite. Raises: as `open`."""
        if opening.invitation is not None:
            return
        if participation.accounts == "invite":
            raise InviteError("this network opens accounts by invite only: ask for one")
        now_ms = self._clock_ms()
        now_s = now_ms / 1000
        own = self._bucket_of(opening.source, participation, now_s)
        in_all, of_network = self._rates
        self._all.take(now_s, 0.0)  # counts the time; the token is taken only if both have one
        if wait_s := self._all.wait_s():
            raise OpeningLimitError("in all", in_all, wait_s, now_ms)
        if not own.take(now_s):
            where = "to the clients of one network"
            raise OpeningLimitError(where, of_network, own.wait_s(), now_ms)
        self._all.take(now_s)

    def _bucket_of(self, source: str, participation: Participation, now_s: float) -> TokenBucket:
        rates = (
            participation.accounts_opened_per_hour_max,
            participation.accounts_opened_per_hour_per_network_max,
        )
        if rates != self._rates:
            self._rates = rates
            self._all = TokenBucket(rates[0] / HOUR_S, rates[0], now_s)
            self._sources.clear()
        bucket = self._sources.get(source)
        if bucket is None:
            bucket = self._sources[source] = TokenBucket(rates[1] / HOUR_S, rates[1], now_s)
            if len(self._sources) > OPENING_NETWORKS_MAX:
                self._sources.popitem(last=False)
        self._sources.move_to_end(source)
        return bucket
