"""Owns the certificates of bootstraps whose vouchers this node believes, kept until they expire."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from p2p.certificates import Certificate, verify_chain
from p2p.errors import UntrustedError
from p2p.ledger_messages import Voucher
from p2p.membership import Membership
from p2p.signing import Signed, open_signed
from p2p.types import NetworkId, PeerId, Role

ISSUERS_MAX = 64


class IssuerBook:
    """Opens vouchers of certified bootstraps, connected now or not."""

    def __init__(self, network: NetworkId, membership: Membership) -> None:
        """Know the bootstraps that `membership` has greeted and those whose chains were shown."""
        self._network = network
        self._membership = membership
        self._known: OrderedDict[PeerId, Certificate] = OrderedDict()

    def open_voucher(self, signed: Signed, issuer_chain: Sequence[Signed], now_ms: int) -> Voucher:
        """Verify a voucher's signature and that a certified bootstrap made it.

        Raises: UntrustedError, StaleError, MalformedError.
        """
        issuer = signed.peer_id
        certificate = self._membership.certificate_of(issuer) or self._known.get(issuer)
        if certificate is None or certificate.expires_ms <= now_ms:
            if not issuer_chain:
                raise UntrustedError(f"the voucher's issuer {issuer} is not known here")
            certificate = verify_chain(issuer_chain, self._network, issuer, now_ms)
        if certificate.role is not Role.BOOTSTRAP:
            raise UntrustedError("only a bootstrap issues vouchers")
        self._known[issuer] = certificate
        self._known.move_to_end(issuer)
        if len(self._known) > ISSUERS_MAX:
            self._known.popitem(last=False)
        return open_signed(signed, Voucher, self._network, signed.signer)
