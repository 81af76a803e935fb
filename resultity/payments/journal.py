"""Owns the journal of payments: what was asked of the ledger on each day, for the cap of a day.

It is no proof of anything: that an event makes credit once is the ledger's doing. A line is on disk
before the ledger is asked, so that a restart does not forget what the day has used; what turns out
to have been granted on an earlier day, or was refused, counts no more.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from resultity.payments.errors import DayCapError
from resultity.payments.port import Payment

GRANTED, EXISTS, REFUSED, ASKED = "granted", "exists", "refused", "asked"


@dataclass(slots=True)
class _Entry:
    amount: int
    granted: bool = False
    asked: int = 0
    """Questions to the ledger whose answers are not known: what they may grant stays reserved."""


class PaymentJournal:
    """One file for each UTC day in a folder that nobody else writes to. Thread-safe."""

    def __init__(self, folder: Path, day_cap: int) -> None:
        """Keep the journal in a folder; `day_cap`: microcredits that a day may grant."""
        self._folder = folder
        self._day_cap = day_cap
        self._lock = threading.Lock()
        self._day = ""
        self._entries: dict[str, _Entry] = {}

    def ask(self, payment: Payment, now_s: int) -> None:
        """Write down that the ledger is about to be asked. Raises: DayCapError, OSError."""
        name = payment.grant_id.hex()
        with self._lock:
            self._turn_to(now_s)
            before = self._entries.get(name)
            others = sum(entry.amount for entry in self._entries.values())
            others -= before.amount if before is not None else 0
            if others + payment.amount > self._day_cap:
                midnight = datetime.fromtimestamp(now_s, UTC).replace(hour=0, minute=0, second=0)
                resets = midnight + timedelta(days=1)
                raise DayCapError(
                    f"payments have granted {others} of at most {self._day_cap} microcredits on "
                    f"this UTC day, {payment.amount} more are too many; that resets at "
                    f"{resets:%Y-%m-%dT%H:%M:%SZ}",
                    int(resets.timestamp()) - now_s,
                )
            self._write(payment, ASKED, now_s)
            _count(self._entries, name, payment.amount, ASKED)

    def note(self, payment: Payment, outcome: str, now_s: int) -> None:
        """Write down what the ledger said: GRANTED, EXISTS or REFUSED."""
        name = payment.grant_id.hex()
        with self._lock:
            self._turn_to(now_s)
            self._write(payment, outcome, now_s)
            _count(self._entries, name, payment.amount, outcome)

    def _turn_to(self, now_s: int) -> None:
        day = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d")
        if day == self._day:
            return
        self._day, self._entries = day, {}
        path = self._path()
        if not path.exists():
            return
        text = path.read_bytes()
        for line in text.splitlines():
            entry = _parse(line)
            if entry is not None:
                _count(self._entries, entry["grant_id"], entry["amount"], entry["outcome"])
        if text and not text.endswith(b"\n"):  # a line that a crash has cut off
            with path.open("ab") as file:
                file.write(b"\n")

    def _path(self) -> Path:
        return self._folder / f"payments-{self._day}.jsonl"

    def _write(self, payment: Payment, outcome: str, now_s: int) -> None:
        line = json.dumps(
            {
                "at": now_s,
                "outcome": outcome,
                "provider": payment.provider,
                "event": payment.event_id,
                "grant_id": payment.grant_id.hex(),
                "account": payment.account_id,
                "namespace": payment.namespace,
                "amount": payment.amount,
            }
        )
        with self._path().open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _count(entries: dict[str, _Entry], name: str, amount: int, outcome: str) -> None:
    entry = entries.setdefault(name, _Entry(0))
    if outcome == ASKED:
        entry.asked += 1
        entry.amount = amount
        return
    entry.asked = max(0, entry.asked - 1)
    if outcome == GRANTED:
        entry.amount, entry.granted = amount, True
    elif not entry.granted and not entry.asked:
        entry.amount = 0


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        good = isinstance(entry["grant_id"], str) and type(entry["amount"]) is int
        return entry if good and isinstance(entry["outcome"], str) else None
    except (ValueError, KeyError, TypeError):
        return None
