"""The settlement journal: what a restart finds."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.peer import journal as module
from gateway.peer.journal import SettlementJournal, hold_of
from p2p.lease_messages import LeasedCapture, LeasedHold
from p2p.ledger_messages import CaptureLeg, CaptureRequest
from p2p.signing import Signed
from tests.fakes.trust import GATEWAY, NETWORK

LEG = CaptureLeg(Signed(b"r", bytes(32), bytes(64)), Signed(b"d", bytes(32), bytes(64)))


def hold(number: int) -> bytes:
    return bytes([number]) * 16


def capture(number: int, version: int = 0) -> Signed:
    request = CaptureRequest(bytes([version]) * 16, hold(number), (LEG,), 1)
    return GATEWAY.sign(NETWORK, request)


def owed_after(path: Path) -> dict[bytes, Signed | None]:
    journal = SettlementJournal(path)
    try:
        return journal.owed()
    finally:
        journal.close()


def test_what_a_restart_finds(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = SettlementJournal(path)
    journal.held(hold(0))
    journal.held(hold(1))
    journal.owe(hold(1), capture(1))
    journal.owe(hold(1), capture(1, version=2))
    journal.owe(hold(2), capture(2))
    journal.settled(hold(2))
    journal.flush()
    expected = {hold(0): None, hold(1): capture(1, version=2)}
    assert journal.owed() == expected
    assert path.stat().st_mode & 0o777 == 0o600
    assert owed_after(path) == expected  # the first one is not closed: as after kill -9
    journal.close()


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = SettlementJournal(path)
    journal.owe(hold(1), capture(1))
    journal.owe(hold(2), capture(2))
    journal.close()
    path.write_bytes(path.read_bytes()[:-40])
    assert owed_after(path) == {hold(1): capture(1)}
    path.write_bytes(b"nonsense\nO zz\nO 00\n\xff\xff\n" + path.read_bytes())
    assert owed_after(path) == {hold(1): capture(1)}


@given(steps=st.lists(st.tuples(st.sampled_from("HOD"), st.integers(0, 3)), max_size=30))
def test_any_history(tmp_path_factory: object, steps: list[tuple[str, int]]) -> None:
    path = tmp_path_factory.mktemp("journal") / "file"  # type: ignore[attr-defined]
    journal = SettlementJournal(path)
    model: dict[bytes, Signed | None] = {}
    for kind, number in steps:
        if kind == "H":
            journal.held(hold(number))
            model[hold(number)] = None
        elif kind == "O":
            journal.owe(hold(number), capture(number))
            model[hold(number)] = capture(number)
        else:
            journal.settled(hold(number))
            model.pop(hold(number), None)
    journal.close()
    assert owed_after(path) == model


def test_full_disk_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    monkeypatch.setattr(module, "JOURNAL_BYTES_MAX", 100)
    monkeypatch.setattr(module, "_REWRITE_PAUSE_BYTES", 100)
    journal = SettlementJournal(path)
    calls = []

    def full(*arguments: object) -> None:
        calls.append(arguments)
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", full)
        journal.owe(hold(1), capture(1))
        journal.flush()
        journal.held(hold(2))
        journal.flush()  # not tried again with every line
        assert len(calls) == 1
    assert owed_after(path) == {hold(1): capture(1), hold(2): None}
    journal.close()
    journal = SettlementJournal(path)
    for _ in range(40):
        journal.owe(hold(1), capture(1))
        journal.flush()
    assert path.stat().st_size < 10 * 2 * len(capture(1).body)  # rewritten again and again
    journal.close()


def leased_capture(number: int, lease: int) -> Signed:
    part = LeasedHold(hold(lease), hold(number), bytes(16), 5, 1, 2)
    document = LeasedCapture(GATEWAY.sign(NETWORK, part), (LEG,), 1)
    return GATEWAY.sign(NETWORK, document)


def test_leases_and_what_is_owed_from_them(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = SettlementJournal(path)
    journal.leased(hold(100), 5_000)
    journal.leased(hold(101), 6_000)
    journal.owe(hold(1), leased_capture(1, lease=100))
    journal.lease_ended(hold(101))
    journal.lease_ended(hold(102))  # never heard of
    journal.flush()
    for _ in range(2):  # the second time it was rewritten
        again = SettlementJournal(path)
        assert again.leases() == {hold(100): 5_000}
        assert again.owed() == {hold(1): leased_capture(1, lease=100)}
        assert hold_of(leased_capture(1, lease=100)) == (hold(1), hold(100))
        again.close()
    assert hold_of(capture(1)) == (hold(1), None)
    journal.close()


def test_a_torn_write_spoils_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    journal = SettlementJournal(path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda where, data: write(where, data[: len(data) // 2 + 3]))
    for number in range(5):
        journal.held(bytes([number]) * 16)
    journal.flush()
    monkeypatch.setattr(os, "write", write)
    journal.held(bytes([9]) * 16)
    journal.close()
    assert set(SettlementJournal(path).owed()) == {bytes([n]) * 16 for n in (0, 1, 2, 3, 4, 9)}
