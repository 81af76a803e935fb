"""Owns `make bench`: how fast the path of a request is, beside a bare handler in the same run.

Starts a network of real processes on loopback (bootstrap with its ledger on SQLite, one node whose
engine answers at once with 20 tokens, one gateway with one worker) and a bare FastAPI handler,
loads both in turn, and prints the figures beside the targets. Takes about five minutes, `--quick`
about one and a half. Exit code 1 if an answer was wrong (the figures mean nothing then); a target
that is missed is printed, not an error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from measuring import TOKENS, Measurements, run_memory, run_rounds, say
from processes import BenchError, running_baseline, running_network
from report import as_json, figures, print_table
from sampling import profile_network


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 short rounds, 2,000 requests")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--duration-s", type=float, help="of one load in one round")
    parser.add_argument("--profile", action="store_true", help="only: where the CPU time goes")
    given = parser.parse_args()
    rounds = given.rounds or (2 if given.quick else 5)
    duration_s = given.duration_s or (1.5 if given.quick else 3.0)
    memory_requests = 2_000 if given.quick else 10_000
    try:
        if given.profile:
            with tempfile.TemporaryDirectory(prefix="resultity-bench-") as folder:
                profile_network(Path(folder))
            return 0
        return bench(rounds, duration_s, memory_requests, as_machine=given.json)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def bench(rounds: int, duration_s: float, memory_requests: int, *, as_machine: bool) -> int:
    """Run everything and print it. Raises: BenchError."""
    measurements = Measurements()
    started_s = time.monotonic()
    machine = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory(prefix="resultity-bench-") as folder:
        say("starting the network")
        with (
            running_network(Path(folder), TOKENS) as network,
            running_baseline(network.api_key) as (baseline_url, baseline_process),
        ):
            run_memory(network, memory_requests, measurements)
            run_rounds(
                network,
                baseline_url,
                baseline_process,
                rounds=rounds,
                duration_s=duration_s,
                measurements=measurements,
            )
    machine["took_s"] = round(time.monotonic() - started_s)
    lines = figures(measurements)
    if as_machine:
        print(json.dumps(as_json(lines, measurements, machine), indent=1))
    else:
        title = (
            f"Resultity: {rounds} rounds of {duration_s:g} s, {machine['cpus']} CPUs, "
            f"Python {machine['python']}, load {machine['load_average_at_start']} at the start"
        )
        print_table(lines, measurements, title)
    return 1 if measurements.errors else 0


if __name__ == "__main__":
    sys.exit(main())
