"""Owns how llama.cpp is started, what it may print, and how a file is loaded with it."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import llama_cpp

from node.errors import ModelFileError
from node.limits import REPRODUCIBLE_UBATCH_TOKENS

_FLASH_ATTENTION_ON = 1
_LOG_LEVEL_WARNING = 3
_LOG_LEVEL_ERROR = 4


def start_library() -> None:
    """Start llama.cpp (more than once is allowed); what it warns of goes to standard error."""
    llama_cpp.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


def load_model(path: str, gpu_layers: int = 0) -> Any:
    """Read a model file (blocks). Raises: ModelFileError if llama.cpp cannot use the file."""
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = gpu_layers
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        raise ModelFileError(f"llama.cpp cannot load {os.path.basename(path)} (see the log)")
    if llama_cpp.llama_model_has_encoder(model) and llama_cpp.llama_model_has_decoder(model):
        raise ModelFileError("models of an encoder and a decoder (T5) are not supported")
    return model


def layer_count(path: str) -> int:
    """How many layers the model in a file has; its weights are not read.

    Raises: ModelFileError if llama.cpp cannot use the file.
    """
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        raise ModelFileError(f"llama.cpp cannot load {os.path.basename(path)} (see the log)")
    layers = int(llama_cpp.llama_model_n_layer(model))
    llama_cpp.llama_model_free(model)
    return layers


def new_context(
    model: Any,
    *,
    slots: int,
    context_tokens: int,
    batch_tokens: int,
    ubatch_tokens: int,
    threads: int,
) -> Any:
    """Make a context in which so many sequences generate. Raises: ModelFileError for memory."""
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = context_tokens * slots
    parameters.n_batch = max(batch_tokens, ubatch_tokens)
    parameters.n_ubatch = ubatch_tokens
    parameters.n_seq_max = slots
    parameters.n_threads = parameters.n_threads_batch = threads
    parameters.kv_unified = ubatch_tokens > REPRODUCIBLE_UBATCH_TOKENS
    parameters.flash_attn_type = _FLASH_ATTENTION_ON
    parameters.no_perf = True
    context = llama_cpp.llama_init_from_model(model, parameters)
    if not context:
        raise ModelFileError(
            f"no memory for {slots} slots of {context_tokens} tokens: "
            "choose fewer slots or a smaller context"
        )
    return context


def build_info() -> str:
    """What computes: the binding's version and what llama.cpp says of its build and the CPU."""
    system = llama_cpp.llama_print_system_info().decode(errors="replace").strip()
    return f"llama-cpp-python {llama_cpp.__version__}; {system}"


def metadata_of(model: Any, key: str) -> str | None:
    """Give one entry of a model's metadata as llama.cpp writes it out; None if it is not there."""
    buffer = ctypes.create_string_buffer(256)
    size = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return None if size < 0 else buffer.value.decode("utf-8", errors="replace")


def text_of(function: Any, model: Any) -> str:
    """Give the short text that one of llama.cpp's functions says about a model."""
    function(model, buffer := ctypes.create_string_buffer(256), 256)
    return buffer.value.decode("utf-8", errors="replace")


def _log(level: int, text: bytes, _: object) -> None:
    if level in (_LOG_LEVEL_WARNING, _LOG_LEVEL_ERROR):
        sys.stderr.write("llama.cpp: " + text.decode("utf-8", errors="replace"))


_LOG_CALLBACK = llama_cpp.llama_log_callback(_log)
"""Kept here: a callback that is garbage-collected makes the next line of the log a crash."""
