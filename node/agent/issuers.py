"""Owns whose promises this node believes: certified bootstraps', vouchers and leases, each voucher
for one attempt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

from p2p.certificates import Certificate, verify_chain
from p2p.configuration_book import ConfigurationBook
from p2p.errors import StaleError, UntrustedError
from p2p.job_messages import Offer
from p2p.lease_messages import Lease
from p2p.ledger_messages import Voucher
from p2p.membership import Membership
from p2p.signing import Signed, open_signed
from p2p.types import NetworkId, PeerId, Role

P = TypeVar("P", Voucher, Lease)
ISSUERS_MAX = 64
ATTEMPTS_REMEMBERED_MAX = 20_000
"""The oldest are forgotten: to run one twice, a gateway has to pay for this many in between."""


class IssuerBook:
    """Opens vouchers and leases of certified bootstraps, connected now or not."""

    def __init__(
        self, network: NetworkId, membership: Membership, configuration: ConfigurationBook
    ) -> None:
        """Know the bootstraps that `membership` has greeted and those whose chains were shown."""
        self._network = network
        self._membership = membership
        self._configuration = configuration
        self._used: OrderedDict[bytes, None] = OrderedDict()
        self._holds: OrderedDict[bytes, bytes] = OrderedDict()
        self._known: OrderedDict[PeerId, Certificate] = OrderedDict()

    def open_promise(
        self, signed: Signed, kind: type[P], issuer_chain: Sequence[Signed], now_ms: int
    ) -> P:
        """Verify a voucher's or lease's signature and that a certified bootstrap made it.

        Raises: UntrustedError, StaleError, MalformedError.
        """
        issuer = signed.peer_id
        if self._configuration.current.is_banned(issuer):
            raise UntrustedError("the voucher's issuer is banned")
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
        return open_signed(signed, kind, self._network, signed.signer)

    def use_once(self, offer: Offer) -> None:
        """Refuse to work a second time for the same attempt of the same gateway's job.

        Raises: StaleError.
        """
        attempt = offer.job_id + bytes([offer.attempt]) + offer.gateway_id.encode()
        if attempt in self._used:
            raise StaleError("this attempt was begun before: its voucher is used up")
        # One hold pays for one job: of two with one hold a gateway would pay the first only.
        hold = offer.hold_id + offer.gateway_id.encode()
        job = self._holds.setdefault(hold, offer.job_id)
        if job != offer.job_id:
            raise StaleError("this hold pays for another job already")
        if len(self._holds) > ATTEMPTS_REMEMBERED_MAX:
            self._holds.popitem(last=False)
        self._used[attempt] = None
        if len(self._used) > ATTEMPTS_REMEMBERED_MAX:
            self._used.popitem(last=False)
