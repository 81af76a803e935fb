"""Owns a model that llama.cpp has loaded, with the context in which its jobs are computed.

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
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy
from llama_cpp import llama_grammar

from node.errors import ModelFileError, NoRoomError, RuntimeRefusedError
from node.limits import PROMPT_CONTROL_TOKENS_MAX
from node.runtime.chat_template import ChatTemplate
from node.runtime.engine import EngineFacts, EngineSettings
from node.runtime.llama.batch import Batch
from node.runtime.llama.control_tokens import ControlTokens
from node.runtime.llama.library import (
    build_info,
    load_model,
    new_context,
    start_library,
    text_of,
)
from node.runtime.llama.logprobs import logprobs_of
from node.runtime.llama.sampler import LlamaSampler, SamplerScene
from node.runtime.model import Chunk
from node.runtime.sampling import SamplingSettings
from node.runtime.tool_grammar import TOOL_MARKS, call_form, grammar_of
from p2p.limits import TOKEN_BYTES_MAX
from p2p.logprob_messages import TokenLogprob, TopLogprob

_PIECE_BYTES = 256
_NO_ROOM = 1
"""What llama_decode returns if it found no place for the batch in the cache."""


class LlamaModel:
    """A model with one context; `decode` and `forget` belong to one thread, the rest to any."""

    def __init__(self, settings: EngineSettings, loaded: Any = None) -> None:
        """Make the context on a `loaded` model, or load it first."""
        start_library()
        self._model = load_model(settings.path) if loaded is None else loaded
        self.vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary_size = int(llama_cpp.llama_vocab_n_tokens(self.vocab))
        trained = int(llama_cpp.llama_model_n_ctx_train(self._model))
        context_tokens = min(trained, settings.context_tokens)
        batch_tokens = settings.slots + settings.prefill_tokens_per_step
        self.context = new_context(
            self._model,
            slots=settings.slots,
            context_tokens=context_tokens,
            batch_tokens=batch_tokens,
            ubatch_tokens=settings.ubatch_tokens,
            threads=settings.threads,
        )
        self._scene = SamplerScene(self.context, self.vocab, self.vocabulary_size, context_tokens)
        self._memory = llama_cpp.llama_get_memory(self.context)
        self._batch = Batch(batch_tokens)
        self._pieces: dict[int, bytes] = {}
        self._control_tokens = ControlTokens(self.vocab)
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
            model_description=text_of(llama_cpp.llama_model_desc, self._model),
            build_info=build_info(),
            threads=settings.threads,
            vocabulary_size=self.vocabulary_size,
            reproducible=settings.reproducible,
            gpu_layers=settings.gpu_layers,
            gpus=settings.gpus,
            costs=settings.costs,
            notes=settings.notes,
            prefill_tokens_per_step=settings.prefill_tokens_per_step,
        )

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
        """Give the tokens of a rendered prompt; the begin token is never doubled.

        Raises: RuntimeRefusedError.
        """
        raw = prompt.encode("utf-8", errors="replace")
        self._check_control_tokens(raw)
        add_bos = self._add_bos and not (self._bos and prompt.startswith(self._bos))
        buffer = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(
            self.vocab, raw, len(raw), buffer, len(buffer), add_bos, True
        )
        if count < 0:
            raise RuntimeRefusedError("bad_request", "the prompt cannot be tokenised")
        return list(buffer[:count])

    def _check_control_tokens(self, raw: bytes) -> None:
        count, context = self._control_tokens.count(raw), self.facts.context_tokens
        if count > min(context, PROMPT_CONTROL_TOKENS_MAX):
            too_long = count > context
            raise RuntimeRefusedError(
                "context_length_exceeded" if too_long else "bad_request",
                f"the prompt has {count} control tokens alone; "
                + (f"this model's context has {context}" if too_long else "that is too many"),
                input_tokens=count if too_long else 0,
                context_tokens=context if too_long else 0,
            )

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
        return LlamaSampler(self._scene, settings, seed, text)

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        """Compute one batch; gives for each chunk the row of its last token.

        Raises: NoRoomError if the cache has no room for it (nothing was computed then);
            RuntimeError if llama.cpp reports an error.
        """
        rows = self._batch.fill(chunks)
        code = llama_cpp.llama_decode(self.context, self._batch.batch)
        if code == _NO_ROOM:
            raise NoRoomError("the cache has no room for this step")
        if code:
            raise RuntimeError(f"the model failed to compute a step (llama_decode: {code})")
        return rows

    def logprob(self, row: int, token: int, top: int) -> TokenLogprob:
        """How likely a token was in a row of the last batch, and the likeliest ones."""
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        values = numpy.ctypeslib.as_array(logits, (self.vocabulary_size,))
        own, best = logprobs_of(values, token, top)
        shown = (TopLogprob(other, self._shown(other), value) for other, value in best)
        return TokenLogprob(self.piece(token)[:TOKEN_BYTES_MAX], own, tuple(shown))

    def _shown(self, token: int) -> bytes:
        """A token's bytes; of one that stands for nothing, its name."""
        return (self.piece(token) or self._token_text(token).encode())[:TOKEN_BYTES_MAX]

    def copy(self, source: int, target: int, tokens: int) -> bool:
        """Let a sequence that has nothing begin with the first tokens of another one.

        Caches of their own are copied whole by llama.cpp, then cut. False if a model cannot.
        """
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        return self.trim(target, tokens)

    def trim(self, sequence: int, tokens_kept: int) -> bool:
        """Drop what follows a sequence's first tokens; False if a model (recurrent) cannot."""
        if tokens_kept and llama_cpp.llama_memory_seq_rm(self._memory, sequence, tokens_kept, -1):
            return True
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return not tokens_kept
