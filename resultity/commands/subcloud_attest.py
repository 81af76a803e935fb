"""Owns `subcloud attest`: a delegate vouches for a node's country or hardware."""

from __future__ import annotations

from pathlib import Path

import click

from p2p.clock import system_clock_ms
from p2p.codec import encode_message
from p2p.errors import MalformedError
from p2p.files import write_atomically
from p2p.identity import load_key
from p2p.signing import KeyPair
from p2p.subclouds.identity import SubcloudId, parse_subcloud_id
from resultity.account_invites import parse_duration_s
from resultity.commands.options import PATH
from resultity.role_process import reported_errors
from resultity.subclouds.attesting import make_attestation
from resultity.subclouds.delegate_files import load_delegate_key
from resultity.subclouds.delegate_target import DELEGATE_KEY, Where, parse_peers, with_where


@click.command()
@click.argument("name")
@click.argument("peer")
@click.option("--country", default="", help="Where the node is: ISO 3166-1 alpha-2, like DE.")
@click.option("--gpu", "gpus", multiple=True, help="`NAME` or `NAME=24GiB` (repeatable).")
@click.option("--memory", "memory_text", default="", help="The machine's memory, like 64GiB.")
@click.option("--speed", "speeds", multiple=True, help="`DIGEST=40` tokens/s (repeatable).")
@click.option("--for", "lifetime", default="90d", show_default=True, help="Like 12h, 7d, 52w.")
@click.option("-o", "--output", type=PATH, help="Write a file for the operator instead.")
@DELEGATE_KEY
@with_where
def attest(
    name: str,
    peer: str,
    country: str,
    gpus: tuple[str, ...],
    memory_text: str,
    speeds: tuple[str, ...],
    lifetime: str,
    output: Path | None,
    delegate_key: Path,
    where: Where,
) -> None:
    """Vouch for a node: what you have seen for yourself, or have a contract about.

    A node that was told to join fetches it within a minute. With -o it becomes a file, which the
    operator hands to the node by `resultity node subclouds evidence add FILE`; NAME may then be the
    subcloud's ID, for which no gateway is asked: the key can stay on a machine without a network.
    """
    with reported_errors():
        (node,) = parse_peers((peer,))
        identity, key = _who_attests(name, delegate_key, where, offline=output is not None)
        document = make_attestation(
            identity,
            node,
            country=country,
            memory_text=memory_text,
            speeds=speeds,
            gpus=gpus,
            lifetime_s=parse_duration_s(lifetime),
            now_ms=system_clock_ms(),
        )
        signed = key.sign(where.network, document)
        if output is None:
            where.client().certify(identity, signed)
        else:
            write_atomically(output, encode_message(signed))
        click.echo(
            f"{f'{output}: ' if output else ''}{node} is vouched for in {identity} for {lifetime} "
            f"(revoke it by its ID, {document.attestation_id.hex()})"
        )


def _who_attests(
    name: str, delegate_key: Path, where: Where, *, offline: bool
) -> tuple[SubcloudId, KeyPair]:
    if offline:
        try:
            return parse_subcloud_id(name), load_key(delegate_key)
        except MalformedError:
            load_key(delegate_key)  # what is wrong with the key is told, not looked up
    known = where.client().get(name)
    return known.identity, load_delegate_key(delegate_key, known.policy)
