"""Owns `network admit-mirror` and `network name-log-key`: whom the log is entrusted to."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.clock import system_clock_ms
from p2p.identity import load_key
from p2p.network_configuration import NetworkConfiguration
from p2p.types import PeerId, public_key_of
from resultity.commands.options import EXISTING, PATH
from resultity.errors import SettingsError
from resultity.network_files import NetworkFiles, sign_next
from resultity.role_process import reported_errors

FOUNDER = click.option("--data-dir", type=PATH, required=True, help="The founder's folder.")


def public_key(text: str) -> str:
    """Read a public key: 64 hex digits, or the path of a key file. Raises: SettingsError."""
    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):
        return text
    if not Path(text).is_file():
        raise SettingsError(f"not a public key (64 hex digits) and not a key file: {text[:80]!r}")
    return load_key(Path(text)).public_key.hex()


def name_log_keys(files: NetworkFiles, keys: list[str]) -> NetworkConfiguration:
    """Sign a configuration that names these log keys too. Raises: as `sign_next`."""
    _, current = files.configuration()
    named = (*current.log_keys, *(key for key in keys if key not in current.log_keys))
    edited = current.model_copy(update={"log_keys": named})
    return sign_next(files, edited.model_dump_json(), system_clock_ms)


@click.command("name-log-key")
@FOUNDER
@click.argument("keys", nargs=-1, required=True)
def name_log_key(data_dir: Path, keys: tuple[str, ...]) -> None:
    """Name the KEYS (64 hex digits, or log.key files) that sign checkpoints of the ledger's log.

    From then on no other key counts, whoever certified it: name all that bootstraps use, or used.
    """
    with reported_errors():
        configuration = name_log_keys(NetworkFiles(data_dir), [public_key(key) for key in keys])
        shown = {"version": configuration.version, "log_keys": configuration.log_keys}
        click.echo(json.dumps(shown))


@click.command("admit-mirror")
@FOUNDER
@click.option("--peer", "peer_id", help="The mirror's peer ID; or give --identity.")
@click.option("--identity", type=EXISTING, help="The mirror's identity.key, if it is here.")
@click.option("--witness", "name", help="Name of its cosignatures, as mirror.example.org.")
@click.option("--witness-key", help="64 hex digits, or its witness.key file.")
@click.option("--quorum", type=click.IntRange(0, 100), help="Witnesses that users ask for.")
def admit_mirror(
    data_dir: Path,
    peer_id: str | None,
    identity: Path | None,
    name: str | None,
    witness_key: str | None,
    quorum: int | None,
) -> None:
    """Let a bootstrap follow the ledger as a mirror, and name it as a witness.

    A mirror gets everything that the ledger knows. It needs a certificate as well (`network certify
    --role bootstrap`).
    """
    if (peer_id is None) == (identity is None):
        raise click.UsageError("give --peer or --identity")
    if (name is None) != (witness_key is None):
        raise click.UsageError("a witness has a name and a key: --witness and --witness-key")
    with reported_errors():
        files = NetworkFiles(data_dir)
        _, current = files.configuration()
        peer = load_key(identity).peer_id if identity else PeerId(peer_id or "")
        public_key_of(peer)
        edited = current.model_dump(mode="json")
        edited["mirror_peers"] = [*dict.fromkeys([*current.mirror_peers, peer])]
        if name is not None and witness_key is not None:
            others = [w for w in edited["witnesses"] if w["name"] != name]
            edited["witnesses"] = [*others, {"name": name, "public_key": public_key(witness_key)}]
        if quorum is not None:
            edited["witness_quorum"] = quorum
        configuration = sign_next(files, json.dumps(edited), system_clock_ms)
        shown = {"version": configuration.version, "mirror_peers": configuration.mirror_peers}
        click.echo(json.dumps(shown))
