"""What a node says of its machine, and how it is bounded."""

from __future__ import annotations

from pathlib import Path

from node.hardware import describe_hardware, detect_hardware, with_gpus
from node.runtime_facts import describe
from node.runtime_messages import GpuFact, Ready, StepCostFact
from p2p.codec import decode_message, encode_message
from p2p.hardware import Hardware
from p2p.limits import GPUS_PER_NODE_MAX, NAME_CHARACTERS_MAX


def test_this_machine() -> None:
    found = detect_hardware()
    assert found.memory_bytes > 1 << 28
    assert 0 < found.cores <= found.threads
    assert decode_message(encode_message(found), Hardware) == found


def test_the_processors_name(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: Fast  CPU\x1b[31m 9\n\nmodel name\t: other\n")
    assert detect_hardware(path).cpu == "Fast CPU[31m 9"
    path.write_text("processor : 0\nHardware : A board\n")
    assert detect_hardware(path).cpu == "A board"
    path.write_text(f"model name : {'x' * 5000}\n")
    assert len(detect_hardware(path).cpu) == NAME_CHARACTERS_MAX
    assert detect_hardware(tmp_path / "nothing").cpu


def test_gpus_come_from_the_runtime() -> None:
    gpus = [GpuFact("A GPU\n" * 100, 8 << 30)] * 40
    found = with_gpus(detect_hardware(), gpus)
    assert len(found.gpus) == GPUS_PER_NODE_MAX
    assert decode_message(encode_message(found), Hardware) == found
    assert "8.6 GB" in describe_hardware(found)


def test_the_line_in_the_log() -> None:
    ready = Ready(
        1024, 8, "llama", "llama-cpp-python 0.3.36; CPU : AVX2 = 1", 1, 1280, True,
        step_costs=(StepCostFact(1, 4460), StepCostFact(8, 22710)),
    )  # fmt: skip
    line = (
        "8 slots of 1024 tokens, 1 thread, reproducible, a step takes 4.46 ms for 1, 22.7 ms for 8"
    )
    assert describe(ready) == line
    gpu = Ready(
        1024, 8, "llama", "b", 2, 1280, False, gpu_layers=33, gpus=(GpuFact("A GPU", 1),)
    )  # fmt: skip
    assert describe(gpu) == "8 slots of 1024 tokens, 2 threads, throughput, 33 layers on A GPU"
    assert ready.build.startswith("llama-cpp-python 0.3.36 ")
    assert len(ready.build) < 64
