"""Owns `receipt verify`: a receipt against public things, by anybody, offline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from resultity.accounts import show_credits
from resultity.bills import FILES, BillFiles, bill_files, read_bill
from resultity.commands.options import EXISTING, FOLDER
from resultity.receipts import verify_receipt
from resultity.role_process import reported_errors
from resultity.targets import find_network


@click.group()
def receipt() -> None:
    """Verify a receipt."""


@receipt.command("verify")
@click.argument("folder", type=FOLDER, required=False)
@click.option("--network", "network_id", help="Default: the local network's ID.")
@click.option("--configuration", type=EXISTING, help="Signed configuration.")
@click.option("--gateway-chain", type=EXISTING, help="The gateway's certificates.")
@click.option("--request", "request_file", type=EXISTING, help="Body as it was sent.")
@click.option("--answer", "answer_file", type=EXISTING, help="The answer's text.")
@click.option("--receipt", "receipt_file", type=EXISTING, help="Base64, as it came.")
@click.option("--policy", "policy_file", type=EXISTING, help="Of the job's subcloud.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Of the local network.")
def verify(
    folder: Path | None,
    network_id: str | None,
    configuration: Path | None,
    gateway_chain: Path | None,
    request_file: Path | None,
    answer_file: Path | None,
    receipt_file: Path | None,
    policy_file: Path | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Check that a certified gateway billed this answer to this request at the right price.

    FOLDER: as `resultity ask --save` made it; or name each file.
    """
    with reported_errors():
        given = (request_file, answer_file, receipt_file, configuration, gateway_chain)
        bill_kept = read_bill(_files(folder, given, policy_file))
        verified = verify_receipt(
            network=find_network(network_id, data_dir),
            configuration=bill_kept.configuration,
            gateway_chain=bill_kept.gateway_chain,
            receipt=bill_kept.receipt,
            request=bill_kept.request,
            answer=bill_kept.answer,
            policy=bill_kept.policy,
        )
        bill = verified.receipt
        facts = {
            "verified": True,
            "receipt_id": bill.receipt_id.hex(),
            "model": bill.terms.model_name,
            "input_tokens": bill.input_tokens,
            "output_tokens": bill.output_tokens,
            "charged_microcredits": bill.charged,
            "outcome": bill.outcome,
            "gateway": verified.gateway.peer_id,
            "subcloud": bill.terms.subcloud_id or None,
        }
        if as_json:
            click.echo(json.dumps(facts))
        else:
            click.echo(
                f"verified: {bill.input_tokens} tokens in, {bill.output_tokens} out, "
                f"{show_credits(bill.charged)} credits, signed by {verified.gateway.peer_id}"
            )
            if verified.policy is not None:
                policy = verified.policy.policy
                click.echo(
                    f"in the subcloud {policy.subcloud_id}, by version {policy.version} of its "
                    f"policy; {bill.terms.owner_fee_basis_points / 100:g} % to its owner"
                )


def _files(folder: Path | None, given: tuple[Path | None, ...], policy: Path | None) -> BillFiles:
    paths = [
        path or (folder / name if folder else None) for path, name in zip(given, FILES, strict=True)
    ]
    missing = [name for path, name in zip(paths, FILES, strict=True) if path is None]
    if missing:
        raise click.UsageError(
            "name the bill's folder, or " + ", ".join(f"--{name}" for name in missing)
        )
    if policy is None and folder is not None:
        policy = bill_files(folder).policy
    return replace(BillFiles(*(path for path in paths if path is not None)), policy=policy)
