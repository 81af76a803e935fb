"""Owns `dispute open|list|show|answer|resolve`: a charge is contested, and settled once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from p2p.codec import encode_message
from p2p.dispute_messages import DisputeEvidence, DisputeList, DisputeView
from p2p.files import write_atomically
from p2p.identity import load_key
from p2p.ledger_messages import TransferResult
from p2p.log_messages import InclusionReply
from p2p.signing import KeyPair
from p2p.types import NetworkId
from resultity.accounts import parse_credits, show_credits
from resultity.commands.options import DATA_DIR, EXISTING, GATEWAY, JSON, NETWORK, PATH
from resultity.courier import Courier
from resultity.disputes import (
    answer,
    bill_of,
    bill_parts,
    documents_of,
    examine,
    facts_of,
    open_evidence,
    parse_hold_id,
    question,
    read_attachments,
    resolution,
    submission,
)
from resultity.errors import DataFolderError, GatewayCallError, SettingsError
from resultity.ledger_proofs import inclusion_request, read_signed_receipt
from resultity.role_process import reported_errors
from resultity.statements import fetch_configuration
from resultity.targets import find_gateway, find_network, local_folders

FILE_MODE = 0o600
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class _Asker:
    """Who asks: with which key, for which account ("" is a decider), as an operator or not."""

    signer: KeyPair
    account_id: str
    operator: bool


@click.group()
def dispute() -> None:
    """Contest a charge, answer, decide."""


def _who(command: F) -> F:
    """Add the options that say as whom somebody asks."""
    options = (
        click.option("--account-file", type=EXISTING, help="Default: the local network's."),
        click.option("--operator", is_flag=True, help="As the one who was paid."),
        click.option("--decider-key", type=EXISTING, help="As a decider: a key of dispute_keys."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dispute.command("open")
@click.argument("bill", type=click.Path(path_type=Path, exists=True))
@click.option("--reason", required=True, help="What is wrong. The operators can read it.")
@click.option("--claim", metavar="CREDITS", help="Default: the whole charge.")
@click.option("--salt", default="", help="Hex, beside the receipt: opens it to the decider.")
@click.option(
    "--attach", multiple=True, metavar="[NAME=]FILE", help="Request or answer, for the decider."
)
@click.option("--account-file", type=EXISTING, help="Default: the local network's consumer.")
@NETWORK
@GATEWAY
@DATA_DIR
def open_command(
    bill: Path,
    reason: str,
    claim: str | None,
    salt: str,
    attach: tuple[str, ...],
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Contest the charge of BILL, within the network's window and once.

    BILL: the folder that `ask --save` made (request and answer are attached), or a receipt's file.
    What is attached is encrypted to the deciders; nobody else can read it.
    """
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).consumer_account, network)
        root = find_gateway(gateway, data_dir)
        courier = Courier(root)
        receipt_file, of_bill = bill_parts(bill)
        receipt = read_signed_receipt(receipt_file)
        document = bill_of(receipt, network)
        evidence = DisputeEvidence(
            receipt,
            _salt(salt),
            _proof(courier, keys.signing, network, document.hold_id),
            read_attachments((*of_bill, *attach)),
        )
        signed = submission(
            keys.signing,
            keys.account_id,
            network,
            fetch_configuration(root, network)[1],
            evidence,
            reason=reason,
            claimed=parse_credits(claim) if claim else document.charged,
            now_ms=system_clock_ms(),
        )
        result = courier.send("dispute", signed, TransferResult)
        known = " was open already" if result.exists else " is open"
        click.echo(f"the dispute about {document.hold_id.hex()}{known}")


def _salt(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise SettingsError(f"a salt is hex digits, not {text[:40]!r}") from error


def _proof(courier: Courier, signer: KeyPair, network: NetworkId, hold_id: bytes) -> bytes:
    """Open the charge's leaf of the log for the decider; empty if it is not logged yet."""
    request = inclusion_request(signer, network, hold_id, system_clock_ms())
    try:
        return encode_message(courier.send("inclusion", request, InclusionReply))
    except GatewayCallError as error:
        if error.code in ("value_refused", "not_authorized"):
            return b""
        raise


@dispute.command("list")
@_who
@JSON
@NETWORK
@GATEWAY
@DATA_DIR
def list_command(
    account_file: Path | None,
    operator: bool,
    decider_key: Path | None,
    as_json: bool,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """List disputes, the newest first: an account's own, those about its pay, or all."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        asker = _asker(account_file, operator, decider_key, network, data_dir)
        courier = Courier(find_gateway(gateway, data_dir))
        views: list[DisputeView] = []
        more = True
        while more:
            page = _ask(courier, asker, network, skip=len(views))
            views += page.disputes
            more = page.more and bool(page.disputes)
        if as_json:
            click.echo(json.dumps([facts_of(view) for view in views]))
            return
        for view in views:
            click.echo(_line(view))
        if not views:
            click.echo("there are no disputes")


@dispute.command("show")
@click.argument("hold")
@_who
@click.option("--save", type=PATH, help="A new folder for the evidence (as a decider).")
@JSON
@NETWORK
@GATEWAY
@DATA_DIR
def show(
    hold: str,
    account_file: Path | None,
    operator: bool,
    decider_key: Path | None,
    save: Path | None,
    as_json: bool,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Show the dispute about HOLD with all that one may see; a decider sees the evidence."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        asker = _asker(account_file, operator, decider_key, network, data_dir)
        courier = Courier(find_gateway(gateway, data_dir))
        (view,) = _ask(courier, asker, network, hold_id=parse_hold_id(hold)).disputes
        facts = {**facts_of(view), **documents_of(view, network)}
        evidence = open_evidence(view, asker.signer) if decider_key is not None else None
        if evidence is not None:
            findings = examine(view, evidence, network)
            facts["findings"] = [{"holds": one.holds, "text": one.text} for one in findings]
            facts["attachments"] = [one.name for one in evidence.attachments]
            if save is not None:
                _save(save, evidence, view)
        if as_json:
            click.echo(json.dumps(facts))
            return
        click.echo(_line(view))
        for name in ("payer", "note", "decided_by"):
            if facts.get(name):
                click.echo(f"  {name.replace('_', ' ')}: {facts[name]}")
        for share in facts.get("shares", ()):
            paid = show_credits(share["paid_microcredits"])
            back = show_credits(share["taken_back_microcredits"])
            click.echo(f"  paid {paid} to {share['account']}, taken back {back}")
        for said in facts.get("answers", ()):
            click.echo(f"  {said['account']} answers: {said['text']}")
        for finding in facts.get("findings", ()):
            click.echo(f"  {'yes' if finding['holds'] else 'NO '}: {finding['text']}")


@dispute.command("answer")
@click.argument("hold")
@click.option("--text", required=True, help="What the decider should know.")
@click.option("--account-file", type=EXISTING, help="Default: the local network's operator.")
@NETWORK
@GATEWAY
@DATA_DIR
def answer_command(
    hold: str,
    text: str,
    account_file: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Answer the dispute about HOLD as an operator whose pay it is about: once."""
    with reported_errors():
        network = find_network(network_id, data_dir)
        keys = load_account(account_file or local_folders(data_dir).operator_account, network)
        document = answer(keys, network, parse_hold_id(hold), text, system_clock_ms())
        Courier(find_gateway(gateway, data_dir)).operation(document)
        click.echo("answered")


@dispute.command("resolve")
@click.argument("hold")
@click.option("--refund", required=True, metavar="CREDITS", help="0 refuses the claim.")
@click.option("--note", required=True, help="Why. All sides can read it.")
@click.option("--decider-key", type=EXISTING, help="Default: the local network's.")
@NETWORK
@GATEWAY
@DATA_DIR
def resolve(
    hold: str,
    refund: str,
    note: str,
    decider_key: Path | None,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Decide the dispute about HOLD for good: CREDITS go back to who paid."""
    with reported_errors():
        amount = 0 if refund.strip() == "0" else parse_credits(refund)
        network = find_network(network_id, data_dir)
        decider = load_key(decider_key or local_folders(data_dir).network.dispute_path)
        hold_id = parse_hold_id(hold)
        document = resolution(decider, network, hold_id, amount, note, system_clock_ms())
        result = Courier(find_gateway(gateway, data_dir)).operation(document)
        known = "was resolved before" if result.exists else "is resolved"
        click.echo(f"the dispute {known}: {show_credits(result.amount)} credits go back")


# --- common --------------------------------------------------------------------------------------
def _asker(
    account_file: Path | None,
    operator: bool,
    decider_key: Path | None,
    network: NetworkId,
    data_dir: Path | None,
) -> _Asker:
    if decider_key is not None:
        if operator or account_file is not None:
            raise SettingsError("give --decider-key, or --account-file with or without --operator")
        return _Asker(load_key(decider_key), "", False)
    folders = local_folders(data_dir)
    local = folders.operator_account if operator else folders.consumer_account
    keys = load_account(account_file or local, network)
    return _Asker(keys.signing, keys.account_id, operator)


def _ask(
    courier: Courier, asker: _Asker, network: NetworkId, *, hold_id: bytes = b"", skip: int = 0
) -> DisputeList:
    request = question(
        asker.signer,
        network,
        system_clock_ms(),
        account_id=asker.account_id,
        hold_id=hold_id,
        operator=asker.operator,
        skip=skip,
    )
    found = courier.send("disputes", request, DisputeList)
    if hold_id and [view.hold_id for view in found.disputes] != [hold_id]:
        raise GatewayCallError("the gateway answered with another dispute")
    return found


def _line(view: DisputeView) -> str:
    state = "resolved" if view.resolved_ms else "open"
    if view.side == "operator":
        stake = sum(share.paid for share in view.shares)
        back = sum(share.taken_back for share in view.shares)
        amounts = f"{show_credits(stake)} at stake, {show_credits(back)} taken back"
    else:
        amounts = f"{show_credits(view.claimed)} claimed, {show_credits(view.refunded)} refunded"
    return f"{view.hold_id.hex()}  {state:<8}  {amounts}  {view.reason.splitlines()[0]}"


def _save(folder: Path, evidence: DisputeEvidence, view: DisputeView) -> None:
    """Write the evidence into a new folder. Raises: DataFolderError."""
    if folder.exists():
        raise DataFolderError(f"{folder} exists already: choose another name")
    folder.mkdir(mode=0o700, parents=True)
    write_atomically(folder / "receipt.msgpack", encode_message(evidence.receipt), FILE_MODE)
    write_atomically(folder / "capture.msgpack", view.capture, FILE_MODE)
    if evidence.proof:
        write_atomically(folder / "proof.msgpack", evidence.proof, FILE_MODE)
    for number, attachment in enumerate(evidence.attachments, 1):
        # The name is the consumer's: nothing of it may lead out of the folder.
        safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in attachment.name)[:80]
        write_atomically(folder / f"{number}-{safe}", attachment.content, FILE_MODE)
