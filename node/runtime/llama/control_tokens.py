"""Owns the counting of control tokens in a prompt, before llama.cpp splits it at them.

llama.cpp walks the list of the pieces so far for each piece that it cuts off: 80,000 control tokens
(a request's largest text has room for them) take it 6 s, in which nothing else is prepared.
"""

from __future__ import annotations

from typing import Any

import llama_cpp

_CUT_AT = (
    llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
    | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
)


class ControlTokens:
    """The texts at which llama.cpp cuts a prompt before it tokenises the pieces."""

    def __init__(self, vocab: Any) -> None:
        """Find them in a vocabulary (about 0.1 s for the largest)."""
        size = int(llama_cpp.llama_vocab_n_tokens(vocab))
        texts = {
            bytes(llama_cpp.llama_vocab_get_text(vocab, token))
            for token in range(size)
            if llama_cpp.llama_vocab_get_attr(vocab, token) & _CUT_AT
        }
        self._texts = sorted((text for text in texts if text), key=len, reverse=True)

    def count(self, prompt: bytes) -> int:
        """How many there are in a prompt; the longer ones are cut out first, as llama.cpp does."""
        found = 0
        for text in self._texts:
            count = prompt.count(text)
            if count:
                found += count
                prompt = prompt.replace(text, b"\x00")
        return found
