"""Owns the check of a statement by an account's owner: credit is what mint keys signed."""

from __future__ import annotations

import base64
import binascii

from p2p.codec import decode_message
from p2p.errors import P2PError
from p2p.ledger_messages import Grant, Statement
from p2p.network_configuration import NetworkConfiguration, open_configuration
from p2p.signing import Signed, open_signed
from p2p.types import AccountId, NetworkId
from resultity.errors import GatewayCallError
from resultity.http_json import gateway_root, get_json


def fetch_configuration(
    gateway_url: str, network: NetworkId
) -> tuple[Signed, NetworkConfiguration]:
    """Get the network's configuration from a gateway and verify that the authority signed it.

    Raises: GatewayCallError, UntrustedError, MalformedError.
    """
    answer = get_json(f"{gateway_root(gateway_url)}/resultity/v1/network")
    try:
        signed = decode_message(base64.b64decode(answer["configuration"], validate=True), Signed)
    except (KeyError, TypeError, binascii.Error, P2PError) as error:
        raise GatewayCallError("the gateway's configuration cannot be read") from error
    return signed, open_configuration(signed, network)


def check_statement(
    statement: Statement,
    network: NetworkId,
    gateway_url: str,
    account_id: AccountId,
    namespace: str,
) -> int:
    """Verify every grant of a statement and that the amounts agree.

    Returns: the number of grants.
    Raises: GatewayCallError if the ledger says what it cannot prove.
    """
    _, configuration = fetch_configuration(gateway_url, network)
    seen: dict[bytes, int] = {}
    for signed in statement.grants:
        if signed.signer not in configuration.grant_public_keys:
            raise GatewayCallError("the statement has a grant that no mint key signed")
        try:
            grant = open_signed(signed, Grant, network, signed.signer)
        except P2PError as error:
            raise GatewayCallError(
                f"the statement has a grant that is not valid: {error}"
            ) from error
        if (grant.account_id, grant.namespace) != (account_id, namespace):
            raise GatewayCallError("the statement has a grant for somebody else")
        seen[grant.grant_id] = grant.amount
    if sum(seen.values()) != statement.granted:
        raise GatewayCallError("the statement's grants do not add up to what it says was granted")
    if statement.available + statement.held + statement.spent != statement.granted:
        raise GatewayCallError("the statement's amounts do not add up")
    return len(seen)
