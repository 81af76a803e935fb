"""Owns the model of the engine's benchmark: a llama of 112 million random parameters.

What a step costs depends on shapes and formats, not on what the weights say, so nothing is
downloaded. The vocabulary has the 256 bytes and words; a prompt of ASCII text without merges has
one token for each character, so its length in tokens is known. The output rows of bytes and of the
end token are zero: a greedy answer never ends by itself and never has half a character.
Format: GGUF 3 (ggml/docs/gguf.md); blocks of q4_0 and q8_0 as in ggml-common.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy

WIDTH = 768
LAYERS = 10
HEADS = 12
HEADS_KV = 4
FEED_FORWARD = 2048
VOCABULARY = 32_000
CONTEXT_TOKENS = 8192
BLOCK = 32
SPREAD = 0.02
"""Standard deviation of a weight, as models are initialised with."""
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
ALIGNMENT = 32
VERSION = 2
"""Of what this file makes; part of the cached file's name."""
FORMATS = {"q4_0": (2, 2, 18), "q8_0": (8, 7, 34)}
"""Number of the tensor type, of `general.file_type`, bytes of a block of 32 weights."""
F32 = 0
UINT32, FLOAT32, BOOL, STRING, ARRAY, INT32 = 4, 6, 7, 8, 9, 5


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: rows of `columns` weights; a format's name or `f32`."""

    name: str
    rows: int
    columns: int
    format: str
    zero_rows: int = 0

    @property
    def size_bytes(self) -> int:
        if self.format == "f32":
            return 4 * self.rows * self.columns
        return self.rows * self.columns // BLOCK * FORMATS[self.format][2]


def random_model(folder: Path, format_name: str) -> Path:
    """Give the path of the model in one format; made if it is not there yet (seconds)."""
    path = folder / f"random-112m-{format_name}-v{VERSION}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            _write(file, format_name)
        partial.rename(path)
    return path


def _tensors(form: str) -> list[Tensor]:
    tokens_without_end = 257
    tensors = [
        Tensor("token_embd.weight", VOCABULARY, WIDTH, form),
        Tensor("output_norm.weight", 1, WIDTH, "f32"),
        Tensor("output.weight", VOCABULARY, WIDTH, form, zero_rows=tokens_without_end),
    ]
    kv_width = WIDTH // HEADS * HEADS_KV
    for layer in range(LAYERS):
        for name, rows, columns, kind in (
            ("attn_norm", 1, WIDTH, "f32"),
            ("attn_q", WIDTH, WIDTH, form),
            ("attn_k", kv_width, WIDTH, form),
            ("attn_v", kv_width, WIDTH, form),
            ("attn_output", WIDTH, WIDTH, form),
            ("ffn_norm", 1, WIDTH, "f32"),
            ("ffn_gate", FEED_FORWARD, WIDTH, form),
            ("ffn_up", FEED_FORWARD, WIDTH, form),
            ("ffn_down", WIDTH, FEED_FORWARD, form),
        ):
            tensors.append(Tensor(f"blk.{layer}.{name}.weight", rows, columns, kind))
    return tensors


def _write(file: BinaryIO, form: str) -> None:
    tensors = _tensors(form)
    metadata = list(_metadata(form))
    file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata)))
    for entry in metadata:
        file.write(entry)
    offset = 0
    for tensor in tensors:
        shape = (tensor.columns,) if tensor.rows == 1 else (tensor.columns, tensor.rows)
        kind = F32 if tensor.format == "f32" else FORMATS[tensor.format][0]
        file.write(_text(tensor.name) + struct.pack("<I", len(shape)))
        file.write(struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset))
        offset += -(-tensor.size_bytes // ALIGNMENT) * ALIGNMENT
    generator = numpy.random.default_rng(1)
    for tensor in tensors:
        file.write(bytes(-file.tell() % ALIGNMENT))
        file.write(_data(tensor, generator))
    file.write(bytes(-file.tell() % ALIGNMENT))


def _data(tensor: Tensor, generator: numpy.random.Generator) -> bytes:
    if tensor.format == "f32":
        return numpy.ones(tensor.rows * tensor.columns, numpy.float32).tobytes()
    block_bytes = FORMATS[tensor.format][2]
    blocks = tensor.rows * tensor.columns // BLOCK
    data = generator.integers(0, 256, (blocks, block_bytes), numpy.uint8)
    # Uniform over 16 or 256 levels around zero: the spread of the levels times the scale.
    level_spread = (16 if tensor.format == "q4_0" else 256) / 12**0.5
    scale = numpy.array([SPREAD / level_spread], numpy.float16)
    data[:, :2] = scale.view(numpy.uint8)
    zero_blocks = tensor.zero_rows * tensor.columns // BLOCK
    data[:zero_blocks, :2] = 0
    return data.tobytes()


def _metadata(form: str) -> Iterator[bytes]:
    yield _entry("general.architecture", STRING, "llama")
    yield _entry("general.name", STRING, f"random 112M {form}")
    yield _entry("general.file_type", UINT32, FORMATS[form][1])
    yield _entry("llama.context_length", UINT32, CONTEXT_TOKENS)
    yield _entry("llama.embedding_length", UINT32, WIDTH)
    yield _entry("llama.block_count", UINT32, LAYERS)
    yield _entry("llama.feed_forward_length", UINT32, FEED_FORWARD)
    yield _entry("llama.attention.head_count", UINT32, HEADS)
    yield _entry("llama.attention.head_count_kv", UINT32, HEADS_KV)
    yield _entry("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5)
    yield _entry("llama.rope.dimension_count", UINT32, WIDTH // HEADS)
    yield _entry("llama.rope.freq_base", FLOAT32, 10_000.0)
    yield _entry("llama.vocab_size", UINT32, VOCABULARY)
    yield _entry("tokenizer.ggml.model", STRING, "gpt2")
    yield _entry("tokenizer.ggml.pre", STRING, "gpt-2")
    tokens = [*_byte_names(), "<|end|>"]
    tokens += [f"\u0120w{number}" for number in range(VOCABULARY - len(tokens))]
    kinds = [1] * VOCABULARY
    kinds[256] = 3  # control
    yield _array("tokenizer.ggml.tokens", STRING, [_text(token) for token in tokens])
    yield _array("tokenizer.ggml.token_type", INT32, [struct.pack("<i", kind) for kind in kinds])
    # A merge that no text of ours meets; a list without any is refused.
    yield _array("tokenizer.ggml.merges", STRING, [_text("\u0120 \u0120")])
    yield _entry("tokenizer.ggml.bos_token_id", UINT32, 256)
    yield _entry("tokenizer.ggml.eos_token_id", UINT32, 256)
    yield _entry("tokenizer.ggml.add_bos_token", BOOL, False)
    yield _entry("tokenizer.chat_template", STRING, TEMPLATE)


def _byte_names() -> list[str]:
    """The names that GPT-2's tokenizer gives to the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    names = {byte: chr(byte) for byte in shown}
    names |= {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return [names[byte] for byte in range(256)]


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _entry(key: str, kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(key) + struct.pack("<I", kind) + _text(value)
    form = {UINT32: "<I", FLOAT32: "<f", BOOL: "<?"}[kind]
    return _text(key) + struct.pack("<I", kind) + struct.pack(form, value)


def _array(key: str, kind: int, elements: list[bytes]) -> bytes:
    head = _text(key) + struct.pack("<IIQ", ARRAY, kind, len(elements))
    return head + b"".join(elements)
