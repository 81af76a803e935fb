"""Owns what a node's agent and the session's protocol cost, beside the runtime's pipe alone.

The same requests go to one runtime process twice: through its pipe, and as paid offers on a job
session (signed receipts over every frame, Noise left out) whose other end is in this process too,
so that the figure contains the gateway's decoding as well. Processor time of both processes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import psutil
from engine_load import PromptBook, Shape
from processes import BenchError, cpu_s

from node.runtime_process import RuntimeProcess
from p2p.job_messages import EndFrame
from p2p.prices import charge

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests.fakes, as the tests import them

from tests.fakes.job_desk import Desk
from tests.fakes.served_models import FakeModel


async def session_cpu_s(
    runtime: RuntimeProcess, process: psutil.Process, book: PromptBook, shape: Shape, jobs: int
) -> float:
    """Give the processor time of jobs that begin together on one session.

    Raises: BenchError if one of them is not answered in full.
    """
    desk = Desk(slots=jobs)
    desk.models.list = [FakeModel(runtime, jobs)]
    prompts = [book.next(shape.prompt_tokens) for _ in range(jobs)]
    async with desk.session():
        before_s = cpu_s(process) + time.process_time()
        for number, prompt in enumerate(prompts, start=1):
            fields = {"messages": [{"role": "user", "content": prompt}], "temperature": 0.0}
            request = json.dumps(fields).encode()
            inputs = 4 * shape.prompt_tokens + 64
            offer = desk.offer(
                number,
                request=request,
                request_hash=hashlib.sha256(request).digest(),
                input_tokens_max=inputs,
                output_tokens_max=shape.output_tokens,
            )
            cost = charge(offer.terms, inputs, shape.output_tokens)
            offer = desk.offer(
                number,
                request=request,
                request_hash=offer.request_hash,
                input_tokens_max=inputs,
                output_tokens_max=shape.output_tokens,
                maximum=cost,
            )
            desk.send_offer(offer, number)
            desk.send_voucher(offer, number)
        await desk.next(EndFrame, jobs)
        elapsed_s = cpu_s(process) + time.process_time() - before_s
    outcomes = {end.outcome for end in desk.of(EndFrame)}
    if outcomes != {"length"}:
        raise BenchError(f"jobs of a session ended with {', '.join(sorted(outcomes))}")
    return elapsed_s
