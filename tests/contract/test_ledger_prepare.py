"""Tables made in a process of their own: the same as in ours, with the same refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ledger.errors import IntegrityError, StorageError
from ledger.store.database import open_engine, prepare
from ledger.store.prepare import prepare_apart
from ledger.store.schema import newest_revision, revision_of
from p2p.types import NetworkId

NETWORK = NetworkId("one-" + "1" * 32)
OTHER = NetworkId("two-" + "2" * 32)


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'ledger.sqlite'}"


def test_a_new_ledger_gets_the_newest_tables_and_its_network(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    prepare_apart(url, NETWORK)
    engine = open_engine(url, writer=True)
    with engine.begin() as connection:
        assert revision_of(connection) == newest_revision()
    prepare(engine, NETWORK)
    with pytest.raises(IntegrityError, match="one-1"):
        prepare(engine, OTHER)
    engine.dispose()
    prepare_apart(url, NETWORK)


def test_a_database_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises((StorageError, IntegrityError), match="database"):
        prepare_apart(url_of(tmp_path), NETWORK)


def test_a_bootstrap_whose_tables_are_current_does_not_load_alembic() -> None:
    script = "import sys, bootstrap.app; sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", script], timeout=60).returncode == 0
