"""Owns the making and upgrading of a ledger's tables in a process of its own.

Alembic and what it needs take 13 MB that a bootstrap would keep for as long as it runs, for work of
its first second. Run as `python -m ledger.store.prepare`: URL and network ID come as JSON on
standard input (a URL may hold a password, so it is no argument), a refusal goes back as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys

from sqlalchemy.exc import SQLAlchemyError

from ledger.errors import IntegrityError, LedgerError, StorageError
from ledger.store.database import as_ledger_error, open_engine, prepare
from ledger.store.schema import newest_revision, revision_of
from p2p.types import NetworkId, parse_network_id

PREPARE_TIMEOUT_S = 3600.0
"""An upgrade may rewrite tables of a large ledger."""


def prepare_apart(url: str, network_id: NetworkId) -> None:
    """Bring a database to the newest tables, in a child process if there is anything to do.

    Raises: IntegrityError (another network's ledger, or a newer program's), StorageError.
    """
    if _is_current(url):
        return
    child = subprocess.run(
        [sys.executable, "-P", "-m", "ledger.store.prepare"],
        input=json.dumps({"url": url, "network_id": network_id}),
        capture_output=True,
        text=True,
        timeout=PREPARE_TIMEOUT_S,
    )
    try:
        answer = json.loads(child.stdout)
    except ValueError as error:
        raise StorageError("the ledger's tables could not be made: see the log") from error
    if answer["error"] is not None:
        kind = IntegrityError if answer["kind"] == "integrity" else StorageError
        raise kind(answer["error"])


def _is_current(url: str) -> bool:
    engine = open_engine(url, writer=True)
    try:
        with engine.begin() as connection:
            return revision_of(connection) == newest_revision()
    except SQLAlchemyError as error:
        raise as_ledger_error(error) from error
    finally:
        engine.dispose()


def main() -> None:
    """Do what standard input asks for."""
    asked = json.load(sys.stdin)
    answer = {"error": None, "kind": ""}
    try:
        engine = open_engine(asked["url"], writer=True)
        prepare(engine, parse_network_id(asked["network_id"]))
        engine.dispose()
    except LedgerError as error:
        kind = "integrity" if isinstance(error, IntegrityError) else "storage"
        answer = {"error": str(error), "kind": kind}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
