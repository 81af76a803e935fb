"""Owns a scripted node that answers embeddings requests, and misbehaves on request."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from p2p.embeddings import vector_line
from p2p.job_messages import Offer, OutputFrame, next_output_hash
from tests.fakes import trust
from tests.fakes.gateway_world import MODEL_ADVERT, GatewayWorld
from tests.fakes.nodes import FakeNode, NodeOutput, Script

DIMENSIONS = 8
BOTH_TASKS = ("chat", "embeddings")
MODEL = trust.MODEL.model_copy(update={"tasks": BOTH_TASKS, "embedding_dimensions": (4,)})
ADVERT = replace(MODEL_ADVERT, tasks=BOTH_TASKS)


def vector_of(item: Any, dimensions: int = DIMENSIONS) -> tuple[float, ...]:
    """The vector that the fake gives for an input: the same for the same."""
    digest = hashlib.sha256(repr(item).encode()).digest()
    numbers = [byte - 127.5 for byte in digest[:dimensions]]
    length = math.sqrt(sum(number * number for number in numbers))
    packed = struct.pack(f"<{dimensions}f", *(number / length for number in numbers))
    return struct.unpack(f"<{dimensions}f", packed)


def line_of(item: Any, dimensions: int = DIMENSIONS) -> str:
    return vector_line(struct.pack(f"<{dimensions}f", *vector_of(item, dimensions)))


class _Vectors(NodeOutput):
    """`batch` vectors in each frame, without tokens."""

    def __init__(
        self, node: FakeNode, offer: Offer, offer_hash: bytes, script: Script, request: Any
    ) -> None:
        super().__init__(node, offer, offer_hash, script, request)
        dimensions = request.get("dimensions", DIMENSIONS)
        self.lines = [line_of(item, dimensions) for item in request["input"]]
        if isinstance(node, EmbeddingNode) and node.lines is not None:
            self.lines = node.lines
        self.outcome = "stop"
        self.choices = [0]
        most = script.stop_after
        self.count = len(self.lines) if most is None else min(most, len(self.lines))

    def frame(self, number: int, choice: int, start: int, end: int) -> OutputFrame | None:
        text = "".join(self.lines[start : min(end, self.count)])
        self.hash = next_output_hash(self.hash, (), text)
        return OutputFrame(number, (), text, self.receipt(False, ""))


class EmbeddingNode(FakeNode):
    """`lines`: what it says instead of the right vectors."""

    lines: list[str] | None = None

    def output_of(
        self, offer: Offer, offer_hash: bytes, script: Script, request: dict[str, Any]
    ) -> NodeOutput:
        if offer.task != "embeddings":
            return super().output_of(offer, offer_hash, script, request)
        return _Vectors(self, offer, offer_hash, script, request)


def embedding_world(
    data_dir: Path, *, model: Any = MODEL, advert: Any = ADVERT, nodes: int = 2, **options: Any
) -> GatewayWorld:
    """A gateway with nodes that chat and make embeddings."""
    world = GatewayWorld(data_dir, nodes=nodes, approved=(model,), **options)
    world.nodes = [
        EmbeddingNode(node.key_pair, node.network, node.chain, model=advert, clock_ms=node.clock_ms)
        for node in world.nodes
    ]
    return world
