"""The proof of an account's keys says what the ledger would say, for any list of key changes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import LedgerError
from p2p.account_proof import prove_account
from p2p.errors import P2PError, UntrustedError
from p2p.signing import Signed
from tests.fakes.account_world import key_change, recovery_of
from tests.fakes.ledger_world import NETWORK, MemoryLedger, World, key_pair

WORLD = World()
TENANT = WORLD.tenant()
FIRST, RECOVERY = TENANT.keys, recovery_of()
KEYS = (FIRST, RECOVERY, *(key_pair(number) for number in range(71, 75)))
some_keys = st.lists(st.sampled_from(KEYS), max_size=2).map(tuple)
changes = st.builds(
    dict,
    number=st.integers(1, 4),
    added=some_keys,
    removed=some_keys,
    signer=st.sampled_from(KEYS),
    recovery=st.sampled_from((None, None, *KEYS)),
)


@settings(max_examples=300)
@given(st.lists(changes, max_size=4))
def test_it_equals_the_ledger(entries: list[dict]) -> None:
    ledger = MemoryLedger(WORLD)
    ledger.do(TENANT.founding)
    taken: list[Signed] = []
    for entry in entries:
        change = key_change(WORLD, TENANT, **entry)
        try:
            ledger.do(change)
        except LedgerError:
            with pytest.raises(P2PError):
                prove_account(TENANT.founding.signed, [*taken, change.signed], NETWORK)
            continue
        if change.signed not in taken:  # the ledger answers a repetition, a proof has each once
            taken.append(change.signed)
    account = ledger.book.accounts[TENANT.account_id]
    proven = prove_account(TENANT.founding.signed, taken, NETWORK)
    assert proven.signing_keys == account.signing_keys
    assert {proven.recovery_key} == account.recovery_keys
    assert (proven.account_id, proven.length) == (account.account_id, account.key_changes)


def test_a_change_that_somebody_altered_is_refused() -> None:
    change = key_change(WORLD, TENANT, 1, added=(KEYS[-1],)).signed
    assert prove_account(TENANT.founding.signed, [change], NETWORK).length == 1
    for forged in (
        Signed(change.body, KEYS[-1].public_key, change.signature),
        Signed(change.body + b"\0", change.signer, change.signature),
    ):
        with pytest.raises(P2PError):
            prove_account(TENANT.founding.signed, [forged], NETWORK)


def test_another_accounts_change_is_refused() -> None:
    other = WORLD.tenant(1)
    change = key_change(WORLD, other, 1, added=(KEYS[-1],)).signed
    with pytest.raises(UntrustedError, match="another account"):
        prove_account(TENANT.founding.signed, [change], NETWORK)
