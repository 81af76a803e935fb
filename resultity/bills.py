"""Owns a bill's folder: all that is needed to verify one answer's receipt, for ever and offline."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from p2p.certificates import Chain
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError
from p2p.files import write_atomically
from p2p.ledger_messages import ConsumerReceipt
from p2p.signing import Signed
from p2p.subclouds.policy import policy_digest
from p2p.subclouds.records import PolicyRecord
from resultity.errors import ReceiptError
from resultity.http_json import gateway_root, get_json
from resultity.network_files import read_chain, read_signed

FILES = ("request", "answer", "receipt", "configuration", "gateway-chain")
POLICY_FILE = "policy"
"""Of a job in a subcloud: the record of its policy, as the owner published it."""
RECEIPT_BYTES_MAX = 16_384
_FILE_MODE = 0o600
"""A bill has the question and the answer in it."""


@dataclass(frozen=True, slots=True)
class BillFiles:
    """Where the parts of a bill are."""

    request: Path
    answer: Path
    receipt: Path
    configuration: Path
    gateway_chain: Path
    policy: Path | None = None


@dataclass(frozen=True, slots=True)
class Bill:
    """A receipt and what it is checked against. `request` is the HTTP body as it was sent."""

    request: bytes
    answer: str
    receipt: bytes
    configuration: Signed
    gateway_chain: Chain
    policy: PolicyRecord | None = None


def bill_files(folder: Path) -> BillFiles:
    """Name the files of a bill's folder."""
    policy = folder / POLICY_FILE
    paths = [folder / name for name in FILES]
    return replace(BillFiles(*paths), policy=policy if policy.is_file() else None)


def save_bill(folder: Path, base_url: str, request: bytes, answer: str, receipt: str) -> None:
    """Keep an answer's bill, with what the gateway shows of itself and of the network now.

    Args:
        receipt: base64, as it came with the answer.
    Raises: GatewayCallError, ReceiptError, OSError.
    """
    if not receipt:
        raise ReceiptError("the answer came without a receipt")
    shown = get_json(f"{gateway_root(base_url)}/resultity/v1/network")
    try:
        configuration = base64.b64decode(shown["configuration"], validate=True)
        chain = base64.b64decode(shown["gateway_chain"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ReceiptError("the gateway does not say which network it belongs to") from error
    parts = (request, answer.encode(), receipt.encode(), configuration, chain)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in zip(FILES, parts, strict=True):
        write_atomically(folder / name, data, _FILE_MODE)
    record = _find_policy(base_url, receipt)
    if record is not None:
        write_atomically(folder / POLICY_FILE, encode_message(record), _FILE_MODE)


def _find_policy(base_url: str, receipt: str) -> PolicyRecord | None:
    """Ask for the policy that a receipt names; None if it names none, or nobody has it any more.

    Raises: GatewayCallError, ReceiptError.
    """
    try:
        signed = decode_message(base64.b64decode(receipt, validate=True), Signed)
        terms = decode_message(signed.body, ConsumerReceipt).terms
        if not terms.subcloud_id:
            return None
        name = quote(terms.subcloud_id, safe="")
        shown = get_json(f"{gateway_root(base_url)}/resultity/v1/subclouds/{name}/history")
        for text in shown["versions"]:
            record = decode_message(base64.b64decode(text, validate=True), PolicyRecord)
            if policy_digest(record.policy) == terms.policy_digest.hex():
                return record
    except (KeyError, TypeError, ValueError, P2PError) as error:
        raise ReceiptError("the gateway does not show the policy that the receipt names") from error
    return None


def read_bill(files: BillFiles) -> Bill:
    """Read a bill; nothing in it is verified yet. Raises: ReceiptError, OSError."""
    try:
        text = files.receipt.read_bytes()[:RECEIPT_BYTES_MAX].strip()
        return Bill(
            files.request.read_bytes(),
            files.answer.read_bytes().decode("utf-8"),
            base64.b64decode(text, validate=True),
            read_signed(files.configuration),
            read_chain(files.gateway_chain.read_bytes(), str(files.gateway_chain)),
            decode_message(files.policy.read_bytes(), PolicyRecord) if files.policy else None,
        )
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ReceiptError(f"the receipt must be base64, the answer UTF-8: {error}") from error
    except P2PError as error:
        raise ReceiptError(str(error)) from error
