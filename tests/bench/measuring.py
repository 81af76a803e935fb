"""Owns the measurement: interleaved rounds of baseline and gateway, medians over the rounds.

Method. In each round every kind of load runs against the baseline and then against the gateway, so
that a slow minute of the machine falls on both. CPU time is read before the load and after a pause
in which the gateway has settled what it delivered: money is part of the price of a request. Added
latency is the gateway's median minus the baseline's median of the same round; reported is the
median over the rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

import psutil
from load_generator import Load
from processes import BENCH, BenchError, Network, cpu_s, memory_mb

SETTLE_S = 1.0
"""Captures follow an answer within milliseconds; the ledger commits in groups of a few more."""
LOAD_TIMEOUT_S = 180.0
PROMPT = (
    "The harbour of the old town is quiet in the morning. A few boats leave before the sun is up, "
    "and the baker opens his door. What do people there do when the fog comes in from the sea?"
)
MODEL = "tiny-chat"
TOKENS = 20
OUTPUT_TOKENS_MAX = 32
ERRORS_SHOWN_MAX = 3


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of load."""

    name: str
    connections: int
    stream: bool = False
    interval_s: float = 0.0
    """Between the starts of a connection's requests; 0: each starts when the one before ended."""


KINDS = (
    Kind("c1", 1),
    Kind("c16", 16),
    Kind("c64", 64),
    Kind("s16", 16, stream=True),
    Kind("s16 paced", 16, stream=True, interval_s=0.25),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one kind of load saw in one round on one side."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    first_token_p50_ms: float
    cpu_ms: dict[str, float]
    """CPU-milliseconds per request of each process, with settling."""


@dataclass
class Measurements:
    """Everything that was measured. Keys of the samples are names of kinds."""

    baseline: dict[str, list[Sample]] = field(default_factory=dict)
    gateway: dict[str, list[Sample]] = field(default_factory=dict)
    memory_mb: list[dict[str, float]] = field(default_factory=list)
    """Resident memory of each process: at the start, half-way, at the end of the long run."""
    memory_requests: int = 0
    errors: int = 0
    first_errors: list[str] = field(default_factory=list)

    def note(self, load: Load) -> None:
        """Count what went wrong."""
        self.errors += load.errors
        if load.first_error and len(self.first_errors) < ERRORS_SHOWN_MAX:
            self.first_errors.append(load.first_error)


def run_load(
    base_url: str,
    key: str,
    kind: Kind,
    *,
    duration_s: float | None = None,
    requests: int | None = None,
) -> Load:
    """Run the load generator as a process of its own. Raises: BenchError."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
    body |= {"max_tokens": OUTPUT_TOKENS_MAX, "stream": kind.stream}
    command = [sys.executable, str(BENCH / "load_generator.py")]
    command += ["--url", f"{base_url}/chat/completions", "--key", key, "--body", json.dumps(body)]
    # A streamed answer may come in pieces: its first token is what is waited for.
    command += ["--expect", "word0" if kind.stream else f"word{TOKENS - 1}"]
    command += ["--connections", str(kind.connections), "--interval-s", str(kind.interval_s)]
    if duration_s is not None:
        command += ["--duration-s", str(duration_s)]
    if requests is not None:
        command += ["--requests", str(requests)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False
    )
    if result.returncode != 0:
        raise BenchError(f"the load generator failed: {result.stderr.strip()[-1000:]}")
    return Load(**json.loads(result.stdout))


def measure(
    base_url: str,
    key: str,
    kind: Kind,
    duration_s: float,
    processes: dict[str, psutil.Process],
    measurements: Measurements,
) -> Sample:
    """Run one kind of load for a time and read the processes' CPU time around it."""
    before = {name: cpu_s(process) for name, process in processes.items()}
    load = run_load(base_url, key, kind, duration_s=duration_s)
    time.sleep(SETTLE_S)
    measurements.note(load)
    served = max(1, load.requests + kind.connections)  # the warm-up requests cost as much
    return Sample(
        requests_per_s=load.requests / load.duration_s,
        p50_ms=percentile(load.latencies_ms, 50),
        p99_ms=percentile(load.latencies_ms, 99),
        first_token_p50_ms=percentile(load.first_token_ms, 50),
        cpu_ms={
            name: (cpu_s(process) - before[name]) * 1000 / served
            for name, process in processes.items()
        },
    )


def percentile(values: list[float], percent: int) -> float:
    """Give a percentile (nearest rank); NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def median(samples: list[Sample], what: str) -> float:
    """Median over rounds of one figure."""
    return statistics.median(getattr(sample, what) for sample in samples)


def median_cpu_ms(samples: list[Sample], process: str) -> float:
    """Median over rounds of one process's CPU time per request."""
    return statistics.median(sample.cpu_ms[process] for sample in samples)


def added(measurements: Measurements, kind: str, what: str) -> float:
    """Median over rounds of (gateway - baseline of the same round)."""
    pairs = zip(measurements.gateway[kind], measurements.baseline[kind], strict=True)
    return statistics.median(getattr(ours, what) - getattr(bare, what) for ours, bare in pairs)


def run_rounds(
    network: Network,
    baseline_url: str,
    baseline_process: psutil.Process,
    *,
    rounds: int,
    duration_s: float,
    measurements: Measurements,
) -> None:
    """Measure every kind of load on both sides, `rounds` times."""
    for number in range(1, rounds + 1):
        for kind in KINDS:
            say(f"round {number}/{rounds}: {kind.name}")
            bare = measure(
                baseline_url,
                network.api_key,
                kind,
                duration_s,
                {"baseline": baseline_process},
                measurements,
            )
            measurements.baseline.setdefault(kind.name, []).append(bare)
            ours = measure(
                network.base_url,
                network.api_key,
                kind,
                duration_s,
                network.processes,
                measurements,
            )
            measurements.gateway.setdefault(kind.name, []).append(ours)


def run_memory(network: Network, requests: int, measurements: Measurements) -> None:
    """Read memory before, in the middle of and after a long run at 16 connections."""
    measurements.memory_requests = requests
    read = lambda: {name: memory_mb(process) for name, process in network.processes.items()}  # noqa: E731
    measurements.memory_mb.append(read())
    for part in (1, 2):
        say(f"memory over {requests} requests: part {part}/2")
        load = run_load(network.base_url, network.api_key, KINDS[1], requests=requests // 2)
        measurements.note(load)
        time.sleep(SETTLE_S)
        measurements.memory_mb.append(read())


def say(message: str) -> None:
    """Show progress without disturbing what is printed for machines."""
    print(message, file=sys.stderr, flush=True)
