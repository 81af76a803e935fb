"""Owns how fast a policy spreads: 50 peers in one process, each with its book on disk.

A bootstrap's directory (on SQLite) and 50 peers are one in-memory network: signatures, databases,
files and the protocol are the real ones; wires are not (a message takes 0.2 to 1 ms). Everything
runs on one core, so that the figure is the work of all peers together. Run it alone with
`python tests/bench/subcloud_spread.py`.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from report import Figure  # noqa: E402

from p2p.subclouds import sync  # noqa: E402
from tests.fakes.policy_owners import PolicyOwner, revocation_list  # noqa: E402
from tests.fakes.subcloud_desk import open_desk  # noqa: E402
from tests.fakes.subcloud_net import Member, memory_opener, open_net  # noqa: E402
from tests.fakes.trust import key_pair  # noqa: E402

PEERS = 50
ROUNDS = 5
SPREAD_S_MAX = 2.0
PATIENCE_S = 60.0


def spread_figures(folder: Path) -> list[Figure]:
    """Measure how long it takes until all peers have a new subcloud, version, revocation list."""
    logging.disable(logging.WARNING)
    try:
        times = trio.run(_measure, folder)
    finally:
        logging.disable(logging.NOTSET)
    return [
        Figure(
            f"{what} known to {PEERS} peers in one process",
            statistics.median(seconds) * 1000,
            "ms",
            target=SPREAD_S_MAX * 1000,
            beside=f"slowest of {len(seconds)}: {max(seconds) * 1000:.0f} ms",
        )
        for what, seconds in times.items()
    ]


async def _measure(folder: Path) -> dict[str, list[float]]:
    sync.SUBCLOUD_POLL_INTERVAL_S = 3600.0  # gossip alone: nothing is repaired by asking
    owner = PolicyOwner(1)
    times: dict[str, list[float]] = {"subcloud": [], "policy": [], "revocation list": []}
    async with open_desk(f"sqlite:///{folder / 'spread.sqlite'}") as desk:
        await desk.found(owner)
        async with open_net(desk, memory_opener()) as net:
            peers = [
                await net.join(key_pair(900 + number), folder / f"peer-{number}")
                for number in range(PEERS)
            ]
            publisher = peers[0].directory
            for number in range(ROUNDS):
                label = f"team-{number}"
                identity = owner.identity(label)
                first = owner.record(label, join="private")
                second = owner.record(after=first, join="private", contact="changed")
                revocations = revocation_list(identity, 1)
                times["subcloud"].append(
                    await _timed(publisher.publish(first), _have_version(peers, identity, 1))
                )
                times["policy"].append(
                    await _timed(publisher.publish(second), _have_version(peers, identity, 2))
                )
                times["revocation list"].append(
                    await _timed(
                        publisher.put_revocations(revocations),
                        lambda identity=identity: all(  # type: ignore[misc]
                            peer.book.revocations(identity) is not None for peer in peers
                        ),
                    )
                )
    return times


def _have_version(peers: list[Member], identity: str, version: int) -> Callable[[], bool]:
    return lambda: all(peer.version(identity) == version for peer in peers)  # type: ignore[arg-type]


async def _timed(publishing: Awaitable[object], done: Callable[[], bool]) -> float:
    started_s = trio.current_time()
    await publishing
    with trio.fail_after(PATIENCE_S):
        while not done():
            await trio.sleep(0.002)
    return trio.current_time() - started_s


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory(prefix="resultity-bench-") as folder:
        for figure in spread_figures(Path(folder)):
            print(f"{figure.name}: {figure.value:.0f} {figure.unit}; {figure.beside}")
            print(f"  {figure.verdict}")


if __name__ == "__main__":
    main()
