"""Owns the grades of evidence: how well a statement about a node is supported. Pure.

No grade proves where a process runs: a declared country is a word, GeoIP sees the last hop, a round
trip bounds the distance of whoever answers for the node's key, and an attestation is the owner's.
"""

from __future__ import annotations

import enum
import functools


class RegionGrade(enum.IntEnum):
    """Support for a node's country, weakest first.

    - DECLARED: the node says so.
    - CONSISTENT: and a GeoIP file that the gateway's operator supplies says so of its address.
    - PROVEN: direct round trips to two landmarks in the region were too short for elsewhere.
    - ATTESTED: the subcloud's owner (or a delegate) signed that it is so.
    """

    DECLARED = 1
    CONSISTENT = 2
    PROVEN = 3
    ATTESTED = 4


class HardwareGrade(enum.IntEnum):
    """Support for a node's hardware: it says so, a timed job showed so, the owner signed so."""

    DECLARED = 1
    BENCHMARKED = 2
    ATTESTED = 3


QUANTISATION_BITS: dict[str, float] = {
    "F32": 32.0,
    "F16": 16.0,
    "BF16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.5625,
    "Q5_K": 5.5,
    "Q5_1": 6.0,
    "Q5_0": 5.5,
    "IQ4_NL": 4.5,
    "IQ4_XS": 4.25,
    "MXFP4": 4.25,
    "Q4_K": 4.5,
    "Q4_1": 5.0,
    "Q4_0": 4.5,
    "IQ3_S": 3.4375,
    "Q3_K": 3.4375,
    "IQ3_XXS": 3.0625,
    "IQ2_S": 2.5,
    "Q2_K": 2.625,
    "IQ2_XS": 2.3125,
    "IQ2_XXS": 2.0625,
    "TQ2_0": 2.0625,
    "TQ1_0": 1.6875,
    "IQ1_M": 1.75,
    "IQ1_S": 1.5625,
}
"""Bits of one weight in each of llama.cpp's formats (block sizes of ggml: ggml-common.h)."""


@functools.lru_cache(maxsize=1024)
def quantisation_bits(label: str) -> float | None:
    """Give the bits of a weight for a quantisation as it is written (`Q4_K_M`, `q8_0`), if known.

    Mixtures (`..._S`, `_M`, `_L`, `_XL`) count as the format that gives them their name.
    """
    name = label.upper()
    bits = QUANTISATION_BITS.get(name)
    if bits is None:
        bits = QUANTISATION_BITS.get(name.rpartition("_")[0])
    return bits
