"""Owns the question what a job can cost at most. Pure.

The bound on input tokens holds for every tokenizer: none makes more tokens than there are bytes
of text, and the chat template adds at most the model's stated allowance for each message, and
once more for the answer's opening."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import ContextLengthError, InvalidRequestError
from gateway.jobs import RequestSize
from gateway.limits import LOGPROBS_PER_JOB_MAX, OUTPUT_TOKENS_PER_JOB_MAX
from p2p.network_configuration import ApprovedModel
from p2p.prices import PriceTerms, charge
from p2p.types import Microcredits
from p2p.unverified_usage import input_bound


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job may use and cost at most. `output_tokens_max` is each choice's bound."""

    input_tokens_max: int
    output_tokens_max: int
    maximum: Microcredits
    terms: PriceTerms
    choices: int = 1

    @property
    def output_tokens_sum_max(self) -> int:
        """The bound of all choices together."""
        return self.output_tokens_max * self.choices


def quote_job(
    model: ApprovedModel,
    terms: PriceTerms,
    size: RequestSize,
    max_tokens: int | None,
    choices: int = 1,
    top_logprobs: int | None = None,
) -> Quote:
    """Bound a job's input, output and cost.

    Args: max_tokens: the client's limit on each choice's output, or None for the model's default.
    Raises: InvalidRequestError (max_tokens below 1, too many logprobs), ContextLengthError
    (max_tokens leaves no room for a prompt)."""
    if max_tokens is not None and max_tokens < 1:
        raise InvalidRequestError("max_tokens must be at least 1", param="max_tokens")
    context = model.context_tokens
    if max_tokens is not None and max_tokens >= context:
        raise ContextLengthError(
            f"This model's maximum context length is {context} tokens, but max_tokens asks for "
            f"{max_tokens} tokens of output alone.",
            param="max_tokens",
        )
    bound = input_bound(
        model,
        text_bytes=size.text_bytes,
        messages=size.messages,
        tools_bytes=size.tools_bytes,
        images=size.images,
    )
    input_max = min(bound, context)
    wanted = model.default_output_tokens if max_tokens is None else max_tokens
    output_max = max(1, min(wanted, context, OUTPUT_TOKENS_PER_JOB_MAX // choices))
    output_sum_max = output_max * choices
    if top_logprobs is not None and output_sum_max * (1 + top_logprobs) > LOGPROBS_PER_JOB_MAX:
        raise InvalidRequestError(
            f"{output_sum_max} output tokens with {top_logprobs} top_logprobs each are more than "
            f"the {LOGPROBS_PER_JOB_MAX} logprobs of one request: ask for fewer, or set a smaller "
            "max_tokens.",
            param="top_logprobs",
        )
    return Quote(input_max, output_max, charge(terms, input_max, output_sum_max), terms, choices)
