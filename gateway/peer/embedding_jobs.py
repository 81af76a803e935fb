"""Owns what is different about an embeddings job: what it may ask of a model, and what it can cost
at most. Pure."""

from __future__ import annotations

from gateway.errors import ContextLengthError, UnsupportedError, WrongTaskError
from gateway.jobs import ChatJob, RequestSize
from gateway.peer.admission import Quote
from p2p.embeddings import CHAT, EMBEDDINGS, VectorLines
from p2p.limits import TOKENS_MAX
from p2p.network_configuration import ApprovedModel
from p2p.prices import PriceTerms, charge

_PATHS = {CHAT: "v1/chat/completions", EMBEDDINGS: "v1/embeddings"}


def check_task(job: ChatJob, model: ApprovedModel) -> None:
    """Refuse what a model is not approved for.

    Raises: WrongTaskError (chat with an embeddings model, or the reverse), UnsupportedError (its
        vectors cannot be cut to that length).
    """
    if job.task not in model.tasks:
        others = " and ".join(_PATHS[task] for task in model.tasks)
        raise WrongTaskError(
            f"The model {model.name} is not supported in the {_PATHS[job.task]} endpoint. "
            f"It can be used with {others}.",
            param="model",
        )
    if job.dimensions is None or job.dimensions in model.embedding_dimensions:
        return
    lengths = ", ".join(str(length) for length in model.embedding_dimensions)
    raise UnsupportedError(
        f"The embeddings of {model.name} cannot be cut to {job.dimensions} dimensions: "
        + (f"{lengths} are possible." if lengths else "this model's cannot be cut at all."),
        param="dimensions",
    )


def quote_embeddings(model: ApprovedModel, terms: PriceTerms, size: RequestSize) -> Quote:
    """Bound an embeddings job's input and cost; there is no output.

    No tokenizer makes more tokens than there are bytes; begin and end tokens of each input are
    within the model's stated allowance; and no input may be longer than the context.
    Raises: ContextLengthError (more tokens than any job may have).
    """
    bound = size.text_bytes + size.messages * model.template_allowance_tokens
    input_max = min(bound, size.messages * model.context_tokens)
    if input_max > TOKENS_MAX:
        raise ContextLengthError("The inputs have too many tokens together.", param="input")
    return Quote(input_max, 0, charge(terms, input_max, 0), terms)


def expected_vectors(job: ChatJob) -> VectorLines | None:
    """What a node's answer is held against; None for a chat."""
    if job.task != EMBEDDINGS:
        return None
    return VectorLines(job.size.messages, job.dimensions)
