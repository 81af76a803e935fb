"""Owns `make bench`: how fast the path of a request is, beside a bare handler in the same run.

Starts a network of real processes on loopback (bootstrap with its ledger on SQLite, one node whose
engine answers at once with 20 tokens, one gateway with one worker) and a bare FastAPI handler,
loads both in turn, then the ledger at the store's port beside bare SQLite and pgbench, then lets a
policy spread among 50 peers, judges nodes by policies, and prints the figures beside the targets.
Takes about seven minutes, `--quick` about two and a half. Exit code 1 if an answer was wrong (the
figures mean nothing then), or if judging one node by one policy takes longer than it may (a gate);
any other target that is missed is printed, not an error.
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
from typing import Any

from leases import compare_leases
from ledger_large import large_figures
from ledger_rates import ledger_figures
from measuring import TOKENS, Measurements, run_memory, run_rounds, say
from processes import BenchError, running_baseline, running_network
from report import as_json, figures, print_table
from sampling import profile_network
from subcloud_index import gate_is_missed, index_figures
from subcloud_spread import spread_figures

LEDGER_JOBS = 10_000
"""Of one run at the store's port: two transfers each."""
LEDGER_ROUNDS_MAX = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 short rounds, 2,000 requests")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--duration-s", type=float, help="of one load in one round")
    parser.add_argument("--profile", action="store_true", help="only: where the CPU time goes")
    parser.add_argument("--leases", action="store_true", help="only: leases beside holds")
    parser.add_argument("--ledger", action="store_true", help="only: the ledger by itself")
    parser.add_argument(
        "--large",
        type=int,
        metavar="TRANSFERS",
        help="only: a ledger of this size (1000000), kept in the folder for the next time",
    )
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache/resultity/bench")
    given = parser.parse_args()
    rounds = given.rounds or (2 if given.quick else 5)
    duration_s = given.duration_s or (1.5 if given.quick else 3.0)
    memory_requests = 2_000 if given.quick else 10_000
    try:
        if given.profile:
            with tempfile.TemporaryDirectory(prefix="resultity-bench-") as folder:
                profile_network(Path(folder))
            return 0
        if given.leases:
            with tempfile.TemporaryDirectory(prefix="resultity-bench-") as folder:
                compare_leases(Path(folder), rounds, duration_s, as_machine=given.json)
            return 0
        if given.large or given.ledger:
            return bench_ledger(rounds, given.folder, given.large, as_machine=given.json)
        return bench(rounds, duration_s, memory_requests, as_machine=given.json)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def bench(rounds: int, duration_s: float, memory_requests: int, *, as_machine: bool) -> int:
    """Run everything and print it. Raises: BenchError."""
    measurements = Measurements()
    started_s = time.monotonic()
    machine = this_machine()
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
        lines = figures(measurements)
        lines += ledger_figures(Path(folder), LEDGER_JOBS, min(rounds, LEDGER_ROUNDS_MAX))
        lines += spread_figures(Path(folder))
        judged = index_figures()
        lines += judged
    machine["took_s"] = round(time.monotonic() - started_s)
    if as_machine:
        print(json.dumps(as_json(lines, measurements, machine), indent=1))
    else:
        title = (
            f"Resultity: {rounds} rounds of {duration_s:g} s, {machine['cpus']} CPUs, "
            f"Python {machine['python']}, load {machine['load_average_at_start']} at the start"
        )
        print_table(lines, measurements, title)
    return 1 if measurements.errors or gate_is_missed(judged[:1]) else 0


def bench_ledger(rounds: int, kept: Path, transfers: int | None, *, as_machine: bool) -> int:
    """Run the ledger's part alone, or the one of a large ledger. Raises: BenchError."""
    measurements, machine = Measurements(), this_machine()
    with tempfile.TemporaryDirectory(prefix="resultity-bench-") as folder:
        if transfers:
            lines = large_figures(kept, transfers)
        else:
            lines = ledger_figures(Path(folder), LEDGER_JOBS, rounds)
    if as_machine:
        print(json.dumps(as_json(lines, measurements, machine), indent=1))
    else:
        load = machine["load_average_at_start"]
        title = f"Resultity's ledger: {machine['cpus']} CPUs, load {load} at the start"
        print_table(lines, measurements, title)
    return 0


def this_machine() -> dict[str, Any]:
    """Say what the figures depend on."""
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
