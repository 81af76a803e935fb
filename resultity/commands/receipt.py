"""Owns `receipt verify`: a receipt against public things, by anybody, offline."""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path

import click

from p2p.types import parse_network_id
from resultity.accounts import show_credits
from resultity.errors import ReceiptError
from resultity.network_files import read_chain, read_signed
from resultity.receipts import verify_receipt
from resultity.role_process import reported_errors

EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)
RECEIPT_BYTES_MAX = 16_384


@click.group()
def receipt() -> None:
    """Verify a receipt."""


@receipt.command("verify")
@click.option("--network", "network_id", required=True, help="ID of the network.")
@click.option("--configuration", type=EXISTING, required=True, help="Signed configuration.")
@click.option("--gateway-chain", type=EXISTING, required=True, help="The gateway's certificates.")
@click.option(
    "--request", "request_file", type=EXISTING, required=True, help="Body as it was sent."
)
@click.option("--answer", "answer_file", type=EXISTING, required=True, help="The answer's text.")
@click.option("--receipt", "receipt_file", type=EXISTING, required=True, help="Base64, as it came.")
@click.option("--json", "as_json", is_flag=True)
def verify(
    network_id: str,
    configuration: Path,
    gateway_chain: Path,
    request_file: Path,
    answer_file: Path,
    receipt_file: Path,
    as_json: bool,
) -> None:
    """Check that a certified gateway billed this answer to this request at the right price."""
    with reported_errors():
        try:
            text = receipt_file.read_bytes()[:RECEIPT_BYTES_MAX].strip()
            data = base64.b64decode(text, validate=True)
            answer = answer_file.read_bytes().decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ReceiptError(f"the receipt must be base64, the answer UTF-8: {error}") from error
        verified = verify_receipt(
            network=parse_network_id(network_id),
            configuration=read_signed(configuration),
            gateway_chain=read_chain(gateway_chain.read_bytes(), str(gateway_chain)),
            receipt=data,
            request=request_file.read_bytes(),
            answer=answer,
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
        }
        if as_json:
            click.echo(json.dumps(facts))
        else:
            click.echo(
                f"verified: {bill.input_tokens} tokens in, {bill.output_tokens} out, "
                f"{show_credits(bill.charged)} credits, signed by {verified.gateway.peer_id}"
            )
