"""Owns how a local network's consumer gets a namespace, an API key and credit: once.

The documents are signed and kept before they are sent, so that a start that was interrupted sends
the same ones again (the ledger answers a repetition with the first result), never a second grant.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from p2p.account_file import load_or_create_account
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError
from p2p.files import write_atomically
from p2p.identity import load_key
from p2p.signing import Signed
from resultity.accounts import grant, new_key, opening
from resultity.courier import Courier
from resultity.errors import DataFolderError
from resultity.local.folders import LocalFolders

NAMESPACE = "default"
KEY_NAME = "local"
GRANT_MICROCREDITS = 10 * 10**6
DOCUMENTS_FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Opening:
    """The documents in the order in which the ledger needs them, and whether it has them."""

    documents: tuple[Signed, ...]
    done: bool


def prepare_opening(folders: LocalFolders, clock_ms: Clock) -> Opening:
    """Read the documents, or sign them and make the API key.

    Raises: DataFolderError, P2PError (damaged or readable key files).
    """
    if folders.opening_path.exists() and folders.api_key_path.exists():
        return _read(folders)
    network = folders.network.network()
    operator = load_or_create_account(folders.operator_account, network, clock_ms)
    consumer = load_or_create_account(folders.consumer_account, network, clock_ms)
    api_key, creation = new_key(consumer, network, NAMESPACE, clock_ms(), name=KEY_NAME)
    mint = load_key(folders.network.mint_path)
    credit = grant(
        mint, network, consumer.account_id, NAMESPACE, GRANT_MICROCREDITS, "welcome", clock_ms()
    )
    documents = (
        operator.founding,
        consumer.founding,
        opening(consumer, network, NAMESPACE, clock_ms()),
        creation,
        credit,
    )
    folders.write_api_key(api_key.text)
    _write(folders, Opening(documents, done=False))
    return Opening(documents, done=False)


def send_opening(folders: LocalFolders, plan: Opening, courier: Courier) -> None:
    """Have the ledger take the documents that it does not have yet (blocking).

    Raises: GatewayCallError.
    """
    if plan.done:
        return
    for document in plan.documents:
        courier.operation(document)
    _write(folders, Opening(plan.documents, done=True))


def _write(folders: LocalFolders, plan: Opening) -> None:
    content = {
        "done": plan.done,
        "documents": [
            base64.b64encode(encode_message(document)).decode("ascii")
            for document in plan.documents
        ],
    }
    data = json.dumps(content, indent=1).encode() + b"\n"
    write_atomically(folders.opening_path, data, DOCUMENTS_FILE_MODE)


def _read(folders: LocalFolders) -> Opening:
    try:
        content = json.loads(folders.opening_path.read_text(encoding="utf-8"))
        documents = tuple(
            decode_message(base64.b64decode(text), Signed) for text in content["documents"]
        )
        return Opening(documents, bool(content["done"]))
    except (OSError, ValueError, KeyError, TypeError, P2PError) as error:
        raise DataFolderError(
            f"{folders.opening_path} is damaged: remove it and start again (a new key is made)"
        ) from error
