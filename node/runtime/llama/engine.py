"""Owns how an engine is opened on a model file with llama.cpp."""

from __future__ import annotations

from functools import partial
from typing import Any

import llama_cpp

from node.limits import EMBEDDING_CONTEXT_TOKENS_MAX
from node.runtime.batching import BatchingEngine
from node.runtime.engine import Engine, EngineFacts, EngineSettings
from node.runtime.llama.library import build_info, load_model, start_library, text_of
from node.runtime.llama.model import LlamaModel
from node.runtime.llama.vectors import LlamaVectors, tasks_of
from node.runtime.task_engine import TaskEngine
from p2p.embeddings import CHAT, EMBEDDINGS


def open_engine(settings: EngineSettings) -> BatchingEngine:
    """Load a model and make the engine for chats on it (blocks while it reads the file).

    Raises: ModelFileError if llama.cpp cannot use the file.
    """
    return BatchingEngine(LlamaModel(settings))


def open_task_engine(settings: EngineSettings, loaded: Any = None) -> TaskEngine:
    """Make the engine for all that a `loaded` model can do: chats, embeddings, or both; without
    one, load it first.

    Raises: ModelFileError if llama.cpp cannot use the file.
    """
    start_library()
    model = load_model(settings.path, settings.gpu_layers) if loaded is None else loaded
    tasks = tasks_of(model)
    vectors = partial(LlamaVectors, model, settings) if EMBEDDINGS in tasks else None
    if CHAT in tasks:
        chat: Engine = BatchingEngine(LlamaModel(settings, model))
        return TaskEngine(chat, vectors, chat.facts)
    trained = int(llama_cpp.llama_model_n_ctx_train(model))
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    facts = EngineFacts(
        context_tokens=min(trained, settings.context_tokens, EMBEDDING_CONTEXT_TOKENS_MAX),
        slots=settings.slots,
        model_description=text_of(llama_cpp.llama_model_desc, model),
        build_info=build_info(),
        threads=settings.threads,
        vocabulary_size=int(llama_cpp.llama_vocab_n_tokens(vocabulary)),
        reproducible=settings.reproducible,
        gpu_layers=settings.gpu_layers,
        gpus=settings.gpus,
        notes=settings.notes,
    )
    return TaskEngine(None, vectors, facts)
