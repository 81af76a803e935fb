"""Owns `account certify-gateway`: an account makes a gateway its own."""

from __future__ import annotations

from pathlib import Path

import click

from p2p.account_file import AccountKeys, document_key, load_account
from p2p.account_proof import AccountProof
from p2p.clock import system_clock_ms
from p2p.errors import MalformedError
from p2p.files import write_atomically
from p2p.gateway_admission import bind_gateway, encode_binding
from p2p.types import NetworkId, PeerId, public_key_of
from resultity.account_keys import OwnersDesk
from resultity.commands.options import DATA_DIR, EXISTING, GATEWAY, NETWORK, PATH
from resultity.courier import Courier
from resultity.errors import SettingsError
from resultity.role_process import reported_errors
from resultity.targets import find_gateway, find_network

DAYS_MAX = 3650


@click.command("certify-gateway")
@click.argument("file", type=EXISTING)
@click.argument("peer_id")
@click.option("-o", "--output", type=PATH, required=True, help="Where to write the binding.")
@click.option("--days", type=click.IntRange(1, DAYS_MAX), default=365, show_default=True)
@NETWORK
@GATEWAY
@DATA_DIR
def certify_gateway(
    file: Path,
    peer_id: str,
    output: Path,
    days: int,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Make PEER_ID a gateway of the account in FILE, for the account's own namespaces.

    Works without a network unless the key in FILE was added to the account later. The gateway is
    started with `gateway run --binding OUTPUT`.
    """
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(file, network)
        try:
            public_key_of(PeerId(peer_id))
        except MalformedError as error:
            raise SettingsError(f"{peer_id[:80]} is not a peer ID: {error}") from error
        proof = bind_gateway(
            keys.signing,
            network,
            _proof(keys, network, gateway, data_dir),
            PeerId(peer_id),
            account_id=keys.account_id,
            issued_ms=system_clock_ms(),
            lifetime_s=days * 86_400,
        )
        write_atomically(output, encode_binding(proof))
        click.echo(f"{output}: {peer_id} is a gateway of {keys.account_id} for {days} days")


def _proof(
    keys: AccountKeys, network: NetworkId, gateway: str | None, data_dir: Path | None
) -> AccountProof:
    if document_key(keys.founding) == keys.signing.public_key:
        return AccountProof(keys.founding)
    desk = OwnersDesk(Courier(find_gateway(gateway, data_dir)), network, system_clock_ms())
    return desk.proof(keys.signing, keys.account_id)
