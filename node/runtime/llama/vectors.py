"""Owns llama.cpp as the source of embeddings: a second context of a loaded model.

Settings and their reasons (measured, llama-cpp-python 0.3.36 on CPU):
- No pooling by llama.cpp: it pools each ubatch by itself, so a text would have to be computed in
  one, and its sums depend on what else is in it. The states of all tokens are taken instead and
  pooled by `node.runtime.embedding_batches`; for a text alone the mean is that of llama.cpp to
  3e-8.
- `n_ubatch` and sequences as for chats (`node.runtime.llama.model`): with 32 rows the vector of a
  text is bitwise the same alone and in any batch; with 512 it differs by 3e-3 (demo model).
- An encoder has no cache and needs a whole text in one ubatch: one text at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy

from node.errors import ModelFileError, RuntimeRefusedError
from node.limits import (
    EMBEDDING_CACHE_TOKENS,
    EMBEDDING_CONTEXT_TOKENS_MAX,
    EMBEDDING_SEQUENCES_MAX,
)
from node.runtime.embedding_model import EmbeddingFacts, Pooling
from node.runtime.engine import EngineSettings
from node.runtime.llama.batch import Batch
from node.runtime.llama.library import metadata_of
from node.runtime.model import Chunk
from p2p.embeddings import CHAT, EMBEDDINGS

_FLASH_ATTENTION_ON = 1
_POOLINGS = {
    None: Pooling.MEAN,
    llama_cpp.LLAMA_POOLING_TYPE_NONE: Pooling.MEAN,
    llama_cpp.LLAMA_POOLING_TYPE_MEAN: Pooling.MEAN,
    llama_cpp.LLAMA_POOLING_TYPE_CLS: Pooling.FIRST,
    llama_cpp.LLAMA_POOLING_TYPE_LAST: Pooling.LAST,
}


def tasks_of(model: Any) -> tuple[str, ...]:
    """What a loaded model can be used for: chats if it has a chat template and its tokens look
    back only; embeddings unless it is a reranker.

    Raises: ModelFileError if there is nothing.
    """
    tasks: tuple[str, ...] = ()
    if llama_cpp.llama_model_chat_template(model, None) and _is_causal(model):
        tasks = (CHAT,)
    if _pooling_type(model) in _POOLINGS:
        tasks += (EMBEDDINGS,)
    if not tasks:
        raise ModelFileError("this model is a reranker: it neither chats nor makes embeddings")
    return tasks


def _is_causal(model: Any) -> bool:
    architecture = metadata_of(model, "general.architecture")
    causal = metadata_of(model, f"{architecture}.attention.causal")
    return causal != "false" and bool(llama_cpp.llama_model_has_decoder(model))


def _pooling_type(model: Any) -> int | None:
    architecture = metadata_of(model, "general.architecture")
    text = metadata_of(model, f"{architecture}.pooling_type")
    return int(text) if text and text.lstrip("-").isdigit() else None


class LlamaVectors:
    """The port `EmbeddingModel` on llama.cpp; `states` and `clear` belong to one thread."""

    def __init__(self, model: Any, settings: EngineSettings) -> None:
        """Make the context. Raises: ModelFileError if there is no memory for it."""
        self._model = model
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        trained = int(llama_cpp.llama_model_n_ctx_train(model))
        context_tokens = min(trained, settings.context_tokens, EMBEDDING_CONTEXT_TOKENS_MAX)
        sequences = max(2, min(EMBEDDING_CACHE_TOKENS // context_tokens, EMBEDDING_SEQUENCES_MAX))
        whole = not _is_causal(model)
        if not whole:
            self._context = self._new_context(settings, context_tokens, sequences)
            # Some architectures look both ways without a word of it in their metadata.
            whole = not llama_cpp.llama_get_memory(self._context)
            if whole:
                llama_cpp.llama_free(self._context)
        if whole:
            sequences = EMBEDDING_SEQUENCES_MAX  # in turn, in a context of one
            self._context = self._new_context(settings, context_tokens, 1, whole=True)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = Batch(max(context_tokens, settings.prefill_tokens_per_step))
        self.facts = EmbeddingFacts(
            dimensions=int(llama_cpp.llama_model_n_embd_out(model)),
            context_tokens=context_tokens,
            sequences=sequences,
            step_tokens=settings.prefill_tokens_per_step,
            vocabulary_size=int(llama_cpp.llama_vocab_n_tokens(self._vocab)),
            pooling=_POOLINGS[_pooling_type(model)],
            whole=whole,
        )

    def _new_context(
        self, settings: EngineSettings, context_tokens: int, sequences: int, *, whole: bool = False
    ) -> Any:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context_tokens * sequences
        step = context_tokens if whole else settings.prefill_tokens_per_step
        parameters.n_batch = max(step, settings.ubatch_tokens)
        parameters.n_ubatch = step if whole else settings.ubatch_tokens
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = settings.threads
        parameters.kv_unified = not settings.reproducible
        parameters.flash_attn_type = _FLASH_ATTENTION_ON
        parameters.no_perf = True
        parameters.embeddings = True
        parameters.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not context:
            raise ModelFileError(
                f"no memory for the embeddings of {sequences} texts of {context_tokens} tokens: "
                "choose a smaller context"
            )
        return context

    def tokenize(self, text: str) -> list[int]:
        """Give the tokens of a text, with those that the model wants around it; a text that looks
        like a control token is text."""
        raw = text.encode("utf-8", errors="replace")
        buffer = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(
            self._vocab, raw, len(raw), buffer, len(buffer), True, False
        )
        if count < 0:
            raise RuntimeRefusedError("bad_request", "an input cannot be tokenised")
        return list(buffer[:count])

    def states(self, chunks: Sequence[Chunk]) -> Any:
        """Compute one batch; gives the last states of all its tokens. Raises: RuntimeError."""
        self._batch.fill(chunks, all_wanted=True)
        code = llama_cpp.llama_decode(self._context, self._batch.batch)
        if code:
            raise RuntimeError(f"the model failed to compute a step (llama_decode: {code})")
        rows = int(self._batch.batch.n_tokens)
        data = ctypes.cast(
            llama_cpp.llama_get_embeddings(self._context), ctypes.POINTER(ctypes.c_float)
        )
        if not data:
            raise RuntimeError("the model gives no embeddings")
        return numpy.ctypeslib.as_array(data, (rows, self.facts.dimensions))

    def clear(self, sequence: int) -> None:
        """Forget what a sequence has in the cache."""
        if self._memory:
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
