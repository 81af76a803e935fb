"""Owns `ledger audit`, `ledger prove` and `ledger verify`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from p2p.files import write_atomically
from p2p.identity import load_key
from p2p.log_messages import InclusionReply
from resultity.accounts import show_credits
from resultity.commands.ledger_backup import FOLDER_HELP, LEDGER_FILE, URL_HELP, ledger_database
from resultity.courier import Courier
from resultity.errors import SettingsError
from resultity.ledger_audit import audit_database, mint_keys, prove_from_database
from resultity.ledger_proofs import (
    inclusion_request,
    leaf_facts,
    proof_text,
    read_receipt,
    subject_of,
    verify_proof,
)
from resultity.role_process import reported_errors
from resultity.targets import find_gateway, find_network, local_folders

PATH = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
NETWORK = click.option("--network", "network_id", help="Default: the local network's ID.")
RECEIPT = click.option(
    "--receipt", "receipt_file", type=EXISTING, help="A consumer's or a node's, base64."
)
CONFIGURATION_FILE = "configuration.msgpack"


@click.command("audit")
@click.option("--data-dir", type=FOLDER, help=FOLDER_HELP)
@click.option("--database-url", help=URL_HELP)
@NETWORK
@click.option(
    "--configuration",
    "configurations",
    type=EXISTING,
    multiple=True,
    help="Signed configurations that name mint keys, newest and older ones; "
    "default: the one in the data folder.",
)
@click.option("--json", "as_json", is_flag=True)
def audit(
    data_dir: Path | None,
    database_url: str | None,
    network_id: str | None,
    configurations: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Check a whole ledger offline: all signatures, sums, entries, holds, leaves and roots.

    Exit code 1 if anything is wrong. The bootstrap may go on meanwhile.
    """
    with reported_errors():
        folder = _folder(data_dir)
        url = ledger_database(None if database_url else folder, database_url)
        root = folder.parent if folder.name == "bootstrap" else None
        network = find_network(network_id, root)
        files = configurations or (folder / CONFIGURATION_FILE,)
        report = audit_database(url, network, mint_keys(network, files))
        if as_json:
            click.echo(
                json.dumps(
                    {
                        "ok": not report.problem_count,
                        "network": network,
                        "checked": report.checked,
                        "problem_count": report.problem_count,
                        "problems": report.problems,
                    }
                )
            )
        else:
            counts = ", ".join(f"{count} {what}" for what, count in report.checked.items())
            click.echo(f"checked: {counts or 'nothing'}")
            for problem in report.problems:
                click.echo(f"wrong: {problem}")
            if not report.problem_count:
                click.echo("nothing is wrong")
    if report.problem_count:
        raise click.exceptions.Exit(1)


def _folder(data_dir: Path | None) -> Path:
    folder = data_dir or local_folders(None).role("bootstrap")
    inner = folder / "bootstrap"
    # The folder of a whole local network will do too.
    return inner if (inner / LEDGER_FILE).is_file() else folder


@click.command("prove")
@click.argument("subject", required=False)
@RECEIPT
@click.option("--account", "account_file", type=EXISTING, help="Whose charge or pay it is.")
@click.option("--node-key", type=EXISTING, help="The identity.key of the node that was paid.")
@click.option("--bootstrap-dir", type=FOLDER, help="Prove from a bootstrap's own data folder.")
@click.option("--out", type=PATH, required=True, help="File to keep the proof in.")
@NETWORK
@click.option("--gateway", help="Default: the local network's.")
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
            reply = prove_from_database(ledger_database(_folder(bootstrap_dir), None), wanted)
        else:
            own = account_file or local_folders(data_dir).consumer_account
            keys = load_key(node_key) if node_key else load_account(own, network).signing
            question = inclusion_request(keys, network, wanted, system_clock_ms())
            courier = Courier(find_gateway(gateway, data_dir))
            reply = courier.send("inclusion", question, InclusionReply)
        text = proof_text(reply)
        verify_proof(text, network, receipt)
        write_atomically(out, text)
        click.echo(f"{out}: {len(reply.inclusions)} leaves with their proofs")


@click.command("verify")
@click.argument("proof", type=EXISTING)
@NETWORK
@RECEIPT
@click.option("--json", "as_json", is_flag=True)
@click.option("--data-dir", type=PATH, help="Of the local network (only for its ID).")
def verify(
    proof: Path,
    network_id: str | None,
    receipt_file: Path | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Check PROOF offline, from the network's ID alone, and that it is about a receipt.

    Exit code 1 if it does not hold.
    """
    with reported_errors():
        network = find_network(network_id, data_dir)
        receipt = read_receipt(receipt_file, network) if receipt_file else None
        verified, leaves = verify_proof(proof.read_bytes(), network, receipt)
        head = verified.head
        facts = [leaf_facts(leaf) for leaf in leaves]
        if as_json:
            about = {"verified": True, "log_size": head.size, "root": head.root.hex()}
            click.echo(json.dumps({**about, "bootstrap": verified.bootstrap_id, "leaves": facts}))
            return
        click.echo(f"verified: in the log of {head.size} leaves, root {head.root.hex()}")
        for fact in facts:
            amount = fact.get("amount_microcredits")
            about_whom = fact.get("namespace") or fact.get("account") or fact.get("subject")
            credit = f" {show_credits(amount)} credits" if isinstance(amount, int) else ""
            click.echo(f"  {fact['leaf']}{credit} {about_whom}")
