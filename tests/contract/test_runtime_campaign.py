"""Two hundred random jobs against the real runtime: nothing leaks, nobody hears another's answer.

Each answer was asked for alone before; in the crowd it must be the same, token for token, and it
has its own marker. With RESULTITY_SOAK=1 a hundred times as many, and the memory is watched.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from node.limits import RUNTIME_JOBS_MAX
from node.runtime_process import RuntimeProcess, runtime_command
from node.serving.memory import measured_bytes
from tests.fakes.job_desk import Desk
from tests.fakes.runtime_campaign import TOKENS_MAX, Campaign, Heard, Known, ask_alone

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "resultity" / "models" / "tiny-chat-q8_0.gguf"
SOAK = os.environ.get("RESULTITY_SOAK") == "1"
JOBS = 20_000 if SOAK else 200
JOBS_OF_A_SESSION = 25
AT_ONCE = 12
SLOTS = 4
HANG_GUARD_S = 1800 if SOAK else 100


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.01)


async def check_nothing_leaked(runtime: RuntimeProcess, desk: Desk, known: Known) -> None:
    """Everything is free: every job that fits can be prepared, every slot can run."""
    await until(lambda: desk.agent.jobs == 0 and not runtime._jobs)
    assert desk.model.jobs == 0
    await until(lambda: (runtime.stats.running, runtime.stats.waiting) == (0, 0))
    prepared = [
        await runtime.prepare(known.request, output_tokens_max=TOKENS_MAX, seed=0)
        for _ in range(RUNTIME_JOBS_MAX)
    ]
    running = [Heard() for _ in range(SLOTS)]
    for job, heard in zip(prepared, running, strict=False):
        runtime.start(job.number, heard)
    for job in prepared[SLOTS:]:
        runtime.cancel(job.number)
    for heard in running:
        await heard.ended.wait()
        assert heard.outcome in ("stop", "length")
    assert not runtime._jobs


@pytest.mark.timeout(HANG_GUARD_S + 20)
async def test_random_jobs_leak_nothing_and_hear_only_their_own() -> None:
    draw = random.Random(20_261_121)
    command = runtime_command(MODEL, slots=SLOTS, context_tokens=512, threads=1)
    runtime = RuntimeProcess(command)
    memory: list[int] = []
    with trio.fail_after(HANG_GUARD_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(runtime.run)
            pid = runtime.pid
            assert pid is not None
            known = await ask_alone(runtime, draw, 15)
            assert len(known) >= 25, "the demo model answers sums, and schemas force markers"
            desk = Desk(slots=SLOTS, queue_jobs_max=AT_ONCE)
            desk.model.hands = runtime
            campaign = Campaign(desk, known, draw)
            for number in range(JOBS // JOBS_OF_A_SESSION):
                await campaign.session(JOBS_OF_A_SESSION, at_once=AT_ONCE, cut_off=number % 3 == 1)
                if number % 80 == 79:
                    memory.append(measured_bytes(pid))
            await check_nothing_leaked(runtime, desk, known[0])
            assert (runtime.pid, runtime.restarts) == (pid, 0)
            nursery.cancel_scope.cancel()
    print(dict(campaign.outcomes), [size // 1024 for size in memory])
    seen = campaign.outcomes
    assert seen["stop"] > 20
    assert seen["cancelled"] + seen["cancelled resumed"] > 5
    assert seen["stop resumed"] > 5
    assert seen["bad_request"] > 5
    assert seen["never paid"] > 5
    if SOAK:  # flat: the last tenth is not above the first by more than noise
        assert max(memory[-3:]) < 1.1 * max(memory[:3]), memory
