"""Owns llama.cpp: the only importer of `llama_cpp`; a loaded model, its cache and samplers.

Settings and their reasons (measured, llama-cpp-python 0.3.36 on CPU, see docs/explanation):
- `n_ubatch` 32, flash attention fixed on: from 64 rows another attention kernel's sums differ.
  Below, a sequence's logits are bitwise the same alone and in any batch ("reproducible").
- The reproducible mode gives each sequence a cache of its own (`kv_unified` off): in a shared one,
  a sequence fills the holes that others left, and attention then sums in another order (seen: a
  greedy answer that differed). Each has room for a whole context, so a step never lacks room.
- The binding releases the GIL in every call, so the reading thread works while a step computes.
- A failed assertion inside llama.cpp ends the process; the agent starts a new one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy
from llama_cpp import llama_grammar

from node.errors import ModelFileError, RuntimeRefusedError
from node.limits import PREFILL_TOKENS_PER_STEP_MAX
from node.runtime.batching import BatchingEngine
from node.runtime.chat_template import ChatTemplate
from node.runtime.engine import EngineFacts, EngineSettings
from node.runtime.model import Chunk
from node.runtime.sampling import SamplingSettings, draw_seed
from node.runtime.standard_error import silenced_stderr
from node.runtime.tool_grammar import TOOL_MARKS, call_form, grammar_of

_FLASH_ATTENTION_ON = 1
_LOG_LEVEL_WARNING = 3
_LOG_LEVEL_ERROR = 4
_PIECE_BYTES = 256


def open_engine(settings: EngineSettings) -> BatchingEngine:
    """Load a model and make the engine on it (blocks while it reads the file).

    Raises: ModelFileError if llama.cpp cannot use the file.
    """
    return BatchingEngine(LlamaModel(settings))


class LlamaModel:
    """A model with one context; `decode` and `forget` belong to one thread, the rest to any."""

    def __init__(self, settings: EngineSettings) -> None:
        llama_cpp.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model = _load(settings.path)
        self.vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary_size = int(llama_cpp.llama_vocab_n_tokens(self.vocab))
        trained = int(llama_cpp.llama_model_n_ctx_train(self._model))
        context_tokens = min(trained, settings.context_tokens)
        self.context = self._new_context(settings, context_tokens)
        self._memory = llama_cpp.llama_get_memory(self.context)
        self._batch = _Batch(settings.slots + PREFILL_TOKENS_PER_STEP_MAX)
        self._pieces: dict[int, bytes] = {}
        self._add_bos = bool(llama_cpp.llama_vocab_get_add_bos(self.vocab))
        self._bos = self._token_text(llama_cpp.llama_vocab_bos(self.vocab))
        eos = self._token_text(llama_cpp.llama_vocab_eos(self.vocab))
        source = self._template_source()
        self.template = ChatTemplate(source, bos=self._bos, eos=eos)
        self._call_form = call_form(source)
        self._shown_tokens = {token for mark in TOOL_MARKS for token in self._token_of(mark)}
        self.facts = EngineFacts(
            context_tokens=context_tokens,
            slots=settings.slots,
            model_description=_text_of(llama_cpp.llama_model_desc, self._model),
            build_info=f"llama-cpp-python {llama_cpp.__version__}; "
            + llama_cpp.llama_print_system_info().decode(errors="replace").strip(),
            threads=settings.threads,
            vocabulary_size=self.vocabulary_size,
            reproducible=settings.reproducible,
        )

    def _new_context(self, settings: EngineSettings, context_tokens: int) -> Any:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context_tokens * settings.slots
        parameters.n_batch = max(
            settings.slots + PREFILL_TOKENS_PER_STEP_MAX, settings.ubatch_tokens
        )
        parameters.n_ubatch = settings.ubatch_tokens
        parameters.n_seq_max = settings.slots
        parameters.n_threads = parameters.n_threads_batch = settings.threads
        parameters.kv_unified = not settings.reproducible
        parameters.flash_attn_type = _FLASH_ATTENTION_ON
        parameters.no_perf = True
        context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not context:
            raise ModelFileError(
                f"no memory for {settings.slots} slots of {context_tokens} tokens: "
                "choose fewer slots or a smaller context"
            )
        return context

    def _template_source(self) -> str:
        source = llama_cpp.llama_model_chat_template(self._model, None)
        if not source:
            raise ModelFileError("the model has no chat template (tokenizer.chat_template)")
        return str(source.decode("utf-8", errors="replace"))

    def _token_text(self, token: int) -> str:
        if token < 0:
            return ""
        return str(llama_cpp.llama_vocab_get_text(self.vocab, token).decode(errors="replace"))

    def _token_of(self, mark: str) -> list[int]:
        """The one token whose text is a mark, if the vocabulary has it."""
        raw = mark.encode()
        buffer = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(
            self.vocab, raw, len(raw), buffer, len(buffer), False, True
        )
        return [buffer[0]] if count == 1 else []

    def tokenize(self, prompt: str) -> list[int]:
        """Give the tokens of a rendered prompt; the begin token is never doubled."""
        raw = prompt.encode("utf-8", errors="replace")
        add_bos = self._add_bos and not (self._bos and prompt.startswith(self._bos))
        buffer = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(
            self.vocab, raw, len(raw), buffer, len(buffer), add_bos, True
        )
        if count < 0:
            raise RuntimeRefusedError("bad_request", "the prompt cannot be tokenised")
        return list(buffer[:count])

    def piece(self, token: int) -> bytes:
        """Give the bytes that a token stands for; control tokens stand for nothing, except the
        marks of tool calls."""
        piece = self._pieces.get(token)
        if piece is None:
            shown = token in self._shown_tokens
            buffer = ctypes.create_string_buffer(_PIECE_BYTES)
            size = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, shown)
            if size < 0:
                buffer = ctypes.create_string_buffer(-size)
                size = llama_cpp.llama_token_to_piece(
                    self.vocab, token, buffer, len(buffer), 0, shown
                )
            piece = self._pieces[token] = buffer.raw[: max(size, 0)]
        return piece

    def is_end(self, token: int) -> bool:
        """Whether the token ends a generation."""
        return bool(llama_cpp.llama_vocab_is_eog(self.vocab, token))

    def new_sampler(self, settings: SamplingSettings, seed: int) -> LlamaSampler:
        """Make the sampler of one job. Raises: RuntimeRefusedError for an impossible setting."""
        for token, _ in settings.logit_bias:
            if token >= self.vocabulary_size:
                raise RuntimeRefusedError(
                    "bad_request",
                    f"logit_bias names token {token}; this model has {self.vocabulary_size}",
                )
        text = grammar_of(
            settings, self._call_form, llama_grammar.json_schema_to_gbnf, llama_grammar.JSON_GBNF
        )
        grammar = None if text is None else _new_grammar(self.vocab, text)
        return LlamaSampler(self, settings, seed, grammar)

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        """Compute one batch; gives for each chunk the row of its last token.

        Raises: RuntimeError if llama.cpp reports an error.
        """
        rows = self._batch.fill(chunks)
        code = llama_cpp.llama_decode(self.context, self._batch.batch)
        if code:
            raise RuntimeError(f"the model failed to compute a step (llama_decode: {code})")
        return rows

    def trim(self, sequence: int, tokens_kept: int) -> bool:
        """Drop what follows a sequence's first tokens; False if a model (recurrent) cannot."""
        if tokens_kept and llama_cpp.llama_memory_seq_rm(self._memory, sequence, tokens_kept, -1):
            return True
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return not tokens_kept


class _Batch:
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

    def fill(self, chunks: Sequence[Chunk]) -> list[int]:
        """Write the chunks into the arrays; gives the row of each chunk's last token."""
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
        self.batch.n_tokens = start
        return rows


class LlamaSampler:
    """The sampler chain of one job, in llama.cpp's usual order.

    The draw has a new seed each time.
    """

    def __init__(
        self, model: LlamaModel, settings: SamplingSettings, seed: int, grammar: Any
    ) -> None:
        self._model = model
        self._seed = seed
        self._grammar = grammar
        self._random = settings.temperature > 0
        self._chain = _new_chain(model, settings)
        if not self._random:
            llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_greedy())
        self._fixed_count = int(llama_cpp.llama_sampler_chain_n(self._chain))

    def sample(self, row: int, position: int) -> int:
        """Draw and take the token of output position `position`; -1 if no token is possible."""
        if self._random:
            self._set_draw(draw_seed(self._seed, position))
        if self._grammar is not None:
            return self._sample_by_grammar(row)
        return int(llama_cpp.llama_sampler_sample(self._chain, self._model.context, row))

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
        size = self._model.vocabulary_size
        logits = llama_cpp.llama_get_logits_ith(self._model.context, row)
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


def _new_chain(model: LlamaModel, settings: SamplingSettings) -> Any:
    parameters = llama_cpp.llama_sampler_chain_default_params()
    parameters.no_perf = True
    chain = llama_cpp.llama_sampler_chain_init(parameters)

    def add(sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(chain, sampler)

    size = model.vocabulary_size
    if settings.logit_bias:
        biases = (llama_cpp.llama_logit_bias * len(settings.logit_bias))(*settings.logit_bias)
        add(llama_cpp.llama_sampler_init_logit_bias(size, len(biases), biases))
    if settings.frequency_penalty or settings.presence_penalty:
        add(
            llama_cpp.llama_sampler_init_penalties(
                size,
                model.facts.context_tokens,
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


def _load(path: str) -> Any:
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        raise ModelFileError(f"llama.cpp cannot load {os.path.basename(path)} (see the log)")
    if llama_cpp.llama_model_has_encoder(model):
        raise ModelFileError("encoder models cannot chat")
    return model


def _text_of(function: Any, model: Any) -> str:
    function(model, buffer := ctypes.create_string_buffer(256), 256)
    return buffer.value.decode("utf-8", errors="replace")


def _log(level: int, text: bytes, _: object) -> None:
    if level in (_LOG_LEVEL_WARNING, _LOG_LEVEL_ERROR):
        sys.stderr.write("llama.cpp: " + text.decode("utf-8", errors="replace"))


_LOG_CALLBACK = llama_cpp.llama_log_callback(_log)
"""Kept here: a callback that is garbage-collected makes the next line of the log a crash."""
