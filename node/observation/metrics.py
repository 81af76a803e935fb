"""Owns the Prometheus view of a node's status, over HTTP on the loopback.

Each scrape shows the latest status; nothing is counted here. The server is prometheus_client's own,
in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from node.observation.status import NodeStatus

_GAUGES = {
    "jobs_running": "Jobs that have a slot.",
    "jobs_waiting": "Jobs that wait for a slot.",
    "slots": "Jobs that can run at once.",
    "gateways": "Gateways with an open session.",
    "tokens_per_second": "Output of all sequences over the recent busy time.",
    "batch_fill": "Output tokens for each step of the runtime.",
    "claims_waiting": "Receipts that the ledger has not acknowledged yet.",
    "runtime_ready": "1 while the runtime of at least one model answers.",
    "draining": "1 while no new jobs are taken.",
}
_COUNTERS = {
    "jobs_done": "Jobs that ended, since the node started.",
    "runtime_restarts": "Times that a runtime was started again after it died.",
    "steps": "Steps of all runtimes.",
    "prefill_tokens": "Input tokens that were computed.",
    "cached_tokens": "Input tokens that were in the cache.",
    "output_tokens": "Tokens that were generated.",
    "refused": "Offers that were refused.",
}
_MODEL_GAUGES = {
    "loaded": "1 while a job could start at once.",
    "jobs": "Jobs of this model, waiting ones included.",
    "slots": "Jobs of this model that can run at once.",
    "tokens_per_second": "Output of this model over its recent busy time.",
    "memory_bytes": "Memory that this model counts as taking.",
}
_MODEL_COUNTERS = {
    "restarts": "Times that its runtime was started again after it died.",
    "loads": "Times that it was loaded.",
    "prefill_tokens": "Input tokens of this model that were computed.",
    "cached_tokens": "Input tokens of this model that were in the cache.",
    "output_tokens": "Tokens of this model that were generated.",
}


class StatusCollector(Collector):
    """Turns a node's latest status into metrics, `resultity_node_...`."""

    def __init__(self, status: Callable[[], NodeStatus | None]) -> None:
        """Show what `status` gives; None: nothing is known yet."""
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Give the metrics of one scrape."""
        status = self._status()
        if status is None:
            return
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"resultity_node_{name}", text, float(getattr(status, name)))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"resultity_node_{name}", text, float(getattr(status, name)))
        for name in ("earned", "earned_unmatured"):
            if (amount := getattr(status, name)) is not None:
                text = "What the account earned (microcredits), as the ledger said last."
                yield GaugeMetricFamily(f"resultity_node_{name}_microcredits", text, amount)
        yield from _of_models(status)


def _of_models(status: NodeStatus) -> Iterator[Metric]:
    """One series for each model, by its name, of which a node has a bounded number."""
    prefix = "resultity_node_model"
    active = GaugeMetricFamily(f"{prefix}_active", "1 while it may be served.", labels=["model"])
    for model in status.models:
        active.add_metric([model.name], model.state == "active")
    yield active
    for kind, texts in ((GaugeMetricFamily, _MODEL_GAUGES), (CounterMetricFamily, _MODEL_COUNTERS)):
        for name, text in texts.items():
            family = kind(f"{prefix}_{name}", text, labels=["model"])
            for model in status.models:
                family.add_metric([model.name], float(getattr(model, name)))
            yield family


@contextmanager
def serve_metrics(status: Callable[[], NodeStatus | None], port: int) -> Iterator[int]:
    """Serve metrics on the loopback; gives the port that was taken (0: any free one).

    Raises: OSError if the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
