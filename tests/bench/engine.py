"""Owns `make bench-engine`: how fast our runtime serves a model, beside two servers in one run.

Our runtime process is driven through its pipe, as the agent does; llama.cpp's `llama-server` and
`llama_cpp.server` over HTTP, all streaming, with the same model file, threads, slots, micro-batch.
Rounds interleave them, so that a slow minute of the machine falls on all; a ratio is that of the
two rates of one round, and what is reported is the median over the rounds. Nothing is downloaded
but the locked source package of llama-cpp-python and four small wheels, once, into `--folder`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import trio
from agent_overhead import session_cpu_s
from engine_answers import DEMO_MODEL, answers_figures, run_requests
from engine_load import (
    Ask,
    PromptBook,
    Shape,
    llama_cpp_server_asker,
    llama_server_asker,
    runtime_asker,
    together,
    tokens_per_s,
)
from llama_baselines import (
    Setup,
    llama_server,
    running_llama_cpp_server,
    running_llama_server,
    server_packages,
)
from measuring import Measurements, say
from processes import BenchError, cpu_s
from random_model import random_model
from report import Figure, as_json, print_table

from node.runtime.engine import EngineSettings
from node.runtime.llama.engine import open_engine
from node.runtime_command import runtime_command
from node.runtime_process import RuntimeProcess

LEVELS = (1, 2, 4, 8, 16)
SLOTS = 16
CONTEXT_TOKENS = 512
REQUESTS_MIN = 4
MODES = {"reproducible": (32, False), "throughput": (512, True)}
"""Micro-batch, and whether all sequences share one cache."""
OURS, SERVER, PYTHON_SERVER = "ours", "llama-server", "llama_cpp.server"
LONG_PROMPT_TOKENS = 4_000
PREFIX_TOKENS = 1_000
PARTS = ("rates", "latency", "overhead", "answers")


@dataclass(frozen=True, slots=True)
class Baselines:
    """What can be had of the baselines, and why not."""

    server: Path | None
    packages: Path | None
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One of what is compared."""

    ask: Ask
    process: psutil.Process


@dataclass
class Rates:
    """Tokens/s of each side at each level, one value for each round; tokens for each second of its
    processor time likewise (with one thread: its speed where nobody else is)."""

    by_side: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    by_cpu: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    def add(self, side: str, level: int, rate: float, cpu_rate: float) -> None:
        self.by_side.setdefault(side, {}).setdefault(level, []).append(rate)
        self.by_cpu.setdefault(side, {}).setdefault(level, []).append(cpu_rate)

    def median(self, side: str, level: int) -> float:
        return statistics.median(self.by_side[side][level])

    def ratio(self, side: str, level: int) -> float:
        """Median over the rounds of ours beside another side."""
        return _ratio(self.by_side[OURS][level], self.by_side[side][level])

    def cpu_ratio(self, side: str, level: int) -> str:
        """The same by processor time, in words."""
        ratio = _ratio(self.by_cpu[OURS][level], self.by_cpu[side][level])
        return f"by processor time {ratio:.2f} x"


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def find_baselines(folder: Path) -> Baselines:
    """Build or find the baselines; says what is missing."""
    server = packages = None
    missing = []
    say("llama-server: built the first time, which takes minutes")
    try:
        server = llama_server(folder)
    except BenchError as error:
        missing.append(f"no {SERVER}: {error}")
    try:
        packages = server_packages(folder)
    except BenchError as error:
        missing.append(f"no {PYTHON_SERVER}: {error}")
    return Baselines(server, packages, tuple(missing))


@contextlib.asynccontextmanager
async def running_runtime(setup: Setup) -> AsyncIterator[RuntimeProcess]:
    """Run our runtime process as the agent does."""
    command = runtime_command(
        setup.model,
        slots=setup.slots,
        context_tokens=setup.context_tokens,
        threads=setup.threads,
    )
    command += ("--mode", "throughput" if setup.unified else "reproducible")
    with open(os.devnull, "wb") as log:
        runtime = RuntimeProcess(command, log_file=log)
        async with trio.open_nursery() as nursery:
            await nursery.start(runtime.run)
            yield runtime
            nursery.cancel_scope.cancel()


async def measure_rates(setup: Setup, baselines: Baselines, rounds: int, shape: Shape) -> Rates:
    """Measure every level on every side, interleaved."""
    rates = Rates()
    async with contextlib.AsyncExitStack() as stack:
        sides: dict[str, Side] = {}
        runtime = await stack.enter_async_context(running_runtime(setup))
        assert runtime.pid is not None
        sides[OURS] = Side(runtime_asker(runtime), psutil.Process(runtime.pid))
        if baselines.server is not None:
            url, pid = stack.enter_context(running_llama_server(baselines.server, setup))
            sides[SERVER] = Side(llama_server_asker(url), psutil.Process(pid))
        if baselines.packages is not None:
            url, pid = stack.enter_context(running_llama_cpp_server(baselines.packages, setup))
            sides[PYTHON_SERVER] = Side(llama_cpp_server_asker(url), psutil.Process(pid))
        book = PromptBook()
        for side in sides.values():
            await tokens_per_s(side.ask, book, 2, shape, 2)
        for _ in range(rounds):
            for level in LEVELS:
                for name, side in sides.items():
                    before_s = cpu_s(side.process)
                    rate = await tokens_per_s(side.ask, book, level, shape, REQUESTS_MIN)
                    used_s = max(0.01, cpu_s(side.process) - before_s)
                    tokens = max(1, REQUESTS_MIN // level) * level * shape.output_tokens
                    rates.add(name, level, rate, tokens / used_s)
    return rates


def rate_figures(name: str, rates: Rates, *, python_targets: bool) -> list[Figure]:
    """Make the lines of one configuration."""
    lines = []
    for level in LEVELS:
        beside = "; ".join(
            f"{side} {rates.median(side, level):.0f}" for side in rates.by_side if side != OURS
        )
        rate = rates.median(OURS, level)
        lines.append(Figure(f"{name}, {level} at once", rate, "tok/s", beside=beside))
        if SERVER in rates.by_side:
            ratio = rates.ratio(SERVER, level)
            beside = rates.cpu_ratio(SERVER, level)
            lines.append(Figure("  / llama-server", ratio, "x", 0.9, at_least=True, beside=beside))
        if PYTHON_SERVER in rates.by_side:
            target = {8: 2.0, 16: 2.5}.get(level) if python_targets else None
            ratio = rates.ratio(PYTHON_SERVER, level)
            beside = rates.cpu_ratio(PYTHON_SERVER, level)
            lines.append(
                Figure("  / llama_cpp.server", ratio, "x", target, at_least=True, beside=beside)
            )
    return lines


async def latency_figures(model: Path, threads: int, rounds: int) -> list[Figure]:
    """Time to the first token behind a long prompt, and with a prompt's beginning in the cache."""
    setup = Setup(model, 4, LONG_PROMPT_TOKENS + 500, threads, *MODES["reproducible"])
    book = PromptBook()
    chunk_s: list[float] = []
    behind: list[float] = []
    faster: list[float] = []
    alone_s: list[float] = []
    async with running_runtime(setup) as runtime:
        private = runtime_asker(runtime)
        shared = runtime_asker(runtime, scope=b"bench-scope-0001")
        for _ in range(rounds):
            alone, short = await _short_behind_long(private, book)
            chunks = -(-LONG_PROMPT_TOKENS // 128)
            chunk_s.append(alone / chunks)
            behind.append(short / (alone / chunks))
            prefix = book.next(PREFIX_TOKENS)
            shape = Shape(PREFIX_TOKENS, 4)
            _, (cold,) = await together(shared, [prefix + "first question"], shape)
            _, (warm,) = await together(shared, [prefix + "second question"], shape)
            faster.append(cold.first_token_s / warm.first_token_s)
            alone_s.append(warm.first_token_s)
    return [
        Figure(
            "first token of 32 tokens behind a prefill of 4,000",
            statistics.median(behind),
            "chunks",
            target=3,
            beside=f"a chunk takes {1000 * statistics.median(chunk_s):.0f} ms",
        ),
        Figure(
            "first token with 1,000 of the prompt's tokens in the cache",
            statistics.median(faster),
            "x sooner",
            target=5,
            at_least=True,
            beside=f"{1000 * statistics.median(alone_s):.0f} ms",
        ),
    ]


async def _short_behind_long(ask: Ask, book: PromptBook) -> tuple[float, float]:
    """Seconds of a long prefill alone, and to the first token of a short prompt behind one."""
    shape = Shape(LONG_PROMPT_TOKENS, 1)
    _, (alone,) = await together(ask, [book.next(LONG_PROMPT_TOKENS)], shape)
    short_s = 0.0

    async def short() -> None:
        nonlocal short_s
        await trio.sleep(alone.ended_s / 3)
        _, (timed,) = await together(ask, [book.next(32)], Shape(32, 8))
        short_s = timed.first_token_s

    async with trio.open_nursery() as nursery:
        nursery.start_soon(together, ask, [book.next(LONG_PROMPT_TOKENS)], shape)
        nursery.start_soon(short)
    return alone.ended_s, short_s


async def overhead_figures(model: Path, rounds: int) -> list[Figure]:
    """Processor time of the same load in the runtime process and the agent's side of its pipe,
    and with agent and session on top, beside the engine alone in a process without any."""
    setup = Setup(model, SLOTS, CONTEXT_TOKENS, 1, *MODES["reproducible"])
    shape, book = Shape(), PromptBook()
    piped: list[float] = []
    served: list[float] = []
    engine = open_engine(EngineSettings(str(model), SLOTS, CONTEXT_TOKENS, 1))
    async with running_runtime(setup) as runtime:
        assert runtime.pid is not None
        process, ask = psutil.Process(runtime.pid), runtime_asker(runtime)
        for _ in range(rounds + 1):
            prompts = [book.next(shape.prompt_tokens) for _ in range(SLOTS)]
            before_s = cpu_s(process) + time.process_time()
            await together(ask, prompts, shape)
            piped_s = cpu_s(process) + time.process_time() - before_s
            served_s = await session_cpu_s(runtime, process, book, shape, SLOTS)
            before_s = time.process_time()
            run_requests(engine, [(1, prompt) for prompt in prompts], shape.output_tokens, 0)
            alone_s = time.process_time() - before_s
            piped.append(100 * (piped_s / alone_s - 1))
            served.append(100 * (served_s / alone_s - 1))
    # The first round pays for what is made once.
    return [
        Figure("pipe and its reader, processor time", statistics.median(piped[1:]), "%", target=5),
        Figure(
            "pipe, agent and session, processor time", statistics.median(served[1:]), "%", target=5
        ),
    ]


async def run(given: argparse.Namespace, baselines: Baselines) -> list[Figure]:
    """Measure all configurations that were asked for."""
    lines = []
    for form in given.formats if "rates" in given.parts else ():
        model = random_model(given.folder, form)
        for threads in given.threads:
            for mode in given.modes:
                name = f"{form}, {threads} thread{'s' * (threads > 1)}, {mode}"
                say(name)
                ubatch_tokens, unified = MODES[mode]
                setup = Setup(model, SLOTS, CONTEXT_TOKENS, threads, ubatch_tokens, unified)
                shape = Shape(temperature=given.temperature)
                rates = await measure_rates(setup, baselines, given.rounds, shape)
                made = rate_figures(name, rates, python_targets=form == "q4_0")
                for line in made:
                    say(f"{line.name}: {line.value:.2f} {line.unit}; {line.beside}")
                lines += made
    if "latency" in given.parts:
        say("latency")
        lines += await latency_figures(random_model(given.folder, "q4_0"), 1, given.rounds)
    if "overhead" in given.parts:
        say("overhead")
        lines += await overhead_figures(random_model(given.folder, "q4_0"), given.rounds)
    if "answers" in given.parts:
        say("answers")
        lines += count_answers(given)
    return lines


def count_answers(given: argparse.Namespace) -> list[Figure]:
    """Count answers that do not depend on their company, of the demo model and of ours."""
    models = {form: random_model(given.folder, form) for form in given.formats}
    return answers_figures({"demo model": DEMO_MODEL, **models})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--formats", nargs="+", choices=("q4_0", "q8_0"), default=["q4_0", "q8_0"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--modes", nargs="+", choices=tuple(MODES), default=list(MODES))
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache/resultity/bench")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    load = round(os.getloadavg()[0], 2)
    baselines = Baselines(None, None, ())
    try:
        if "rates" in given.parts:
            baselines = find_baselines(given.folder)
        lines = trio.run(run, given, baselines)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    machine = {"cpus": os.cpu_count(), "load_average_at_start": load, "missing": baselines.missing}
    if given.json:
        print(json.dumps(as_json(lines, Measurements(), machine), indent=1))
        return 0
    title = f"Resultity's engine: {given.rounds} rounds, {os.cpu_count()} CPUs, load {load}"
    print_table(lines, Measurements(), title)
    for reason in baselines.missing:
        print(reason)
    return 0


if __name__ == "__main__":
    sys.exit(main())
