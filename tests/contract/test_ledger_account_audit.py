"""An account's signed operations, taken again: whatever is changed in the database is found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from ledger.operations import Operation
from ledger.store.audit.whole import audit
from ledger.store.database import open_engine, prepare
from ledger.store.group import Store
from p2p.key_limits import KeyLimits
from p2p.ledger_messages import TransferResult
from tests.fakes.account_world import key_change, recovery_of, rotation
from tests.fakes.ledger_world import NETWORK, World, key_pair

NEW, OTHER, THIRD = key_pair(71), key_pair(72), key_pair(73)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Two accounts; the first has changed, rotated, revoked and recovered keys."""
    writer = open_engine(url, writer=True)
    prepare(writer, NETWORK)
    store, world = Store(writer), World()
    one, two = world.tenant(0), world.tenant(1)
    operations: list[Operation] = [
        one.founding,
        two.founding,
        world.opening(one),
        world.opening(two),
        world.creation(two),
        world.creation(one, limits=KeyLimits(1_000, 2, 3, ("192.0.2.0/24",))),
        key_change(world, one, 1, added=(NEW,), removed=(one.keys,)),
        rotation(world, one, 1, signer=NEW)[0],
        key_change(world, one, 9, signer=recovery_of(), added=(OTHER,), recovery=THIRD),
        world.revocation(one, signer=OTHER),
    ]
    for operation in operations:
        world.now_ms += 1_000
        (outcome,) = store.apply([operation], world.now_ms)
        assert isinstance(outcome, TransferResult), outcome
    store.close()
    writer.dispose()
    found = create_engine(url)
    yield found
    found.dispose()


def problems(engine: Engine) -> list[str]:
    with engine.begin() as connection:
        return list(audit(connection, NETWORK, frozenset()).problems)


def tamper(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for name in connection.execute(text(triggers)).scalars().all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("SET session_replication_role = replica"))
        for statement in statements:
            assert connection.execute(text(statement)).rowcount, statement


def test_an_honest_ledger_verifies(engine: Engine) -> None:
    assert problems(engine) == []


def test_operations_from_before_they_were_numbered_verify(engine: Engine) -> None:
    tamper(
        engine,
        "UPDATE ledger_accounts SET operations = operations - 3",
        "UPDATE ledger_api_keys SET created_ms = 0",
        "UPDATE ledger_records SET account_id = '', operation = 0 WHERE operation <= 3",
        "UPDATE ledger_records SET operation = operation - 3 WHERE operation > 3",
    )
    assert problems(engine) == []
    tamper(engine, "UPDATE ledger_accounts SET operations = operations + 3")
    assert problems(engine)


ZERO = "'acct-" + "0" * 40 + "'"
OF_A_KEY = "purpose = 'account-key-change' AND operation = 4"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_account_keys SET removed_ms = 0 WHERE removed_ms > 0",
        "UPDATE ledger_account_keys SET purpose = 'signing' WHERE removed_ms = 0",
        "DELETE FROM ledger_account_keys WHERE removed_ms > 0",
        "UPDATE ledger_accounts SET key_changes = 10 WHERE key_changes = 9",
        "UPDATE ledger_accounts SET operations = operations + 1",
        "UPDATE ledger_api_keys SET revoked_ms = 0 WHERE revoked_ms > 0",
        "UPDATE ledger_api_keys SET generation = 0 WHERE generation = 1",
        "UPDATE ledger_api_keys SET credit_cap_total = 7",
        "UPDATE ledger_api_keys SET hold_key = previous_hold_key WHERE generation = 1",
        "UPDATE ledger_api_keys SET expires_ms = 99",
        f"DELETE FROM ledger_records WHERE {OF_A_KEY}",
        "DELETE FROM ledger_records WHERE purpose = 'account-founding'",
        "UPDATE ledger_records SET at_ms = at_ms + 1 WHERE purpose = 'key-revocation'",
        "UPDATE ledger_records SET operation = operation + 1 WHERE operation = 7",
        f"UPDATE ledger_records SET account_id = {ZERO} WHERE purpose = 'key-revocation'",
        "UPDATE ledger_records SET subject = 'x' WHERE purpose = 'namespace-opening'",
        "UPDATE ledger_records SET purpose = 'x' WHERE purpose = 'namespace-opening'",
    ],
)
def test_whatever_is_changed_is_found(engine: Engine, statement: str) -> None:
    tamper(engine, statement)
    assert problems(engine)


def test_a_flipped_bit_in_any_record_is_found(engine: Engine) -> None:
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT digest, signed FROM ledger_records")).all()
    for digest, signed in rows:
        for place in (5, len(signed) // 2, len(signed) - 5):
            changed = bytearray(signed)
            changed[place] ^= 1
            for value in (bytes(changed), bytes(signed)):
                tamper(engine, "UPDATE ledger_meta SET value = value")
                with engine.begin() as connection:
                    if engine.dialect.name == "postgresql":
                        connection.execute(text("SET session_replication_role = replica"))
                    connection.execute(
                        text("UPDATE ledger_records SET signed = :s WHERE digest = :d"),
                        {"s": value, "d": digest},
                    )
                assert bool(problems(engine)) is (value != bytes(signed))


def test_operations_in_another_order_are_found(engine: Engine) -> None:
    """The rotation of the API key before the change that added its signer."""
    tamper(
        engine,
        "UPDATE ledger_records SET operation = 99 WHERE purpose = 'api-key-rotation'",
        f"UPDATE ledger_records SET operation = 5 WHERE {OF_A_KEY}",
        "UPDATE ledger_records SET operation = 4 WHERE operation = 99",
    )
    assert any("this is not signed by a key" in problem for problem in problems(engine))
