"""Owns a gateway that its account bound to itself: it has a bootstrap certify it.

With a binding file (`resultity account certify-gateway`) instead of the authority's certificate a
gateway asks a bootstrap for admission as a newcomer, and renews what it got.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gateway.errors import GatewaySetupError
from p2p.certificate_keeper import Asking, CertificateKeeper
from p2p.certificates import check_gateway_binding
from p2p.clock import Clock
from p2p.codec import decode_message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import P2PError
from p2p.gateway_admission import (
    ADMIT_GATEWAY,
    GatewayBinding,
    admission_request,
    load_binding,
)
from p2p.membership import Membership
from p2p.software import SOFTWARE


def own_gateway(
    membership: Membership,
    configuration: ConfigurationBook,
    binding_file: Path,
    certificate_file: Path,
    *,
    clock_ms: Clock,
) -> CertificateKeeper:
    """Prepare to be certified by a binding; a good certificate of before is used.

    Raises: GatewaySetupError for a binding that is not this gateway's, or not good.
    """
    key_pair, network = membership.key_pair, membership.network
    try:
        proof = load_binding(binding_file)
        account_id = decode_message(proof[0].body, GatewayBinding).account_id
        check_gateway_binding(proof, account_id, network, key_pair.peer_id, clock_ms())
    except OSError as error:
        raise GatewaySetupError(
            f"the binding {binding_file} cannot be read: {error.strerror}"
        ) from error
    except P2PError as error:
        raise GatewaySetupError(f"the binding {binding_file}: {error}") from error
    request = partial(admission_request, key_pair, network, proof, SOFTWARE)
    asking = Asking(ADMIT_GATEWAY, account_id, request)
    return CertificateKeeper(membership, asking, configuration, certificate_file, clock_ms=clock_ms)
