"""Owns the question what a job can cost at most. Pure.

The bound on input tokens holds for every tokenizer: none makes more tokens than there are bytes
of text, and the chat template adds at most the model's stated allowance for each message, and
once more for the answer's opening."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import ContextLengthError, InvalidRequestError
from gateway.jobs import RequestSize
from gateway.limits import OUTPUT_TOKENS_PER_JOB_MAX
from p2p.network_configuration import ApprovedModel
from p2p.prices import PriceTerms, charge
from p2p.types import Microcredits


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job may use and cost at most."""

    input_tokens_max: int
    output_tokens_max: int
    maximum: Microcredits
    terms: PriceTerms


def quote_job(
    model: ApprovedModel, terms: PriceTerms, size: RequestSize, max_tokens: int | None
) -> Quote:
    """Bound a job's input, output and cost.

    Args: max_tokens: the client's limit on output, or None for the model's default. Raises:
    InvalidRequestError (max_tokens below 1), ContextLengthError (max_tokens leaves no room for a
    prompt)."""
    if max_tokens is not None and max_tokens < 1:
        raise InvalidRequestError("max_tokens must be at least 1", param="max_tokens")
    context = model.context_tokens
    if max_tokens is not None and max_tokens >= context:
        raise ContextLengthError(
            f"This model's maximum context length is {context} tokens, but max_tokens asks for "
            f"{max_tokens} tokens of output alone.",
            param="max_tokens",
        )
    bound = (
        size.text_bytes + (size.messages + 1) * model.template_allowance_tokens + size.tools_bytes
    )
    input_max = min(bound, context)
    wanted = model.default_output_tokens if max_tokens is None else max_tokens
    output_max = max(1, min(wanted, context, OUTPUT_TOKENS_PER_JOB_MAX))
    return Quote(input_max, output_max, charge(terms, input_max, output_max), terms)
