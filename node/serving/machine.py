"""Owns what a node says of its machine: what was detected, and the GPUs that its runtimes found."""

from __future__ import annotations

from node.hardware import with_gpus
from node.serving.models import ServedModels
from p2p.hardware import Hardware


def machine_of(hardware: Hardware, models: ServedModels) -> Hardware:
    """Give the machine as it is known now; GPUs are known once a model is loaded."""
    for model in models.local:
        facts = model.runtime_facts
        if facts is not None and facts.gpus:
            return with_gpus(hardware, facts.gpus)
    return hardware
