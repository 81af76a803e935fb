"""Owns the messages of admission: how a node without a certificate gets one.

Theory of operation. A newcomer reaches one protocol of a bootstrap (`calls.ADMISSION_PROTOCOL`). It
shows who it is (its peer ID, by the connection and the signature on the request) and whom it works
for: the account's founding document and a binding that the account's key signed over the node's
peer ID. The bootstrap opens the account if it is new, records the binding and answers with a
certificate chain and the network configuration, which the node verifies like anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.account_file import AccountKeys
from p2p.certificates import Chain
from p2p.codec import Limit, Message, message
from p2p.errors import UntrustedError
from p2p.freshness import check_times
from p2p.ledger_messages import AccountFounding
from p2p.limits import CERTIFICATES_MAX, NAME_CHARACTERS_MAX
from p2p.node_invites import JoinInvite, NodeInvitation, open_admission
from p2p.node_invites import NodeBinding as NodeBinding
from p2p.opening_messages import InviteSecret, open_opening
from p2p.signing import Document, KeyPair, Signed, open_signed
from p2p.types import AccountId, NetworkId, PeerId, account_id_from_founding

JOIN = "admission.join"
REQUEST_LIFETIME_MS = 60_000


@message(14)
@dataclass(frozen=True, slots=True)
class JoinRequest(Document):
    """A node asks for a certificate. Signed by the node.

    `invited`: an InvitedFounding of the same account, if the network opens accounts by invite.
    `admission`: a NodeAdmission of this binding, if the network admits nodes by invite.
    """

    TRIMMED: ClassVar[int] = 1
    PURPOSE: ClassVar[str] = "join-request"
    founding: Signed
    binding: Signed
    software: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    issued_ms: int
    invited: Signed | None = None
    admission: Signed | None = None


@message(15)
@dataclass(frozen=True, slots=True)
class JoinResult(Message):
    """The node's certificate chain and the network configuration."""

    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX, 1)]
    configuration: Signed


@dataclass(frozen=True, slots=True)
class Applicant:
    """A join request that was verified, but for one thing: the ledger alone knows whether
    `account_key`, which signed the binding, is a key of the account now. `opening`: the founding
    document, with the invite if there is one. `address`: where the node came from, if known.
    `invitation`: the node's own invite; the ledger knows whether it is still good."""

    peer_id: PeerId
    account_id: AccountId
    founding: Signed
    account_key: bytes
    opening: Signed
    address: str = ""
    invitation: NodeInvitation | None = None


def join_request(
    node: KeyPair,
    account: AccountKeys,
    network: NetworkId,
    software: str,
    now_ms: int,
    invite: InviteSecret | None = None,
) -> Signed:
    """Ask for a certificate, signed by both the node and its account.

    Args: invite: opens the account; a JoinInvite admits the node too.
    """
    binding = account.signing.sign(network, NodeBinding(account.account_id, node.peer_id, now_ms))
    invited = invite.use(network, account.founding) if invite is not None else None
    admission = invite.admit(binding) if isinstance(invite, JoinInvite) else None
    document = JoinRequest(account.founding, binding, software, now_ms, invited, admission)
    return node.sign(network, document)


def verify_join_request(
    signed: Signed, network: NetworkId, caller: PeerId, now_ms: int
) -> Applicant:
    """Check that the node signed, and that some key bound it to the account.

    Raises: UntrustedError, StaleError, MalformedError.
    """
    request = open_signed(signed, JoinRequest, network)
    if signed.peer_id != caller:
        raise UntrustedError("a join request for another peer")
    check_times(request.issued_ms, request.issued_ms + REQUEST_LIFETIME_MS, now_ms)
    founding = open_signed(request.founding, AccountFounding, network)
    if founding.signing_key != request.founding.signer:
        raise UntrustedError("the founding document is not signed by the account's own key")
    binding = open_signed(request.binding, NodeBinding, network)
    account_id = account_id_from_founding(request.founding.body)
    if binding.account_id != account_id or binding.peer_id != caller:
        raise UntrustedError("the binding names another account or node")
    opening = request.invited or request.founding
    if open_opening(opening, network)[0] != request.founding:
        raise UntrustedError("the invite is used for another account")
    invitation = None
    if request.admission is not None:
        invitation = open_admission(request.admission, network)
        if (invitation.peer_id, invitation.account_id) != (caller, account_id):
            raise UntrustedError("the node's invite is used for another node or account")
    return Applicant(
        caller,
        account_id,
        request.founding,
        request.binding.signer,
        opening,
        invitation=invitation,
    )


def certificate_chain(node: Signed, bootstrap: Chain) -> Chain:
    """Put a node's new certificate in front of the chain of the bootstrap that signed it."""
    return (node, *bootstrap)
