"""Owns what a node says of its machine. Declared, never proved: nobody is paid for it.

It stands in adverts so that operators and consumers can see what a network runs on. Old adverts
have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from p2p.codec import Limit, Message, Range, message
from p2p.limits import GPUS_PER_NODE_MAX, NAME_CHARACTERS_MAX

Name = Annotated[str, Limit(NAME_CHARACTERS_MAX)]
Bytes = Annotated[int, Range(0, 2**53)]
Cores = Annotated[int, Range(0, 65_536)]


@message(171)
@dataclass(frozen=True, slots=True)
class GpuHardware(Message):
    """A GPU that the node's engine can use; `memory_bytes` 0 if it does not say."""

    name: Name
    memory_bytes: Bytes


@message(170)
@dataclass(frozen=True, slots=True)
class Hardware(Message):
    """A machine: its processor, cores (physical, and as the system counts them), memory, system."""

    cpu: Name
    cores: Cores
    threads: Cores
    memory_bytes: Bytes
    system: Name
    gpus: Annotated[tuple[GpuHardware, ...], Limit(GPUS_PER_NODE_MAX)] = ()
