"""Owns the models of a network configuration: the approved ones, and those that nobody can verify.
Pure.

Theory of operation. An approved model is a file: its digest says what it is. A server that the
operator runs anyway (vLLM, Ollama, any OpenAI URL) cannot prove what it serves. The configuration
may list names for those: *unverified* models, used only where a request accepts that, at no more
than a ceiling. On the wire an unverified model has a digest too, made from the network and the
name, so that adverts, directory keys, offers and receipts work as they do; it is the digest of no
file.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Annotated, Literal

import pydantic

from p2p.limits import EMBEDDING_DIMENSIONS_MAX, PRICE_MICROCREDITS_MAX, TOKENS_MAX
from p2p.types import NetworkId

Hex32 = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Price = Annotated[int, pydantic.Field(ge=0, le=PRICE_MICROCREDITS_MAX)]
Tokens = Annotated[int, pydantic.Field(ge=1, le=TOKENS_MAX)]
UNVERIFIED_MODELS_MAX = 256
_DIGEST_DOMAIN = b"resultity/unverified-model"


class Frozen(pydantic.BaseModel):
    """Base of everything in a configuration: unknown fields are ignored."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", strict=False)


class ApprovedModel(Frozen):
    """A model that nodes may serve, with its price (microcredits for 10**6 tokens) and limits.

    `template_allowance_tokens`: what the chat template adds to each message at most; it makes the
    bound on input tokens safe. `default_output_tokens`: the maximum output when a request names
    none. `cached_input_...`: the price of input that the node still has in its cache from an
    earlier request of the same account; not above the price of other input, which it is if none is
    given. `image_tokens_max`: what one image adds to the input at most, for models that take any.
    `tasks`: what it may be used for. `embedding_dimensions`: the lengths to which requests may have
    its vectors cut (only models that were trained for it bear that); none: not at all. `family`
    and `quantisation`: what subclouds' policies go by, as the file says (`llama`, `Q4_K_M`); empty:
    of no family, and quantised as its nodes say.
    """

    name: Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")]
    version: Annotated[str, pydantic.StringConstraints(min_length=1, max_length=40)] = "1"
    digest: Hex32
    context_tokens: Tokens
    template_allowance_tokens: Tokens = 16
    default_output_tokens: Tokens = 512
    input_microcredits_per_million_tokens: Price
    output_microcredits_per_million_tokens: Price
    cached_input_microcredits_per_million_tokens: Price | None = None
    tasks: Annotated[tuple[Literal["chat", "embeddings"], ...], pydantic.Field(min_length=1)] = (
        "chat",
    )
    embedding_dimensions: Annotated[
        tuple[Annotated[int, pydantic.Field(ge=1, le=EMBEDDING_DIMENSIONS_MAX)], ...],
        pydantic.Field(max_length=64),
    ] = ()
    modalities: tuple[Literal["text", "image"], ...] = ("text",)
    image_tokens_max: Tokens | None = None
    family: Annotated[str, pydantic.StringConstraints(max_length=100)] = ""
    quantisation: Annotated[str, pydantic.StringConstraints(max_length=40)] = ""

    @property
    def verified(self) -> bool:
        """Whether its digest says what it is."""
        return True

    @property
    def takes_images(self) -> bool:
        """Whether requests may have images for it."""
        return "image" in self.modalities

    @pydantic.model_validator(mode="after")
    def _cached_is_not_dearer(self) -> ApprovedModel:
        # The hold is made for input that is not cached.
        cached = self.cached_input_microcredits_per_million_tokens
        if cached is not None and cached > self.input_microcredits_per_million_tokens:
            raise ValueError(f"{self.name}: cached input may not cost more than other input")
        return self

    @pydantic.model_validator(mode="after")
    def _images_are_bounded(self) -> ApprovedModel:
        if self.takes_images and self.image_tokens_max is None:
            raise ValueError(f"{self.name}: a model that takes images needs image_tokens_max")
        return self


class UnverifiedModel(ApprovedModel):
    """A name under which nodes may offer servers that nobody can verify.

    The prices are a ceiling, and for now what everybody is paid: operators cannot ask for less yet.
    The digest is not given: the network and the name make it (`NetworkConfiguration`).
    """

    digest: Annotated[Hex32, pydantic.Field(exclude=True)] = ""

    @property
    def verified(self) -> bool:
        """False: its digest is that of its name."""
        return False


@functools.lru_cache(maxsize=UNVERIFIED_MODELS_MAX * 4)
def unverified_digest(network: NetworkId, name: str) -> bytes:
    """The digest that stands for an unverified model of a network (32 bytes).

    SHA-256 over a domain string, the network's ID and the name, a zero byte between them; names and
    IDs hold none.
    """
    return hashlib.sha256(b"\0".join((_DIGEST_DOMAIN, network.encode(), name.encode()))).digest()


@functools.lru_cache(maxsize=UNVERIFIED_MODELS_MAX * 4)
def with_digest(network: NetworkId, model: UnverifiedModel) -> UnverifiedModel:
    """An unverified model as the rest of the system needs it: with its digest."""
    return model.model_copy(update={"digest": unverified_digest(network, model.name).hex()})
