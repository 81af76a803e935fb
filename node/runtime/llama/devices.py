"""Owns the question which GPUs llama.cpp's build can use on this machine.

The binding has no functions for devices; those of ggml are called directly (ggml-backend.h).
"""

from __future__ import annotations

import ctypes

import llama_cpp
from llama_cpp import _ggml

from node.limits import GPUS_MAX
from node.runtime.engine import Gpu

_GPU, _INTEGRATED_GPU = 1, 2
"""Of `enum ggml_backend_dev_type`."""


def gpus() -> tuple[Gpu, ...]:
    """List the GPUs that this build can use; none if it was built without."""
    if not llama_cpp.llama_supports_gpu_offload():
        return ()
    library = _ggml.libggml
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    library.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    library.ggml_backend_dev_description.restype = ctypes.c_char_p
    library.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    sizes = ctypes.POINTER(ctypes.c_size_t)
    library.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, sizes, sizes]
    found = []
    for index in range(min(int(library.ggml_backend_dev_count()), 4 * GPUS_MAX)):
        device = library.ggml_backend_dev_get(index)
        if library.ggml_backend_dev_type(device) not in (_GPU, _INTEGRATED_GPU):
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        library.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name = library.ggml_backend_dev_description(device) or b""
        found.append(Gpu(name.decode("utf-8", errors="replace"), total.value, free.value))
    return tuple(found[:GPUS_MAX])
