"""Owns `bench --profile`: where gateway, node and bootstrap spend their CPU time under load."""

from __future__ import annotations

import json
from pathlib import Path

from measuring import KINDS, TOKENS, run_load, say
from processes import BENCH, REPOSITORY, running_network

PROFILE_REQUESTS = 3_000
LINES = 25


def profile_network(folder: Path) -> None:
    """Run 16 connections against a profiled network and print the top costs of each process.

    Raises: BenchError.
    """
    profiles = folder / "profiles"
    profiles.mkdir()
    environment = {
        "PYTHONPATH": str(BENCH / "profiled"),
        "RESULTITY_BENCH_PROFILE": str(profiles),
    }
    say("starting the network with samplers")
    with running_network(folder / "network", TOKENS, **environment) as network:
        load = run_load(network.base_url, network.api_key, KINDS[1], requests=PROFILE_REQUESTS)
        say(f"{load.requests} requests in {load.duration_s:.1f} s")
        if load.errors:
            say(f"{load.errors} wrong answers: {load.first_error}")
    for path in sorted(profiles.glob("*-*.json")):
        role = path.name.partition("-")[0]
        if role != "other":
            print_profile(role, json.loads(path.read_text()))


def print_profile(role: str, profile: dict[str, dict[str, float]]) -> None:
    """Print the functions below which most time is spent, and the lines that spend it."""
    for title, key in (("below these functions", "below"), ("in these lines", "own")):
        print(f"\n{role}: CPU-ms per request {title} (start and end included)")
        ordered = sorted(profile[key].items(), key=lambda item: -item[1])[: LINES * 2]
        for place, spent_s in ordered:
            print(f"  {spent_s * 1000 / PROFILE_REQUESTS:7.3f}  {short(place)}")


def short(place: str) -> str:
    """A place without the folders that everybody knows."""
    _, separator, rest = place.partition("site-packages/")
    return rest if separator else place.replace(f"{REPOSITORY}/", "")
