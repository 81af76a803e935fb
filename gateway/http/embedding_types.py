"""Owns the form of an embeddings request as OpenAI's API defines it, and of its answer. Pure.

Source: OpenAI API reference, "Create embeddings". `input` is a text, a list of texts, a list of
tokens, or a list of lists of tokens (of this model's own tokenizer). Unknown fields and `user` are
ignored, but not unknown options in `resultity`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from gateway.errors import InternalError, InvalidRequestError
from gateway.http.resultity_options import (
    ADDRESSED_MODEL_CHARACTERS_MAX,
    ResultityOptions,
    subcloud_of,
)
from gateway.http.sse import note_of
from gateway.jobs import ChatJob, Done, RequestSize
from p2p.api_keys import ApiKey
from p2p.embeddings import EMBEDDINGS, request_json, vector_numbers
from p2p.limits import (
    EMBEDDING_DIMENSIONS_MAX,
    EMBEDDING_INPUTS_MAX,
    REQUEST_BYTES_MAX,
)
from p2p.signing import Signed

_TOKEN_ID_MAX = 2**32 - 1
_FORMS = "a text, a list of texts, a list of token IDs, or a list of lists of token IDs"


class EmbeddingsRequest(pydantic.BaseModel):
    """The body of `POST /v1/embeddings`."""

    model_config = pydantic.ConfigDict(extra="ignore")

    model: Annotated[str, Field(min_length=1, max_length=ADDRESSED_MODEL_CHARACTERS_MAX)]
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=EMBEDDING_DIMENSIONS_MAX, strict=True)] | None = None
    resultity: ResultityOptions | None = None

    def inputs(self) -> Sequence[str] | Sequence[Sequence[int]]:
        """The texts, or the lists of tokens, that get a vector each.

        Raises: InvalidRequestError that names the place.
        """
        return _inputs(self.input)

    def job(
        self,
        *,
        job_id: bytes,
        key: ApiKey,
        body: bytes,
        source: str,
        caller_token: Signed | None = None,
    ) -> ChatJob:
        """The job that answers this. Raises: InvalidRequestError."""
        inputs = self.inputs()
        data = request_json(inputs, self.dimensions)
        if len(data) > REQUEST_BYTES_MAX:
            raise InvalidRequestError(
                f"The inputs have {len(data)} bytes; at most {REQUEST_BYTES_MAX} can be sent to a "
                "node. Please send fewer of them at once.",
                param="input",
            )
        size = sum(len(item.encode() if isinstance(item, str) else item) for item in inputs)
        return ChatJob(
            job_id=job_id,
            key=key,
            model=self.model,
            request=data,
            body_hash=hashlib.sha256(body).digest(),
            streaming=False,
            size=RequestSize(size, len(inputs)),
            max_tokens=None,
            seed=0,
            source=source,
            task=EMBEDDINGS,
            dimensions=self.dimensions,
            accept_unverified=bool(self.resultity and self.resultity.accept_unverified),
            subcloud=subcloud_of(self.resultity),
            caller_token=caller_token,
        )


def parse_embeddings_request(body: bytes) -> EmbeddingsRequest:
    """Read and validate a request's body. Raises: InvalidRequestError (names the field)."""
    try:
        return EmbeddingsRequest.model_validate_json(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise InvalidRequestError(
            f"We could not parse the JSON body of your request ({first['msg']})."
        )
    where = str(first["loc"][0]) if first["loc"] else None
    if where is None:
        raise InvalidRequestError(f"Invalid body: {first['msg']}.")
    if first["type"] == "missing":
        raise InvalidRequestError(f"Missing required parameter: '{where}'.", param=where)
    raise InvalidRequestError(f"Invalid value for '{where}': {first['msg']}.", param=where)


def _inputs(value: Any) -> Sequence[str] | Sequence[Sequence[int]]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise InvalidRequestError(f"Invalid value for 'input': give {_FORMS}.", param="input")
    if value and type(value[0]) is int:
        value = [value]
    if not 0 < len(value) <= EMBEDDING_INPUTS_MAX:
        raise InvalidRequestError(
            f"'input' has {len(value)} entries; 1 to {EMBEDDING_INPUTS_MAX} are allowed.",
            param="input",
        )
    kind = type(value[0])
    for index, item in enumerate(value):
        if type(item) is not kind or not (_is_text(item) or _are_tokens(item)):
            where = f"input[{index}]"
            raise InvalidRequestError(
                f"Invalid value for '{where}': it must not be empty, and 'input' must be {_FORMS}.",
                param="input",
            )
    inputs: list[str] | list[list[int]] = value
    return inputs


def _is_text(item: object) -> bool:
    if not isinstance(item, str) or not item:
        return False
    # JSON can spell half a character; no tokenizer takes it.
    return item.isascii() or not any("\ud800" <= character <= "\udfff" for character in item)


def _are_tokens(item: object) -> bool:
    if not isinstance(item, list) or not item:
        return False
    return all(type(token) is int and 0 <= token <= _TOKEN_ID_MAX for token in item)


def answer_body(request: EmbeddingsRequest, done: Done) -> bytes:
    """The JSON of the answer. The receipt is over the vectors' lines (`p2p.embeddings`), which
    `encoding_format` base64 shows as they are. Raises: InternalError if `done` holds no vectors."""
    lines = done.choices[0].text.split("\n")
    if len(lines) < 2 or lines.pop():
        raise InternalError("An internal error; it was logged.")
    # Vector by vector: as objects, three million numbers would take ten times the memory.
    parts = [b'{"object": "list", "data": [']
    shown = json.dumps if request.encoding_format == "base64" else _numbers_json
    for index, line in enumerate(lines):
        item = b'{"object": "embedding", "index": %d, "embedding": %s}'
        parts.append((b", " if index else b"") + item % (index, shown(line).encode()))
    rest = {
        "model": request.model,
        "usage": {"prompt_tokens": done.input_tokens, "total_tokens": done.input_tokens},
        "resultity": note_of(done.note),
    }
    parts.append(b"], " + json.dumps(rest, ensure_ascii=False).encode("utf-8", "replace")[1:])
    return b"".join(parts)


def _numbers_json(line: str) -> str:
    """A vector's numbers; nine digits are enough for the same 32-bit ones."""
    numbers = vector_numbers(line)
    text = "%.9g, " * len(numbers) % tuple(numbers)
    # As an integer, which "-0" would be, zero has no sign.
    return f"[{text.replace('-0, ', '-0.0, ')[:-2]}]"
