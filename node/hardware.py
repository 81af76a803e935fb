"""Owns what is found out about this machine. GPUs are known by the runtimes, which use them."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable
from pathlib import Path

import psutil

from node.runtime_messages import GpuFact
from p2p.hardware import GpuHardware, Hardware
from p2p.limits import GPUS_PER_NODE_MAX, NAME_CHARACTERS_MAX

CPUINFO = Path("/proc/cpuinfo")
CPUINFO_BYTES_MAX = 64 * 1024
CPU_KEYS = ("model name", "Hardware", "Model", "cpu model")
"""What different architectures of Linux call it."""


def detect_hardware(cpuinfo: Path = CPUINFO) -> Hardware:
    """Look at this machine (milliseconds). What cannot be found out is empty or 0."""
    return Hardware(
        cpu=shown(_cpu_name(cpuinfo)),
        cores=psutil.cpu_count(logical=False) or 0,
        threads=psutil.cpu_count() or 0,
        memory_bytes=int(psutil.virtual_memory().total),
        system=shown(f"{platform.system()} {platform.release()} {platform.machine()}"),
    )


def with_gpus(hardware: Hardware, gpus: Iterable[GpuFact]) -> Hardware:
    """Add what the runtimes found."""
    found = tuple(GpuHardware(shown(gpu.name), gpu.memory_bytes) for gpu in gpus)
    return dataclasses.replace(hardware, gpus=found[:GPUS_PER_NODE_MAX])


def describe_hardware(hardware: Hardware) -> str:
    """One line for the operator."""
    parts = [
        hardware.cpu or "unknown processor",
        f"{hardware.cores} cores ({hardware.threads} threads)",
        f"{hardware.memory_bytes / 1e9:.1f} GB",
        *(f"{gpu.name} {gpu.memory_bytes / 1e9:.1f} GB" for gpu in hardware.gpus),
        hardware.system,
    ]
    return ", ".join(parts)


def shown(text: str) -> str:
    """One printable line of bounded length."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())[:NAME_CHARACTERS_MAX]


def _cpu_name(cpuinfo: Path) -> str:
    try:
        with cpuinfo.open(errors="replace") as file:
            lines = file.read(CPUINFO_BYTES_MAX).splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    entries = dict(reversed([_entry(line) for line in lines if ":" in line]))
    return next((entries[key] for key in CPU_KEYS if entries.get(key)), platform.machine())


def _entry(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()
