"""Owns the sampler of one job: llama.cpp's chain, a seed of its own for every draw, the grammar."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy

from node.errors import RuntimeRefusedError
from node.runtime.sampling import SamplingSettings, draw_seed
from node.runtime.standard_error import silenced_stderr


@dataclass(frozen=True, slots=True)
class SamplerScene:
    """What the samplers of one loaded model have in common."""

    context: Any
    vocab: Any
    vocabulary_size: int
    context_tokens: int


class LlamaSampler:
    """The sampler chain of one job, in llama.cpp's usual order.

    The draw has a new seed each time.
    """

    def __init__(
        self, scene: SamplerScene, settings: SamplingSettings, seed: int, grammar_text: str | None
    ) -> None:
        """Raises: RuntimeRefusedError if llama.cpp cannot use the grammar."""
        self._scene = scene
        self._seed = seed
        self._grammar = None if grammar_text is None else _new_grammar(scene.vocab, grammar_text)
        self._random = settings.temperature > 0
        self._chain = _new_chain(scene, settings)
        if not self._random:
            llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_greedy())
        self._fixed_count = int(llama_cpp.llama_sampler_chain_n(self._chain))

    def sample(self, row: int, position: int) -> int:
        """Draw and take the token of output position `position`; -1 if no token is possible."""
        if self._random:
            self._set_draw(draw_seed(self._seed, position))
        if self._grammar is not None:
            return self._sample_by_grammar(row)
        return int(llama_cpp.llama_sampler_sample(self._chain, self._scene.context, row))

    def _set_draw(self, seed: int) -> None:
        if llama_cpp.llama_sampler_chain_n(self._chain) > self._fixed_count:
            old = llama_cpp.llama_sampler_chain_remove(self._chain, self._fixed_count)
            llama_cpp.llama_sampler_free(old)
        llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_dist(seed))

    def _sample_by_grammar(self, row: int) -> int:
        """Draw first and ask the grammar about that one token.

        Only if it objects, walk all tokens.
        """
        token = self._draw(row, constrained=False)
        if not self._allows(token):
            token = self._draw(row, constrained=True)
            if not self._allows(token):
                return -1
        self._accept(token)
        return token

    def _draw(self, row: int, *, constrained: bool) -> int:
        size = self._scene.vocabulary_size
        logits = llama_cpp.llama_get_logits_ith(self._scene.context, row)
        candidates = numpy.empty(size, dtype=_CANDIDATE)
        candidates["id"] = numpy.arange(size, dtype=numpy.int32)
        candidates["logit"] = numpy.ctypeslib.as_array(logits, (size,))
        candidates["p"] = 0.0
        array = _candidate_array(candidates)
        if constrained:
            llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            return -1
        return int(array.data[array.selected].id)

    def _allows(self, token: int) -> bool:
        if token < 0:
            return False
        candidate = numpy.zeros(1, dtype=_CANDIDATE)
        candidate["id"] = token
        array = _candidate_array(candidate)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(numpy.isfinite(candidate["logit"][0]))

    def _accept(self, token: int) -> None:
        llama_cpp.llama_sampler_accept(self._chain, token)
        if self._grammar is not None:
            llama_cpp.llama_sampler_accept(self._grammar, token)

    def replay(self, token: int) -> bool:
        """Take a token that was drawn elsewhere; the grammar is asked first, because llama.cpp ends
        the process when it has to accept what its grammar excludes."""
        if self._grammar is not None and not self._allows(token):
            return False
        self._accept(token)
        return True

    def close(self) -> None:
        """Free the chain and the grammar."""
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar is not None:
            llama_cpp.llama_sampler_free(self._grammar)
            self._grammar = None


_CANDIDATE = numpy.dtype(
    [("id", numpy.int32), ("logit", numpy.float32), ("p", numpy.float32)], align=True
)


def _candidate_array(candidates: Any) -> Any:
    array = llama_cpp.llama_token_data_array()
    array.data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
    array.size = candidates.size
    array.selected = -1
    array.sorted = False
    return array


def _new_chain(scene: SamplerScene, settings: SamplingSettings) -> Any:
    parameters = llama_cpp.llama_sampler_chain_default_params()
    parameters.no_perf = True
    chain = llama_cpp.llama_sampler_chain_init(parameters)

    def add(sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(chain, sampler)

    size = scene.vocabulary_size
    if settings.logit_bias:
        biases = (llama_cpp.llama_logit_bias * len(settings.logit_bias))(*settings.logit_bias)
        add(llama_cpp.llama_sampler_init_logit_bias(size, len(biases), biases))
    if settings.frequency_penalty or settings.presence_penalty:
        add(
            llama_cpp.llama_sampler_init_penalties(
                size,
                scene.context_tokens,
                1.0,
                settings.frequency_penalty,
                settings.presence_penalty,
            )
        )
    if settings.temperature > 0:
        if settings.top_k > 0:
            add(llama_cpp.llama_sampler_init_top_k(settings.top_k))
        if settings.top_p < 1:
            add(llama_cpp.llama_sampler_init_top_p(settings.top_p, 1))
        if settings.min_p > 0:
            add(llama_cpp.llama_sampler_init_min_p(settings.min_p, 1))
        add(llama_cpp.llama_sampler_init_temp(settings.temperature))
    return chain


def _new_grammar(vocab: Any, text: str) -> Any:
    with silenced_stderr():
        grammar = llama_cpp.llama_sampler_init_grammar(vocab, text.encode(), b"root")
    if not grammar:
        raise RuntimeRefusedError("bad_request", "the JSON schema cannot be used as a grammar")
    return grammar
