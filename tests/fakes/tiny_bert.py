"""Owns a tiny BERT with random weights: an encoder that makes embeddings and cannot chat."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy

from tests.fakes.gguf_files import entry, gguf, text

WIDTH, LAYERS, HEADS, FEED_FORWARD, CONTEXT_TOKENS = 32, 2, 2, 64, 128
WORDS = ("paris", "madrid", "one", "two", "cat", "dog", "the", "is", "a", "capital", "of")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENS = (*SPECIAL, *("\u2581" + word for word in WORDS), *"abcdefghijklmnopqrstuvwxyz")
UINT32, FLOAT32, BOOL, STRING, ARRAY, INT32 = 4, 6, 7, 8, 9, 5
MEAN, CLS, LAST, RANK = 1, 2, 3, 4


def write_tiny_bert(path: Path, pooling: int = MEAN, template: str = "") -> Path:
    """Write the model; the same each time."""
    path.write_bytes(_bytes(pooling, template))
    return path


def _number(key: str, value: int) -> bytes:
    return entry(key, UINT32, struct.pack("<I", value))


def _entries(pooling: int, template: str) -> list[bytes]:
    tokens = b"".join(text(token) for token in TOKENS)
    kinds = [3 if token in SPECIAL else 1 for token in TOKENS]
    entries = [
        entry("general.architecture", STRING, text("bert")),
        entry("general.name", STRING, text("Tiny BERT")),
        _number("general.file_type", 0),
        _number("bert.context_length", CONTEXT_TOKENS),
        _number("bert.embedding_length", WIDTH),
        _number("bert.block_count", LAYERS),
        _number("bert.feed_forward_length", FEED_FORWARD),
        _number("bert.attention.head_count", HEADS),
        entry("bert.attention.layer_norm_epsilon", FLOAT32, struct.pack("<f", 1e-12)),
        entry("bert.attention.causal", BOOL, b"\0"),
        _number("bert.pooling_type", pooling),
        entry("tokenizer.ggml.model", STRING, text("bert")),
        _number("tokenizer.ggml.token_type_count", 2),
        entry("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, len(TOKENS)) + tokens),
        entry(
            "tokenizer.ggml.token_type",
            ARRAY,
            struct.pack(f"<IQ{len(kinds)}i", INT32, len(kinds), *kinds),
        ),
        _number("tokenizer.ggml.padding_token_id", 0),
        _number("tokenizer.ggml.unknown_token_id", 1),
        _number("tokenizer.ggml.cls_token_id", 2),
        _number("tokenizer.ggml.bos_token_id", 2),
        _number("tokenizer.ggml.seperator_token_id", 3),
        _number("tokenizer.ggml.eos_token_id", 3),
        _number("tokenizer.ggml.mask_token_id", 4),
    ]
    if template:
        entries.append(entry("tokenizer.chat_template", STRING, text(template)))
    return entries


def _shapes() -> list[tuple[str, tuple[int, ...]]]:
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (WIDTH, len(TOKENS))),
        ("token_types.weight", (WIDTH, 2)),
        ("position_embd.weight", (WIDTH, CONTEXT_TOKENS)),
    ]
    square, up, down = (WIDTH, WIDTH), (WIDTH, FEED_FORWARD), (FEED_FORWARD, WIDTH)
    norms = ["token_embd_norm"]
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for name, shape in (
            ("attn_q", square), ("attn_k", square), ("attn_v", square), ("attn_output", square),
            ("ffn_up", up), ("ffn_down", down),
        ):  # fmt: skip
            shapes += [(f"{block}.{name}.weight", shape), (f"{block}.{name}.bias", shape[1:])]
        norms += [f"{block}.attn_output_norm", f"{block}.layer_output_norm"]
    for norm in norms:
        shapes += [(f"{norm}.weight", (WIDTH,)), (f"{norm}.bias", (WIDTH,))]
    return shapes


def _bytes(pooling: int, template: str) -> bytes:
    generator = numpy.random.default_rng(7)
    tensors, data = [], b""
    for name, shape in _shapes():
        head = text(name) + struct.pack("<I", len(shape))
        tensors.append(head + struct.pack(f"<{len(shape)}QIQ", *shape, 0, len(data)))
        size = int(numpy.prod(shape))
        values = generator.normal(0.0, 0.3, size)
        if "norm.weight" in name:
            values = numpy.ones(size)
        data += values.astype("<f4").tobytes()
        data += bytes(-len(data) % 32)
    return gguf(entries=_entries(pooling, template), tensors=tensors, data=data)


def some_text(words: int, seed: int = 1) -> str:
    """A text of known words: so many tokens, and two more around it."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))
