"""Owns how a model's quantisation is told: from the types of its tensors, not from its label. Pure.

`general.file_type` is a label that anybody can write. What a tensor's type is, the engine believes
too, so it is the truth: the type that holds most parameters. The label only refines it (`Q4_K_M`
says more than `Q4_K`), and only where it fits.
"""

from __future__ import annotations

from collections import Counter

from node.gguf_header import Tensor

# ggml.h, enum ggml_type
_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS",
    17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0",
}  # fmt: skip

# llama.h, enum llama_ftype
_LABELS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
    38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip

# Labels whose files hold most of their parameters in a type of another name.
_MIXES = {
    "IQ3_XS": ("IQ3_XXS", "IQ3_S"), "IQ3_M": ("IQ3_S",), "IQ2_S": ("IQ2_XS", "IQ2_S"),
    "IQ2_M": ("IQ2_S", "IQ3_S"), "MXFP4_MOE": ("MXFP4",),
}  # fmt: skip


def quantisation_of(tensors: tuple[Tensor, ...], label_number: object) -> str:
    """Give the quantisation, like `Q4_K_M` or `Q8_0`.

    Args:
        label_number: `general.file_type` as the file has it, or None.
    """
    parameters: Counter[int] = Counter()
    for tensor in tensors:
        parameters[tensor.type_number] += tensor.parameter_count
    # Among equals the smaller number, so that the order in the file does not matter.
    type_number = min(parameters, key=lambda number: (-parameters[number], number))
    found = _TYPES.get(type_number, "unknown")
    label = _LABELS.get(label_number, "") if type(label_number) is int else ""
    if label in _MIXES:
        return label if found in _MIXES[label] else found
    base = label.removesuffix("_S").removesuffix("_M").removesuffix("_L")
    return label if found in (label, base) else found
