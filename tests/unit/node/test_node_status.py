"""What an operator sees: why a node is idle, the status file, the metrics."""

from __future__ import annotations

import dataclasses
import io
import os
import urllib.request
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from node.errors import MetricsPortError
from node.observation.observer import Observer
from node.observation.status import ModelStatus, NodeStatus, read_status
from p2p.errors import MalformedError, PeerUnavailableError
from p2p.ledger_messages import EarningsStatement
from resultity.folder_lock import locked_folder
from resultity.node_status import running_status, status_table
from tests.fakes.node_status import node_status

MODEL = ModelStatus(
    name="Tiny",
    digest="00",
    state="active",
    reason="",
    verified=True,
    loaded=True,
    slots=4,
    jobs=1,
    tokens_per_second=12.5,
    restarts=2,
    loads=1,
    memory_bytes=5_000_000,
    steps=10,
    prefill_tokens=70,
    cached_tokens=30,
    output_tokens=25,
)

ASLEEP = dataclasses.replace(
    MODEL, name="Other", state="failed", reason="its file was changed", loaded=False, jobs=0
)
STATUS = node_status(
    jobs_done=3,
    claims_waiting=2,
    tokens_per_second=12.5,
    steps=10,
    prefill_tokens=70,
    cached_tokens=30,
    output_tokens=25,
    models=(MODEL, ASLEEP),
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"jobs_running": 1}, ""),
        ({"jobs_waiting": 1, "bootstrap": ""}, ""),
        ({}, "no gateway has a job"),
        ({"gateways": 0}, "no gateway has a session"),
        ({"model_state": "failed", "models": (ASLEEP,), "gateways": 0}, "its file was changed"),
        ({"model_state": "inactive", "models": ()}, "its model is inactive"),
        ({"model_state": "none", "models": ()}, "no models"),
        ({"opens_ms": 0, "model_state": "failed"}, "works again at 1970-01-01 00:00 UTC"),
        ({"refused_recently": 3, "last_refusal": "price_too_low: 5"}, "3 offers"),
        ({"refused_recently": 3, "last_refusal": "price_too_low: 5"}, "price_too_low: 5"),
        ({"refused_recently": 3, "jobs_running": 1}, ""),
        ({"runtime_ready": False}, "no gateway has a job"),
        ({"bootstrap": "", "runtime_ready": False}, "no bootstrap"),
        ({"draining": True, "bootstrap": ""}, "draining"),
    ],
)
def test_why_it_is_idle(change: dict[str, object], words: str) -> None:
    reason = dataclasses.replace(STATUS, **change).idle_reason
    assert (reason == "") if not words else (words in reason)


def test_a_status_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    for status in (STATUS, dataclasses.replace(STATUS, earned=5, earned_unmatured=2)):
        path.write_bytes(status.to_json())
        assert read_status(path) == status
    for content in (b"", b"[]", b"{}", STATUS.to_json().replace(b"status/1", b"status/2")):
        path.write_bytes(content)
        with pytest.raises(MalformedError):
            read_status(path)


def test_a_killed_nodes_process_id_is_not_believed(tmp_path: Path) -> None:
    """`node drain` would end whichever process has the number now."""
    status = dataclasses.replace(STATUS, pid=os.getpid())
    (tmp_path / "status.json").write_bytes(status.to_json())
    assert running_status(tmp_path) is None
    with locked_folder(tmp_path):
        assert running_status(tmp_path) == status
        (tmp_path / "status.json").write_bytes(STATUS.to_json())
        assert running_status(tmp_path) is None, "of the one before: this one has written none yet"


class Node:
    """Something to look at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = 0
        self.observer = Observer(path, self.look, self.ask_earnings)

    def look(self, gateways: int, earnings: EarningsStatement | None) -> NodeStatus:
        return dataclasses.replace(
            STATUS,
            at_ms=int(trio.current_time() * 1000),
            gateways=gateways,
            earned=earnings.earned if earnings else None,
        )

    async def ask_earnings(self) -> EarningsStatement:
        self.asked += 1
        if self.asked == 1:
            raise PeerUnavailableError("no bootstrap")
        return EarningsStatement(7, 0, 1)


async def test_it_looks_every_second_and_asks_the_ledger_every_minute(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    node = Node(tmp_path / "status.json")
    released = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.observer.run)
        serve = node.observer.counting(lambda stream: released.wait())
        nursery.start_soon(serve, None)  # type: ignore[arg-type]
        await trio.sleep(2.5)
        first = read_status(node.path)
        assert (first.gateways, first.earned) == (1, None)
        released.set()
        await trio.sleep(60)
        later = read_status(node.path)
        assert (later.gateways, later.earned) == (0, 7)
        assert later.at_ms >= first.at_ms + 59_000
        nursery.cancel_scope.cancel()
    assert not node.path.exists()


async def test_prometheus_sees_what_the_operator_sees(tmp_path: Path) -> None:
    node = Node(tmp_path / "status.json")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.observer.run)
        port = await nursery.start(node.observer.serve_metrics, 0)
        while node.observer.latest is None:
            await trio.sleep(0.01)
        url = f"http://127.0.0.1:{port}/metrics"
        text = await trio.to_thread.run_sync(lambda: urllib.request.urlopen(url).read().decode())
        found = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert found["resultity_node_jobs_done_total"] == 3
        assert found["resultity_node_batch_fill"] == 2.5
        assert found["resultity_node_cached_tokens_total"] == 30
        of_models = {
            (sample.name.removeprefix("resultity_node_model_"), sample.labels["model"]): sample
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels
        }
        assert all(set(sample.labels) == {"model"} for sample in of_models.values())
        assert of_models["active", "Tiny"].value == 1
        assert of_models["active", "Other"].value == 0
        assert of_models["restarts_total", "Tiny"].value == 2
        assert of_models["memory_bytes", "Tiny"].value == 5_000_000
        assert found["resultity_node_refused_total"] == 0
        second = Node(tmp_path / "second.json")
        with pytest.raises(MetricsPortError, match=str(port)):
            await second.observer.serve_metrics(port)
        nursery.cancel_scope.cancel()


def test_every_model_is_shown_with_its_reason() -> None:
    shown = io.StringIO()
    table = status_table("node", dataclasses.replace(STATUS, memory_bytes_max=8 * 10**9), 61_000)
    Console(file=shown, width=200).print(table)
    text = shown.getvalue()
    assert "Tiny, active, 1 jobs on 4 slots, 12.5 tokens/s" in text
    assert "Other, failed (its file was changed)" in text
    assert "0.01 of 8.00 GB for models" in text
    assert "30 % of the input" in text
    assert "2.50 a step" in text
