"""Owns the comparison of leases and holds: two networks, loaded in turn in the same run.

On one the gateway takes a hold at the ledger for each job, on the other it uses leases. Kinds of
load alternate between the two, so that a slow minute of the machine falls on both.
"""

from __future__ import annotations

import json
import statistics
from contextlib import ExitStack
from pathlib import Path

from measuring import KINDS, TOKENS, Measurements, Sample, measure, say
from processes import BenchError, running_network

SIDES = {"holds": "false", "leases": "true"}
COMPARED = ("c1", "c16", "s16 paced")
PROCESSES = ("gateway", "bootstrap", "node")


def compare_leases(folder: Path, rounds: int, duration_s: float, *, as_machine: bool) -> None:
    """Measure both and print medians. Raises: BenchError."""
    measurements = Measurements()
    samples: dict[tuple[str, str], list[Sample]] = {}
    with ExitStack() as stack:
        networks = {}
        for side, use in SIDES.items():
            say(f"starting the network with {side}")
            data_dir = folder / side
            data_dir.mkdir()
            networks[side] = stack.enter_context(
                running_network(data_dir, TOKENS, RESULTITY_GATEWAY_USE_LEASES=use)
            )
        for number in range(1, rounds + 1):
            for kind in (kind for kind in KINDS if kind.name in COMPARED):
                for side, network in networks.items():
                    say(f"round {number}/{rounds}: {kind.name}, {side}")
                    sample = measure(
                        network.base_url,
                        network.api_key,
                        kind,
                        duration_s,
                        network.processes,
                        measurements,
                    )
                    samples.setdefault((kind.name, side), []).append(sample)
    if measurements.errors:
        raise BenchError(f"wrong answers: {measurements.first_errors}")
    lines = [_line(kind, side, found) for (kind, side), found in samples.items()]
    if as_machine:
        print(json.dumps(lines, indent=1))
        return
    for line in lines:
        print("  ".join(f"{name} {value}" for name, value in line.items()))


def _line(kind: str, side: str, samples: list[Sample]) -> dict[str, object]:
    def middle(values: list[float]) -> float:
        return round(statistics.median(values), 2)

    line: dict[str, object] = {"load": kind, "paid by": side}
    for process in PROCESSES:
        line[f"{process} CPU ms"] = middle([sample.cpu_ms[process] for sample in samples])
    line["p50 ms"] = middle([sample.p50_ms for sample in samples])
    line["first token p50 ms"] = middle([sample.first_token_p50_ms for sample in samples])
    line["requests/s"] = middle([sample.requests_per_s for sample in samples])
    return line
