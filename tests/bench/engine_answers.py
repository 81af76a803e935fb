"""Owns the count of answers that do not depend on their company, in both modes.

Sixteen seeded requests (temperature 1, 48 tokens, prompts of different lengths) are answered alone,
then all together. No clock is involved: the figures are the same on a busy machine.
"""

from __future__ import annotations

import json
from pathlib import Path

from processes import REPOSITORY
from report import Figure

from node.runtime.batching import BatchingEngine
from node.runtime.engine import EngineSettings, JobRequest
from node.runtime.llama.engine import open_engine

DEMO_MODEL = REPOSITORY / "resultity" / "models" / "tiny-chat-q8_0.gguf"
REQUESTS = 16
OUTPUT_TOKENS = 48
CONTEXT_TOKENS = 512
TEXT = "Tell me a story about a harbour, a boat and a fox who wants to see the whole wide world. "


def answers_figures(models: dict[str, Path], threads: int = 1) -> list[Figure]:
    """Count the identical answers of each model in each mode."""
    lines = []
    for name, path in models.items():
        for mode, ubatch_tokens in (("reproducible", 32), ("throughput", 512)):
            settings = EngineSettings(str(path), REQUESTS, CONTEXT_TOKENS, threads, ubatch_tokens)
            same = identical_answers(open_engine(settings))
            target = REQUESTS if mode == "reproducible" else None
            what = f"{name}, {mode}: same answer alone and among {REQUESTS}"
            lines.append(Figure(what, same, f"of {REQUESTS}", target, at_least=True))
    return lines


def identical_answers(engine: BatchingEngine) -> int:
    """How many of the requests get the same tokens alone and together."""
    requests = [(seed, (f"{seed} " + TEXT * 6)[: 40 + 20 * seed]) for seed in range(REQUESTS)]
    alone = [run_requests(engine, [request])[0] for request in requests]
    together = run_requests(engine, requests)
    return sum(one == other for one, other in zip(alone, together, strict=True))


def run_requests(
    engine: BatchingEngine,
    requests: list[tuple[int, str]],
    output_tokens: int = OUTPUT_TOKENS,
    temperature: float = 1,
) -> list[list[int]]:
    """Answer requests (seed, prompt) together, in this process; gives their tokens."""
    answers: dict[int, list[int]] = {}
    for number, (seed, text) in enumerate(requests):
        body = {"messages": [{"role": "user", "content": text}], "temperature": temperature}
        job = engine.prepare(JobRequest(number, json.dumps(body).encode(), output_tokens, seed))
        answers[number] = []
        engine.start(job)
    while engine.busy:
        for output in engine.step().outputs:
            answers[output.number] += output.token_ids
    return list(answers.values())
