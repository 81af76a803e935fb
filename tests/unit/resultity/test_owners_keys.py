"""An owner's files and the ledger change keys together, also when something breaks in between."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from p2p.account_file import load_account, load_or_create_account
from p2p.account_messages import KeySummary
from p2p.identity import load_key
from p2p.key_limits import KeyLimits
from resultity.account_keys import OwnersDesk, parse_public_key
from resultity.api_keys import key_as_record, key_as_text, parse_gateway, parse_source
from resultity.errors import DataFolderError, GatewayCallError, SettingsError
from tests.fakes.ledger_world import GATEWAY, NETWORK, START_MS
from tests.fakes.owners_carrier import OwnersCarrier


class Bench:
    """An account in a file, known to a ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "my.account"
        self.recovery = folder / "my.recovery.key"
        self.carrier = OwnersCarrier()
        self.first = load_or_create_account(self.path, NETWORK, lambda: START_MS)
        self.account_id = self.first.account_id
        self.carrier.operation(self.first.founding)
        self.desk = OwnersDesk(self.carrier, NETWORK, START_MS)

    def signing_keys(self) -> set[bytes]:
        return set(self.carrier.ledger.book.accounts[self.account_id].signing_keys)

    def in_file(self, name: str = "my.account") -> bytes:
        keys = load_account(self.folder / name, NETWORK)
        assert keys.account_id == self.account_id
        return keys.signing.public_key


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_rotate(bench: Bench) -> None:
    bench.desk.rotate(bench.path)
    assert bench.signing_keys() == {bench.in_file()}
    assert bench.in_file() != bench.first.signing.public_key
    assert stat.S_IMODE(bench.path.stat().st_mode) == 0o600
    bench.desk.rotate(bench.path)
    assert bench.signing_keys() == {bench.in_file()}
    assert sorted(p.name for p in bench.folder.iterdir()) == ["my.account", "my.recovery.key"]


@pytest.mark.parametrize("lost", ["lose_answers", "lose_questions"])
def test_a_rotation_that_broke_off_goes_on(bench: Bench, lost: str) -> None:
    setattr(bench.carrier, lost, 1)
    with pytest.raises(GatewayCallError):
        bench.desk.rotate(bench.path)
    bench.desk.rotate(bench.path)
    assert bench.signing_keys() == {bench.in_file()}
    assert bench.carrier.ledger.book.accounts[bench.account_id].key_changes == 1


def test_add_and_remove(bench: Bench) -> None:
    second = bench.folder / "second.account"
    bench.desk.add(bench.path, second)
    assert bench.signing_keys() == {bench.in_file(), bench.in_file("second.account")}
    # Again: it is there already.
    bench.desk.add(bench.path, second)
    bench.desk.remove(second, bench.in_file())
    assert bench.signing_keys() == {bench.in_file("second.account")}
    with pytest.raises(GatewayCallError) as caught:
        bench.desk.rotate(bench.path)
    assert caught.value.code == "not_authorized"


def test_another_accounts_file_is_not_touched(bench: Bench) -> None:
    other = bench.folder / "other.account"
    load_or_create_account(other, NETWORK, lambda: START_MS)
    before = other.read_bytes()
    with pytest.raises(DataFolderError, match="another account's"):
        bench.desk.add(bench.path, other)
    assert other.read_bytes() == before


def test_recover_when_everything_but_the_recovery_key_is_lost(bench: Bench) -> None:
    old_recovery = load_key(bench.recovery).public_key
    bench.desk.rotate(bench.path)  # as a thief would
    stolen = bench.in_file()
    bench.path.unlink()
    mine = bench.folder / "mine.account"
    bench.desk.recover(mine, bench.account_id, bench.recovery)
    account = bench.carrier.ledger.book.accounts[bench.account_id]
    assert account.signing_keys == {bench.in_file("mine.account")}
    assert account.recovery_keys == {load_key(bench.recovery).public_key} != {old_recovery}
    assert stolen in account.retired_keys
    bench.desk.rotate(mine)
    bench.desk.recover(bench.folder / "third.account", bench.account_id, bench.recovery)


@pytest.mark.parametrize("lost", ["lose_answers", "lose_questions"])
def test_a_recovery_that_broke_off_goes_on(bench: Bench, lost: str) -> None:
    mine = bench.folder / "mine.account"
    setattr(bench.carrier, lost, 1)
    with pytest.raises(GatewayCallError):
        bench.desk.recover(mine, bench.account_id, bench.recovery)
    bench.desk.recover(mine, bench.account_id, bench.recovery)
    account = bench.carrier.ledger.book.accounts[bench.account_id]
    assert account.signing_keys == {bench.in_file("mine.account")}
    assert account.recovery_keys == {load_key(bench.recovery).public_key}


def test_recover_may_keep_keys_and_needs_a_new_file(bench: Bench) -> None:
    with pytest.raises(DataFolderError, match="name a new file"):
        bench.desk.recover(bench.path, bench.account_id, bench.recovery)
    mine = bench.folder / "mine.account"
    bench.desk.recover(mine, bench.account_id, bench.recovery, keep=[bench.in_file()])
    assert bench.signing_keys() == {bench.in_file(), bench.in_file("mine.account")}


def test_public_keys_are_hex() -> None:
    assert parse_public_key("ab" * 32) == b"\xab" * 32
    for text in ("", "ab", "zz" * 32, "ab" * 33):
        with pytest.raises(SettingsError):
            parse_public_key(text)


def test_values_of_limits_are_checked_before_they_are_signed() -> None:
    assert parse_source("192.0.2.1") == "192.0.2.1/32"
    assert parse_source("2001:DB8::/32") == "2001:db8::/32"
    assert parse_gateway(GATEWAY.peer_id) == GATEWAY.peer_id
    for text in ("192.0.2.1/24", "everywhere", ""):
        with pytest.raises(SettingsError):
            parse_source(text)
    with pytest.raises(SettingsError):
        parse_gateway("my gateway")


def test_how_an_api_key_is_shown() -> None:
    limits = KeyLimits(2_000_000, 60, 0, ("192.0.2.0/24",))
    key = KeySummary(
        "a" * 16, "ci", START_MS, 0, 0, 1, START_MS + 1_000, 5_000_000, 1_000_000, 500_000,
        1_500_000, ("tiny-chat",), (), limits,
    )  # fmt: skip
    assert key_as_text(key, START_MS) == (
        "aaaaaaaaaaaaaaaa  ci                active    spent 1.500000 of 5.000000  "
        "today 1.500000 of 2.000000  60 requests/min  models tiny-chat  from 192.0.2.0/24  "
        "old secret until 2027-01-15T08:00:01Z"
    )
    shown = key_as_record(key, START_MS + 1_000)
    assert (shown["state"], shown["old_secret_until"], shown["rotations"]) == ("active", None, 1)
    assert shown["limits"]["tokens_per_minute"] is None
    assert shown["limits"]["source_networks"] == ["192.0.2.0/24"]
