"""A bit flipped in the file of a ledger: the audit finds it wherever it changes what is stored."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path

import pytest
import trio
from sqlalchemy.exc import SQLAlchemyError

from ledger.errors import LedgerError
from ledger.store.audit.whole import audit_with_definitions
from ledger.store.database import open_engine
from ledger.store.integrity import check_integrity
from p2p.errors import P2PError
from tests.fakes.ledger_log import running_ledger, sequencer, use
from tests.fakes.ledger_world import MINT, NETWORK, World

FLIPS = 2_000 if os.environ.get("RESULTITY_SOAK") == "1" else 60
NOT_AUDITED = {
    "ledger_schema": "only what Alembic works with",
    "ledger_meta": "verified_to only says how much a start may skip; the rest is audited",
}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("used") / "ledger.db"

    async def make() -> None:
        world = World()
        async with running_ledger(f"sqlite:///{path}", world) as ledger:
            await use(ledger, world, world.tenant(), jobs=20)
            await sequencer(ledger).catch_up()

    trio.run(make)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.read_bytes()


def contents(path: Path) -> dict[str, object]:
    """All that can be read of the file: rows of each table, by the table itself and by its keys."""
    connection = sqlite3.connect(path)
    try:
        names = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        return {
            name: (sql, connection.execute(f"SELECT * FROM {name}").fetchall())
            for name, sql in names.fetchall()
            if name not in NOT_AUDITED
        } | {"sound": connection.execute("PRAGMA integrity_check(1)").fetchone()}
    except (sqlite3.Error, UnicodeError) as error:
        return {"damage": type(error).__name__}
    finally:
        connection.close()


def is_found(path: Path) -> bool:
    engine = open_engine(f"sqlite:///{path}", writer=False)
    try:
        with engine.begin() as connection:
            mints = (MINT.public_key,)
            return bool(audit_with_definitions(connection, NETWORK, mints, (), ()).problems)
    except (SQLAlchemyError, LedgerError, P2PError, UnicodeError):
        return True  # what cannot be read is reported as damage
    finally:
        engine.dispose()


@pytest.mark.timeout(1_800 if FLIPS > 100 else 120)
def test_a_flipped_bit_is_found(used: bytes, tmp_path: Path) -> None:
    path = tmp_path / "flipped.db"
    path.write_bytes(used)
    whole = contents(path)
    assert not is_found(path)
    seed = random.randrange(2**32)
    source, missed, changed = random.Random(seed), [], 0
    for _ in range(FLIPS):
        at, bit = source.randrange(100, len(used)), 1 << source.randrange(8)
        data = bytearray(used)
        data[at] ^= bit
        path.write_bytes(data)
        if contents(path) == whole:
            continue  # it fell into a place that holds nothing
        changed += 1
        if not is_found(path):
            missed.append((at, bit))
    assert missed == [], f"seed {seed}"
    assert changed > FLIPS // 10


def test_an_index_that_says_something_else_is_found(used: bytes, tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(used)
    connection = sqlite3.connect(path)
    question = "SELECT transfer_id FROM ledger_transfers"
    transfer_id: bytes = connection.execute(question).fetchone()[0]
    connection.close()
    # The table's row has the ID once, its unique index a second time.
    places = [at for at in range(len(used)) if used.startswith(transfer_id, at)]
    assert len(places) >= 2
    found = 0
    for at in places:
        data = bytearray(used)
        data[at] ^= 1
        path.write_bytes(data)
        engine = open_engine(f"sqlite:///{path}", writer=False)
        with engine.begin() as connection_of_engine:
            try:
                check_integrity(connection_of_engine)
            except LedgerError:
                found += 1
        engine.dispose()
        assert is_found(path)
    assert found >= 2
