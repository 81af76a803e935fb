"""Owns the digest of how a job's answer is drawn, which receipts name. Pure.

With the seed, the model and the build, the settings below decide every token: a verifier repeats
the work with them and must draw the same. They are the settings as they were applied, so fields
that the request leaves out stand there with their defaults (`node.runtime.sampling`):
temperature 1, top_p 1, top_k 0, min_p 0, penalties 0, no bias, no schema, no forced call, no stop
strings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

from node.runtime.sampling import SamplingSettings


def sampling_text(settings: SamplingSettings, stop_strings: tuple[str, ...]) -> str:
    """Give the canonical form: JSON with sorted keys and no spaces; numbers as Python writes them.

    `top_k` below 1 means all tokens and is 0; at temperature 0 what cuts the candidates changes
    nothing, and stands there all the same.
    """
    fields = dataclasses.asdict(settings)
    fields["top_k"] = max(0, settings.top_k)
    fields["stop"] = list(stop_strings)
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sampling_digest(settings: SamplingSettings, stop_strings: tuple[str, ...]) -> bytes:
    """Give the SHA-256 of `sampling_text` in UTF-8."""
    text = sampling_text(settings, stop_strings)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()
