"""Owns `ledger prove` and `ledger verify`: something is in the log, and the log is one."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from p2p.files import write_atomically
from p2p.identity import load_key
from p2p.log_messages import InclusionReply
from p2p.mirror_messages import Growth
from p2p.network_configuration import NetworkConfiguration
from p2p.types import NetworkId
from resultity.accounts import show_credits
from resultity.commands.ledger_backup import ledger_database
from resultity.commands.ledger_log import bootstrap_folder
from resultity.commands.options import EXISTING, FOLDER, NETWORK, PATH
from resultity.courier import Courier
from resultity.errors import SettingsError
from resultity.ledger_audit import prove_from_database
from resultity.ledger_proofs import (
    VerifiedProof,
    inclusion_request,
    leaf_facts,
    proof_text,
    read_receipt,
    subject_of,
    verify_proof,
)
from resultity.log_growth import (
    growth_from,
    known_configuration,
    no_growth,
    seen_folder,
    without_quorum,
)
from resultity.role_process import reported_errors
from resultity.seen_checkpoints import AskGrowth, SeenCheckpoint
from resultity.targets import find_gateway, find_network, local_folders

RECEIPT = click.option(
    "--receipt", "receipt_file", type=EXISTING, help="A consumer's or a node's, base64."
)
CONFIGURATION = click.option(
    "--configuration",
    "configuration_file",
    type=EXISTING,
    help="Signed configuration that names log keys and witnesses; default: the local network's.",
)


@click.command("prove")
@click.argument("subject", required=False)
@RECEIPT
@click.option("--account", "account_file", type=EXISTING, help="Whose charge or pay it is.")
@click.option("--node-key", type=EXISTING, help="The identity.key of the node that was paid.")
@click.option("--bootstrap-dir", type=FOLDER, help="Prove from a bootstrap's own data folder.")
@click.option("--out", type=PATH, required=True, help="File to keep the proof in.")
@NETWORK
@click.option("--gateway", help="Default: the local network's.")
@CONFIGURATION
@click.option("--data-dir", type=PATH, help="Of the local network.")
def prove(
    subject: str | None,
    receipt_file: Path | None,
    account_file: Path | None,
    node_key: Path | None,
    bootstrap_dir: Path | None,
    out: Path,
    network_id: str | None,
    gateway: str | None,
    configuration_file: Path | None,
    data_dir: Path | None,
) -> None:
    """Get the proof that a charge, a pay or an account operation is in the ledger's log.

    SUBJECT: the ID of a transfer or hold, or the SHA-256 of an account document's body, in hex.
    What is proved is what the key may see; with none given, the local consumer's.
    """
    with reported_errors():
        network = find_network(network_id, data_dir)
        receipt = read_receipt(receipt_file, network) if receipt_file else None
        wanted = subject_of(subject, receipt)
        if sum(option is not None for option in (account_file, node_key, bootstrap_dir)) > 1:
            raise SettingsError("give one of --account, --node-key and --bootstrap-dir")
        if bootstrap_dir is not None:
            reply = prove_from_database(
                ledger_database(bootstrap_folder(bootstrap_dir), None), wanted
            )
        else:
            own = account_file or local_folders(data_dir).consumer_account
            keys = load_key(node_key) if node_key else load_account(own, network).signing
            question = inclusion_request(keys, network, wanted, system_clock_ms())
            courier = Courier(find_gateway(gateway, data_dir))
            reply = courier.send("inclusion", question, InclusionReply)
        configuration = known_configuration(configuration_file, network, data_dir)
        found = verify_proof(proof_text(reply), network, receipt, without_quorum(configuration))
        ask = growth_from(gateway, data_dir) if bootstrap_dir is None else no_growth
        growth = _growth_since_seen(found, network, configuration, ask, data_dir)
        write_atomically(out, proof_text(reply, growth))
        click.echo(f"{out}: {len(reply.inclusions)} leaves with their proofs")


def _growth_since_seen(
    found: VerifiedProof,
    network: NetworkId,
    configuration: NetworkConfiguration | None,
    ask: AskGrowth,
    data_dir: Path | None,
) -> Growth | None:
    """Compare a proof's checkpoint with what was seen before; gives the proof for that."""
    keys = configuration.log_public_keys if configuration is not None else frozenset[bytes]()
    asked: list[Growth] = []

    def ask_once(old_size: int, new_size: int) -> Growth | None:
        growth = ask(old_size, new_size)
        asked.extend([growth] if growth is not None else [])
        return growth

    seen = SeenCheckpoint(seen_folder(data_dir), network)
    seen.compare(found.checkpoint, found.verified.head, keys, found.growths, ask_once)
    return asked[0] if asked else None


@click.command("verify")
@click.argument("proof", type=EXISTING)
@NETWORK
@RECEIPT
@CONFIGURATION
@click.option("--gateway", help="To ask how the log grew since this computer last looked.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--data-dir", type=PATH, help="Of the local network, and of what was seen before.")
def verify(
    proof: Path,
    network_id: str | None,
    receipt_file: Path | None,
    configuration_file: Path | None,
    gateway: str | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Check PROOF from the network's ID alone, and that it is about a receipt.

    With a network configuration: that the authority names the log key, and who of its witnesses
    cosigned. The log is compared with the last checkpoint that this computer saw; for another size
    that takes a proof from PROOF itself or from a gateway. Exit code 1 if something does not hold.
    """
    with reported_errors():
        network = find_network(network_id, data_dir)
        receipt = read_receipt(receipt_file, network) if receipt_file else None
        configuration = known_configuration(configuration_file, network, data_dir)
        found = verify_proof(proof.read_bytes(), network, receipt, configuration)
        head = found.verified.head
        keys = configuration.log_public_keys if configuration is not None else frozenset[bytes]()
        ask = growth_from(gateway, data_dir) if gateway else no_growth
        seen = SeenCheckpoint(seen_folder(data_dir), network)
        compared = seen.compare(found.checkpoint, head, keys, found.growths, ask)
        _show(found, compared, as_json=as_json)


def _show(found: VerifiedProof, compared: int | None, *, as_json: bool) -> None:
    head = found.verified.head
    facts = [leaf_facts(leaf) for leaf in found.openings]
    if as_json:
        about = {
            "verified": True,
            "log_size": head.size,
            "root": head.root.hex(),
            "bootstrap": found.verified.bootstrap_id,
            "witnesses": [{"name": w.name, "at_ms": w.at_s * 1000} for w in found.witnesses],
            "compared_with_size": compared,
        }
        click.echo(json.dumps({**about, "leaves": facts}))
        return
    click.echo(f"verified: in the log of {head.size} leaves, root {head.root.hex()}")
    if found.witnesses:
        click.echo(f"  cosigned by {', '.join(witness.name for witness in found.witnesses)}")
    if compared is not None:
        click.echo(f"  the log of {compared} leaves, seen before, is a part of the same log")
    for fact in facts:
        amount = fact.get("amount_microcredits")
        about_whom = fact.get("namespace") or fact.get("account") or fact.get("subject")
        credit = f" {show_credits(amount)} credits" if isinstance(amount, int) else ""
        click.echo(f"  {fact['leaf']}{credit} {about_whom}")
