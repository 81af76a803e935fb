"""What the service manager is told: over the socket that it names, and only then."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from resultity.service_notice import ServiceNotice


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def told(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self._socket.recv(200).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = str(tmp_path / "n") if request.param == "path" else f"@resultity-test-{os.getpid()}"
    found = Manager(name)
    yield found
    found.close()


def test_ready_and_stopping(manager: Manager) -> None:
    notice = ServiceNotice(manager.environment)
    assert manager.environment == {}  # a child has nothing to say
    notice.ready()
    notice.stopping()
    assert manager.told() == ["READY=1", "STOPPING=1"]


async def test_signs_of_life_three_times_in_the_period(
    manager: Manager, autojump_clock: trio.testing.MockClock
) -> None:
    manager.environment |= {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    notice = ServiceNotice(manager.environment)
    assert notice.watchdog_s == 30
    with trio.move_on_after(25):
        await notice.live()
    assert manager.told() == ["WATCHDOG=1"] * 3


async def test_nobody_asked(manager: Manager) -> None:
    for extra in ({}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}):
        notice = ServiceNotice({**manager.environment, **extra})
        await notice.live()  # returns
    silent = ServiceNotice({})
    silent.ready()
    await silent.live()
    assert manager.told() == []


@pytest.mark.parametrize("address", ["relative", "/nowhere/at/all", "@nobody-listens-here"])
def test_a_manager_that_is_gone_is_no_reason_to_end(address: str) -> None:
    ServiceNotice({"NOTIFY_SOCKET": address}).ready()
