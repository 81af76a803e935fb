"""Owns how the tokens of unverified models count: the node states them so, the gateway checks it.
Pure.

Theory of operation. A server that the operator runs anyway gives text and, at the end, a `usage`
that nobody can check. Both sides see the text, and no tokenizer makes more tokens than there are
bytes:

- Output: while it streams, each piece of text counts as one token (more if it is very long). At the
  end the server's `usage` replaces that where it says more, and a quarter of the bytes where there
  is none; never more than there are bytes, nor than the offer allows. The gateway refuses a frame
  with which the tokens so far would be more than the bytes so far.
- Input: the node accepts with the bound (`input_bound`), at most the offer's. Its receipts state an
  eighth of the bytes while it streams, and at the end the server's `usage`, or a quarter of the
  bound where there is none, between those two. The gateway lets it rise, never above what was
  accepted.

There are no token IDs to show: frames carry zeros, so that their number counts and nothing else.
"""

from __future__ import annotations

from p2p.approved_models import ApprovedModel

TEXT_BYTES_PER_COUNTED_TOKEN_MAX = 512
"""The gateway takes no more text for one token (gateway.limits.TEXT_BYTES_PER_TOKEN_MAX)."""
USUAL_BYTES_PER_TOKEN = 4
"""English text has a little more with the usual vocabularies."""
INPUT_BYTES_PER_TOKEN_MAX = 8
"""Long words and code in large vocabularies come to six; runs of spaces may have more."""
TOKEN_ID = 0


def token_ids(count: int) -> tuple[int, ...]:
    """What stands for so many tokens without IDs."""
    return (TOKEN_ID,) * count


def output_allowed(ids: tuple[int, ...], tokens: int, text_bytes: int) -> bool:
    """Whether output may count like that: no IDs, and no more tokens than bytes.

    Args: `tokens` and `text_bytes` of the attempt so far, with this frame.
    """
    return not any(ids) and tokens <= text_bytes


def counted_piece(piece_bytes: int) -> int:
    """The tokens that a piece of text counts as when it comes."""
    return -(-piece_bytes // TEXT_BYTES_PER_COUNTED_TOKEN_MAX)


def counted_output(
    counted: int, usage_tokens: int | None, text_bytes: int, output_tokens_max: int
) -> int:
    """The output tokens of a whole answer.

    Args: `counted`: what was stated while it streamed (at most `text_bytes` and
    `output_tokens_max`); `usage_tokens`: what the server says.
    """
    wanted = -(-text_bytes // USUAL_BYTES_PER_TOKEN) if usage_tokens is None else usage_tokens
    return max(counted, min(wanted, text_bytes, output_tokens_max))


def input_bound(
    model: ApprovedModel, *, text_bytes: int, messages: int, tools_bytes: int, images: int
) -> int:
    """The most input tokens that a request can have for a model, its context apart.

    No tokenizer makes more tokens than there are bytes of text; the chat template adds at most the
    model's stated allowance for each message and once more for the answer's opening, an image at
    most `image_tokens_max`.
    """
    template = (messages + 1) * model.template_allowance_tokens
    return text_bytes + template + tools_bytes + images * (model.image_tokens_max or 0)


def least_input(text_bytes: int, bound: int) -> int:
    """The input tokens that are stated while an answer streams."""
    return min(text_bytes // INPUT_BYTES_PER_TOKEN_MAX, bound)


def counted_input(least: int, usage_tokens: int | None, bound: int) -> int:
    """The input tokens of a whole answer: at least `least`, at most `bound`."""
    wanted = -(-bound // USUAL_BYTES_PER_TOKEN) if usage_tokens is None else usage_tokens
    return max(least, min(wanted, bound))
