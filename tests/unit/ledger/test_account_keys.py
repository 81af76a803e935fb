"""How an account's signing keys change, how it is recovered, how an API key gets a new secret."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.errors import (
    AccountUnknownError,
    KeyProofError,
    KeyRevokedError,
    KeyUnknownError,
    LimitError,
    NotAuthorizedError,
    OperationOrderError,
    ValueRefusedError,
)
from ledger.limits import ACCOUNT_KEYS_EVER_MAX
from p2p.account_messages import ACCOUNT_KEYS_MAX
from tests.fakes.account_world import HOUR_MS, key_change, recovery_of, rotation
from tests.fakes.ledger_world import MINT, MemoryLedger, Tenant, World, key_pair

NEW, OTHER, THIRD = key_pair(71), key_pair(72), key_pair(73)


class Bench:
    """A ledger with one account that has a namespace, an API key and credit."""

    def __init__(self) -> None:
        self.world = World()
        self.ledger = MemoryLedger(self.world)
        self.tenant: Tenant = self.world.tenant()
        self.ledger.do(*self.world.setup(self.tenant, 10_000))

    @property
    def account(self):
        return self.ledger.book.accounts[self.tenant.account_id]

    def change(self, number: int, **options):
        return self.ledger.do(key_change(self.world, self.tenant, number, **options))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_key_is_added_and_signs(bench: Bench) -> None:
    bench.change(1, added=(NEW,))
    bench.ledger.do(bench.world.revocation(bench.tenant, signer=NEW))
    assert bench.account.signing_keys == {bench.tenant.keys.public_key, NEW.public_key}


def test_after_a_rotation_old_signatures_are_refused(bench: Bench) -> None:
    before = bench.world.revocation(bench.tenant)
    bench.change(1, added=(NEW,), removed=(bench.tenant.keys,))
    for operation in (
        before,
        bench.world.opening(bench.tenant),
        bench.world.creation(bench.tenant),
        rotation(bench.world, bench.tenant, 1)[0],
        key_change(bench.world, bench.tenant, 2, added=(OTHER,)),
    ):
        with pytest.raises(NotAuthorizedError):
            bench.ledger.do(operation)
    bench.ledger.do(bench.world.revocation(bench.tenant, signer=NEW))


def test_operations_are_numbered_in_the_order_they_are_taken(bench: Bench) -> None:
    bench.change(1, added=(NEW,))
    bench.ledger.do(rotation(bench.world, bench.tenant, 1, signer=NEW)[0])
    bench.ledger.do(bench.world.revocation(bench.tenant))
    found = [(r.operation, r.purpose) for r in bench.ledger.book.new_records]
    assert found == [
        (1, "account-founding"),
        (2, "namespace-opening"),
        (3, "key-creation"),
        (4, "account-key-change"),
        (5, "api-key-rotation"),
        (6, "key-revocation"),
    ]
    assert {r.account_id for r in bench.ledger.book.new_records} == {bench.tenant.account_id}
    assert bench.account.operations == 6


def test_a_change_is_taken_once_and_in_its_order(bench: Bench) -> None:
    first = key_change(bench.world, bench.tenant, 1, added=(NEW,), removed=(bench.tenant.keys,))
    assert not bench.ledger.do(first).exists
    # Also when its signer has no say any more: it is what was done.
    assert bench.ledger.do(first).exists
    for number in (1, 3):
        with pytest.raises(OperationOrderError, match="number 2, not"):
            bench.change(number, added=(OTHER,), signer=NEW)
    bench.change(2, added=(OTHER,), signer=NEW)
    with pytest.raises(NotAuthorizedError):
        bench.ledger.do(first)
    assert bench.account.key_changes == 2


def test_the_recovery_key_takes_the_account_back(bench: Bench) -> None:
    thief = OTHER
    bench.change(1, added=(thief,), removed=(bench.tenant.keys,))
    with pytest.raises(NotAuthorizedError, match="only the recovery key"):
        bench.change(2, signer=thief, recovery=THIRD)
    # It may skip numbers, so that the thief cannot always be first.
    bench.change(1000, signer=recovery_of(), added=(NEW,), removed=(thief,), recovery=THIRD)
    assert bench.account.signing_keys == {NEW.public_key}
    assert bench.account.recovery_keys == {THIRD.public_key}
    for signer in (thief, recovery_of()):
        with pytest.raises(NotAuthorizedError):
            bench.change(1001, signer=signer, added=(key_pair(80),))
    with pytest.raises(OperationOrderError):
        bench.change(999, signer=THIRD, added=(key_pair(80),))


def test_the_recovery_key_signs_nothing_else(bench: Bench) -> None:
    for operation in (
        bench.world.revocation(bench.tenant, signer=recovery_of()),
        bench.world.opening(replace(bench.tenant, namespace="prod"), signer=recovery_of()),
    ):
        with pytest.raises(NotAuthorizedError):
            bench.ledger.do(operation)


def test_values_of_a_change_are_checked(bench: Bench) -> None:
    own = bench.tenant.keys
    for options in (
        {},
        {"added": (NEW, NEW)},
        {"added": (own,)},
        {"added": (recovery_of(),)},
        {"removed": (NEW,)},
        {"removed": (own,)},
        {"added": (NEW,), "removed": (own, own)},
        {"added": (NEW,), "recovery": NEW, "signer": recovery_of()},
        {"recovery": recovery_of(), "signer": recovery_of()},
    ):
        with pytest.raises(ValueRefusedError):
            bench.change(1, **options)
    with pytest.raises(NotAuthorizedError):
        bench.change(1, added=(NEW,), signer=MINT)
    unknown = replace(bench.tenant, account_id="acct-" + "0" * 40)
    with pytest.raises(AccountUnknownError):
        bench.ledger.do(key_change(bench.world, unknown, 1, added=(NEW,)))
    assert bench.account.key_changes == 0


def test_a_removed_key_never_comes_back(bench: Bench) -> None:
    bench.change(1, added=(NEW,))
    bench.change(2, removed=(NEW,))
    for signer in (bench.tenant.keys, recovery_of()):
        with pytest.raises(ValueRefusedError, match="had before"):
            bench.change(3, added=(NEW,), signer=signer)


def test_who_stole_a_key_cannot_fill_the_account_up(bench: Bench) -> None:
    fresh = [key_pair(100 + number) for number in range(ACCOUNT_KEYS_EVER_MAX)]
    with pytest.raises(LimitError):
        bench.change(1, added=tuple(fresh[:ACCOUNT_KEYS_MAX]))
    number, last = 0, bench.tenant.keys
    with pytest.raises(LimitError, match="need the recovery key"):
        for pair in fresh:
            bench.change(number + 1, added=(pair,), removed=(last,), signer=last)
            number, last = number + 1, pair
    bench.change(number + 1, added=(NEW,), removed=(last,), signer=recovery_of())
    assert bench.account.signing_keys == {NEW.public_key}


def test_a_rotated_api_key_has_two_secrets_for_the_grace(bench: Bench) -> None:
    world, ledger = bench.world, bench.ledger
    operation, renewed = rotation(world, bench.tenant, 1)
    assert not ledger.do(operation).exists
    assert ledger.do(operation).exists
    for tenant in (bench.tenant, renewed):
        ledger.do(world.hold(tenant, 10))
    world.now_ms += HOUR_MS - 1
    ledger.do(world.hold(bench.tenant, 10))
    world.now_ms += 1
    with pytest.raises(KeyProofError):
        ledger.do(world.hold(bench.tenant, 10))
    ledger.do(world.hold(renewed, 10))
    assert ledger.book.usage[bench.tenant.api_key.key_id].held == 40


def test_without_grace_the_old_secret_ends_at_once(bench: Bench) -> None:
    operation, renewed = rotation(bench.world, bench.tenant, 1, grace_ms=0)
    bench.ledger.do(operation)
    with pytest.raises(KeyProofError):
        bench.ledger.do(bench.world.hold(bench.tenant, 10))
    bench.ledger.do(bench.world.hold(renewed, 10))


def test_a_second_rotation_ends_the_oldest_secret(bench: Bench) -> None:
    first, renewed = rotation(bench.world, bench.tenant, 1)
    second, newest = rotation(bench.world, bench.tenant, 2, secret=2)
    bench.ledger.do(first, second)
    with pytest.raises(KeyProofError):
        bench.ledger.do(bench.world.hold(bench.tenant, 10))
    for tenant in (renewed, newest):
        bench.ledger.do(bench.world.hold(tenant, 10))


def test_a_rotation_cannot_be_replayed(bench: Bench) -> None:
    first, _ = rotation(bench.world, bench.tenant, 1)
    second, _ = rotation(bench.world, bench.tenant, 2, secret=2)
    bench.ledger.do(first, second)
    with pytest.raises(OperationOrderError):
        bench.ledger.do(first)
    with pytest.raises(OperationOrderError):
        bench.ledger.do(rotation(bench.world, bench.tenant, 4, secret=4)[0])


def test_only_the_owner_rotates_and_only_a_living_key(bench: Bench) -> None:
    world, ledger = bench.world, bench.ledger
    with pytest.raises(NotAuthorizedError):
        ledger.do(rotation(world, bench.tenant, 1, signer=MINT)[0])
    other = world.tenant(5)
    ledger.do(other.founding)
    stolen = replace(other, api_key=bench.tenant.api_key)
    with pytest.raises(KeyUnknownError):
        ledger.do(rotation(world, stolen, 1)[0])
    ledger.do(world.revocation(bench.tenant))
    with pytest.raises(KeyRevokedError):
        ledger.do(rotation(world, bench.tenant, 1)[0])
