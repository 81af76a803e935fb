"""Owns the sampler of `bench --profile`: it is on the path of profiled processes only.

A thread looks at every other thread's stack every 2 ms and charges it with the CPU time which that
thread used since the last look. At the end of the process the sums are written as one JSON file
into the folder that RESULTITY_BENCH_PROFILE names.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections import Counter
from types import FrameType

INTERVAL_S = 0.002
SWITCH_INTERVAL_S = 0.0002
"""The usual 5 ms would show threads mostly where they let go of the interpreter by themselves."""
DEPTH_MAX = 60


class Sampler:
    """CPU seconds by line: where it was used, and below which lines."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.below: Counter[str] = Counter()
        self.total_s = 0.0
        self._used_s: dict[int, float] = {}
        self._stopped = False

    def run(self) -> None:
        me = threading.get_ident()
        while not self._stopped:
            time.sleep(INTERVAL_S)
            for thread, frame in sys._current_frames().items():
                if thread != me:
                    self._charge(thread, frame)

    def _charge(self, thread: int, frame: FrameType | None) -> None:
        try:
            used_s = time.clock_gettime(time.pthread_getcpuclockid(thread))
        except OSError:
            return  # it has just ended
        spent_s = used_s - self._used_s.get(thread, used_s)
        self._used_s[thread] = used_s
        if spent_s <= 0:
            return
        self.total_s += spent_s
        seen = set()
        depth = 0
        while frame is not None and depth < DEPTH_MAX:
            code = frame.f_code
            place = f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}"
            function = f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}"
            if depth == 0:
                self.own[place] += spent_s
            if function not in seen:
                seen.add(function)
                self.below[function] += spent_s
            frame = frame.f_back
            depth += 1

    def write(self, folder: str) -> None:
        self._stopped = True
        time.sleep(5 * INTERVAL_S)
        role = next(
            (word for word in sys.argv if word in ("gateway", "node", "bootstrap")), "other"
        )
        content = {"total_s": self.total_s, "own": self.own, "below": self.below}
        with open(os.path.join(folder, f"{role}-{os.getpid()}.json"), "w") as file:
            json.dump(content, file)


if folder := os.environ.get("RESULTITY_BENCH_PROFILE"):
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    sampler = Sampler()
    threading.Thread(target=sampler.run, daemon=True).start()
    atexit.register(sampler.write, folder)
