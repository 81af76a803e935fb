"""Owns the likelihood of tokens, from one row of logits. Pure.

From the logits as the model gives them, before temperature, penalties, biases and grammar (the
default of vLLM too): what the request asked for changes the draw, not what the model thought.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from p2p.logprob_messages import LOGPROB_MIN

_DIGITS = 6
"""Beyond this a float32 logit says nothing."""


def logprobs_of(logits: Any, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Give a token's logarithmic probability, and the `top` likeliest tokens with theirs.

    Args: logits: an array of float32, one for each token of the vocabulary.
    Equally likely tokens come in the order of their IDs.
    """
    row = numpy.asarray(logits, dtype=numpy.float32)
    highest = row.max()
    # Single precision is enough for the terms, and twice as fast; not for their sum.
    norm = float(highest) + math.log(numpy.exp(row - highest).sum(dtype=numpy.float64))
    count = min(top, row.size)
    best: list[tuple[int, float]] = []
    if count:
        # All that are as likely as the last one of the best: the order decides between them.
        bound = numpy.partition(row, row.size - count)[row.size - count]
        candidates = numpy.flatnonzero(row >= bound)
        order = numpy.argsort(-row[candidates], kind="stable")[:count]
        best = [(int(index), _rounded(float(row[index]) - norm)) for index in candidates[order]]
    return _rounded(float(row[token]) - norm), best


def _rounded(value: float) -> float:
    if not value >= LOGPROB_MIN:  # also where it is no number
        return LOGPROB_MIN
    return round(min(value, 0.0), _DIGITS) + 0.0  # no negative zero
