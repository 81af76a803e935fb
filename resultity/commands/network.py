"""Owns `network init|show|sign|certify`: what a network's founder does, offline."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from p2p.embeddings import TASKS
from p2p.identity import load_key, load_or_create_key
from p2p.network_configuration import open_configuration
from p2p.pre_shared_key import create_pre_shared_key
from p2p.types import AccountId, PeerId, Role, is_account_id, parse_network_id, public_key_of
from resultity.commands.network_invite import invite_account, invite_node
from resultity.commands.network_mirror import (
    admit_mirror,
    name_log_key,
    name_log_keys,
    public_key,
)
from resultity.commands.network_unverified import allow_unverified
from resultity.commands.options import EXISTING, PATH
from resultity.errors import SettingsError
from resultity.model_approval import (
    INPUT_PRICE,
    OUTPUT_PRICE,
    Prices,
    approve_model,
    split_model_argument,
)
from resultity.network_files import (
    NetworkFiles,
    certify,
    found_network,
    read_signed,
    sign_next,
    write_chain,
)
from resultity.role_process import reported_errors


@click.group()
def network() -> None:
    """Found a network and change its signed configuration (offline)."""


network.add_command(invite_account)
network.add_command(invite_node)
network.add_command(admit_mirror)
network.add_command(name_log_key)
network.add_command(allow_unverified)


@network.command("new-pre-shared-key")
@click.argument("file", type=PATH)
def new_pre_shared_key(file: Path) -> None:
    """Make the key of a network of one's own: whoever lacks it cannot say a word to its peers.

    Every peer is started with `--pre-shared-key-file FILE`; give it away by a safe channel.
    """
    with reported_errors():
        try:
            create_pre_shared_key(file)
        except FileExistsError as error:
            raise SettingsError(f"{file} exists: a network has one key") from error
        click.echo(f"{file}: give it to every peer of the network (--pre-shared-key-file)")


@network.command("init")
@click.option("--name", required=True, help="1 to 32 of a-z, 0-9 and dots.")
@click.option("--data-dir", type=PATH, required=True, help="Folder for the founder's files.")
@click.option("--model", "models", multiple=True, help="[NAME=]PATH of a GGUF file (repeatable).")
@click.option("--input-price", type=click.IntRange(0), default=INPUT_PRICE, show_default=True,
              help="Microcredits for 10^6 tokens read.")  # fmt: skip
@click.option("--output-price", type=click.IntRange(0), default=OUTPUT_PRICE, show_default=True,
              help="Microcredits for 10^6 tokens written.")  # fmt: skip
def init(
    name: str, data_dir: Path, models: tuple[str, ...], input_price: int, output_price: int
) -> None:
    """Make the keys of a network and its first configuration."""
    with reported_errors():
        prices = Prices(input_price, output_price)
        entries = [approve_model(*split_model_argument(text), prices) for text in models]
        files = found_network(data_dir, name, entries, system_clock_ms)
        click.echo(files.network())
        click.echo(
            f"{files.authority_path} signs configurations and certificates: keep it offline, "
            "keep a copy, show it to nobody",
            err=True,
        )


@network.command("show")
@click.argument("data_dir", type=PATH)
@click.option("--network", "network_id", help="Needed if DATA_DIR is a configuration file.")
def show(data_dir: Path, network_id: str | None) -> None:
    """Print the configuration in force as JSON: of a founder's folder, or a signed file."""
    with reported_errors():
        if data_dir.is_file():
            if network_id is None:
                raise SettingsError("a file alone proves nothing: give --network with its ID")
            configuration = open_configuration(read_signed(data_dir), parse_network_id(network_id))
        else:
            _, configuration = NetworkFiles(data_dir).configuration()
        click.echo(configuration.model_dump_json(indent=2))


@network.command("sign")
@click.argument("document", type=EXISTING)
@click.option("--data-dir", type=PATH, required=True, help="The founder's folder.")
def sign(document: Path, data_dir: Path) -> None:
    """Sign an edited configuration (JSON, from `network show`) as the next version.

    Version, predecessor and time are filled in. A bootstrap whose --configuration is the file in
    the founder's folder takes the new version by itself.
    """
    with reported_errors():
        try:
            text = document.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise SettingsError(f"{document} is not a text in UTF-8") from error
        configuration = sign_next(NetworkFiles(data_dir), text, system_clock_ms)
        path = NetworkFiles(data_dir).configuration_path
        click.echo(json.dumps({"version": configuration.version, "file": str(path)}))


@network.command("approve")
@click.argument("model")
@click.option("--data-dir", type=PATH, required=True, help="The founder's folder.")
@click.option("--input-price", type=click.IntRange(0), default=INPUT_PRICE, show_default=True)
@click.option("--output-price", type=click.IntRange(0), default=OUTPUT_PRICE, show_default=True)
@click.option("--task", "tasks", type=click.Choice(TASKS), multiple=True,
              help="What it may be used for (repeatable); else what the file says.")  # fmt: skip
def approve(
    model: str, data_dir: Path, input_price: int, output_price: int, tasks: tuple[str, ...]
) -> None:
    """Approve a model ([NAME=]PATH of a GGUF file) in a new version of the configuration."""
    with reported_errors():
        files = NetworkFiles(data_dir)
        prices = Prices(input_price, output_price)
        entry = approve_model(*split_model_argument(model), prices, tasks)
        _, current = files.configuration()
        edited = current.model_copy(update={"models": (*current.models, entry)})
        configuration = sign_next(files, edited.model_dump_json(), system_clock_ms)
        click.echo(json.dumps({"version": configuration.version, "model": entry.name}))


@network.command("certify")
@click.option("--data-dir", type=PATH, required=True, help="The founder's folder.")
@click.option("--role", type=click.Choice(["bootstrap", "gateway"]), required=True)
@click.option("--peer", "--peer-id", "peer_id", help="The peer's ID; or give --identity.")
@click.option("--identity", type=EXISTING, help="The peer's identity.key, if it is here.")
@click.option("--account", help="Account ID that earns the role's fees; or --account-file.")
@click.option("--account-file", type=EXISTING)
@click.option("--log-key", help="A bootstrap's log key to name in the configuration (hex or file).")
@click.option("--output", type=PATH, required=True, help="File for the certificate chain.")
def certify_command(
    data_dir: Path,
    role: str,
    peer_id: str | None,
    identity: Path | None,
    account: str | None,
    account_file: Path | None,
    log_key: str | None,
    output: Path,
) -> None:
    """Certify a bootstrap or a gateway for one year."""
    if log_key is not None and role != Role.BOOTSTRAP.value:
        raise click.UsageError("only a bootstrap signs checkpoints")
    if (peer_id is None) == (identity is None):
        raise click.UsageError("give --peer or --identity")
    if (account is None) == (account_file is None):
        raise click.UsageError("give --account or --account-file")
    with reported_errors():
        files = NetworkFiles(data_dir)
        peer = load_key(identity).peer_id if identity else PeerId(peer_id or "")
        public_key_of(peer)
        if account_file is not None:
            account_id = load_account(account_file, files.network()).account_id
        else:
            account_id = AccountId(account or "")
        if not is_account_id(account_id):
            raise SettingsError(f"not an account ID (acct-<40 hex digits>): {account_id[:60]!r}")
        write_chain(output, certify(files, peer, Role(role), account_id, system_clock_ms))
        click.echo(f"{peer} may act as {role} for a year: {output}")
        if log_key is not None:
            version = name_log_keys(files, [public_key(log_key)]).version
            click.echo(f"its log key is named by version {version} of the configuration")


@network.command("identity")
@click.argument("path", type=PATH)
@click.option(
    "--public-key", is_flag=True, help="Print the public key (hex) for the configuration."
)
def identity_command(path: Path, public_key: bool) -> None:
    """Print the peer ID of a key file; the file is made if there is none.

    The lists of keys in the configuration (mint_keys, participation.invite_keys) have public keys.
    """
    with reported_errors():
        key = load_or_create_key(path)
        click.echo(key.public_key.hex() if public_key else key.peer_id)
