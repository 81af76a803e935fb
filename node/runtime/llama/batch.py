"""Owns the batch that llama.cpp computes in one step."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp
import numpy

from node.runtime.model import Chunk


class Batch:
    """llama.cpp's batch on arrays of our own, so that filling it costs no call for each field."""

    def __init__(self, size: int) -> None:
        self._tokens, self._positions, self._sequences = (
            numpy.zeros(size, numpy.int32) for _ in range(3)
        )
        self._sequence_counts = numpy.ones(size, numpy.int32)
        self._wanted = numpy.zeros(size, numpy.int8)
        pointer = ctypes.POINTER(llama_cpp.llama_seq_id)
        base = self._sequences.ctypes.data
        self._sequence_pointers = (pointer * size)(
            *[ctypes.cast(base + 4 * index, pointer) for index in range(size)]
        )
        self.batch = llama_cpp.llama_batch(
            0,
            self._tokens.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token)),
            None,
            self._positions.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_pos)),
            self._sequence_counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            ctypes.cast(self._sequence_pointers, ctypes.POINTER(pointer)),
            self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, chunks: Sequence[Chunk], *, all_wanted: bool = False) -> list[int]:
        """Write the chunks into the arrays; gives the row of each chunk's last token.

        `all_wanted`: what is computed for every token is wanted, not for the last ones only.
        """
        rows = []
        start = 0
        self._wanted[:] = 0
        for chunk in chunks:
            end = start + len(chunk.tokens)
            self._tokens[start:end] = chunk.tokens
            self._positions[start:end] = range(chunk.position, chunk.position + len(chunk.tokens))
            self._sequences[start:end] = chunk.sequence
            self._wanted[end - 1] = chunk.sampled
            rows.append(end - 1)
            start = end
        if all_wanted:
            self._wanted[:start] = 1
        self.batch.n_tokens = start
        return rows
