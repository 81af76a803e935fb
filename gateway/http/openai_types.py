"""Owns the form of a chat request as OpenAI's API defines it, and what of it goes to a node.

Source: OpenAI API reference, "Create chat completion". Fields that do not change the answer
(`user`, `metadata`, `store`, `service_tier`, ...) and unknown ones are ignored; fields that would
change it and that this network cannot honour are refused by name, because the consumer pays for the
answer.
"""

from __future__ import annotations

import datetime
import json
from typing import Annotated, Any

import pydantic
from pydantic import Field

from gateway.errors import GatewayError, InvalidRequestError, UnsupportedError
from gateway.http.chat_messages import (
    TOOLS_MAX,
    ChatMessage,
    ImagePart,
    ResponseFormat,
    StreamOptions,
    Tool,
    check_message,
    text_bytes,
)
from gateway.http.resultity_options import ADDRESSED_MODEL_CHARACTERS_MAX, ResultityOptions
from gateway.jobs import RequestSize
from p2p.limits import (
    CHOICES_MAX,
    REQUEST_BYTES_MAX,
    TOP_LOGPROBS_MAX,
)

MESSAGES_MAX = 4096
STOPS_MAX = 16
StopString = Annotated[str, Field(min_length=1, max_length=256)]
LOGIT_BIAS_MAX = 1024
SEED_MAX = 2**63

_SENT = {
    "messages",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "n",
    "logprobs",
    "top_logprobs",
}


class ChatRequest(pydantic.BaseModel):
    """The body of `POST /v1/chat/completions`."""

    model_config = pydantic.ConfigDict(extra="ignore", allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=ADDRESSED_MODEL_CHARACTERS_MAX)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=LOGIT_BIAS_MAX)
        ]
        | None
    ) = None
    stop: StopString | Annotated[list[StopString], Field(max_length=STOPS_MAX)] | None = None
    seed: Annotated[int, Field(ge=-SEED_MAX, lt=SEED_MAX)] | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES_MAX)] | None = None
    tools: Annotated[list[Tool], Field(max_length=TOOLS_MAX)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    resultity: ResultityOptions | None = None

    @property
    def output_tokens(self) -> int | None:
        """The client's limit on output tokens: the newer name wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a streamed answer ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def for_node(self, day: datetime.date) -> bytes:
        """The compact JSON that is offered to a node; `day` (UTC) is for templates that write it.

        Raises: InvalidRequestError (too large)."""
        include = _SENT if self.choices > 1 else _SENT - {"n"}
        data = self.model_dump_json(include=include, exclude_none=True).encode()
        data = b'%s,"date":"%s"}' % (data[:-1], day.isoformat().encode())
        if len(data) > REQUEST_BYTES_MAX:
            raise InvalidRequestError(
                f"The request has {len(data)} bytes of messages and tools; at most "
                f"{REQUEST_BYTES_MAX} can be sent to a node.",
                param="messages",
            )
        return data

    def size(self) -> RequestSize:
        """What bounds the number of input tokens."""
        count = 0
        for message in self.messages:
            count += text_bytes(message)
        tools_bytes = 0
        if self.tools:
            tools_bytes = sum(len(tool.model_dump_json()) for tool in self.tools)
            # Templates print tools with spaces and escapes that the compact JSON does not have.
            tools_bytes = 2 * tools_bytes + 64 * len(self.tools)
        return RequestSize(count, len(self.messages), tools_bytes, self.image_count())

    @property
    def is_forced(self) -> bool:
        """Whether the answer must be a tool call."""
        return self.tool_choice is not None and self.tool_choice not in ("auto", "none")

    def callable_functions(self) -> dict[str, dict[str, Any]]:
        """The functions whose calls are to be found in the answer: schemas of parameters."""
        is_bound = self.response_format is not None and self.response_format.type != "text"
        if not self.tools or self.tool_choice == "none" or (is_bound and not self.is_forced):
            return {}
        return {tool.function.name: tool.function.parameters or {} for tool in self.tools}

    @property
    def accepts_unverified(self) -> bool:
        """Whether a model that nobody can verify may answer."""
        return bool(self.resultity and self.resultity.accept_unverified)

    def has_images(self) -> bool:
        """Whether a message has image parts."""
        return self.image_count() > 0

    def image_count(self) -> int:
        """How many image parts the messages have."""
        return sum(
            isinstance(part, ImagePart)
            for message in self.messages
            if isinstance(message.content, list)
            for part in message.content
        )


def parse_chat_request(body: bytes) -> ChatRequest:
    """Read and validate a request's body.

    Raises: InvalidRequestError (bad JSON, or the field that is wrong), UnsupportedError.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise _as_request_error(error) from error
    _check_surrogates(request)
    _check_supported(request)
    return request


def _as_request_error(error: pydantic.ValidationError) -> GatewayError:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    first = details[0]
    if first["type"] == "json_invalid":
        return InvalidRequestError(
            f"We could not parse the JSON body of your request ({first['msg']})."
        )
    # A union reports one error for each of its members; the deepest is about what was meant.
    first = max(details, key=lambda detail: len(detail["loc"]))
    where = ""
    for part in first["loc"]:
        if isinstance(part, int):
            where += f"[{part}]"
        elif part in ChatRequest.model_fields or not _is_union_tag(part):
            where += f".{part}" if where else str(part)
    if not where:
        return InvalidRequestError(f"Invalid body: {first['msg']}.")
    if first["type"] == "missing":
        return InvalidRequestError(f"Missing required parameter: '{where}'.", param=where)
    return InvalidRequestError(f"Invalid value for '{where}': {first['msg']}.", param=where)


def _is_union_tag(part: str) -> bool:
    return "[" in part or part in {"str", "bool", "int", "float", "dict", "list"}


def _check_surrogates(request: ChatRequest) -> None:
    """JSON can spell half a character; no tokenizer takes it."""
    try:
        request.size()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            "A message holds text that is not valid Unicode.", param="messages"
        ) from error


def _check_supported(request: ChatRequest) -> None:
    refused: list[tuple[bool, str, str]] = [
        (request.audio is not None, "audio", "Audio output is not supported"),
        (
            request.modalities is not None and request.modalities != ["text"],
            "modalities",
            "Only the modality text is supported",
        ),
        (bool(request.functions), "functions", "functions (use tools instead) are not supported"),
        (
            request.function_call not in (None, "none", "auto"),
            "function_call",
            "function_call (use tool_choice instead) is not supported",
        ),
        (
            request.web_search_options is not None,
            "web_search_options",
            "Web search is not supported",
        ),
    ]
    for is_refused, param, text in refused:
        if is_refused:
            raise UnsupportedError(f"{text} by this network.", param=param)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequestError(
            "'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs"
        )
    _check_tool_choice(request)
    for index, message in enumerate(request.messages):
        check_message(index, message)


def _check_tool_choice(request: ChatRequest) -> None:
    choice, where = request.tool_choice, "tool_choice"
    if choice in (None, "none", "auto"):
        return
    if not request.tools:
        raise InvalidRequestError(
            "'tool_choice' is only allowed when 'tools' are specified.", param=where
        )
    if choice == "required":
        return
    if isinstance(choice, str):
        raise InvalidRequestError(
            "Invalid value for 'tool_choice': use none, auto, required or a function.", param=where
        )
    assert choice is not None
    if choice.get("type") != "function":
        raise UnsupportedError("Only functions can be chosen by this network.", param=where)
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        where = "tool_choice.function.name"
        raise InvalidRequestError(f"Missing required parameter: '{where}'.", param=where)
    if name not in {tool.function.name for tool in request.tools}:
        raise InvalidRequestError(
            f"Tool choice '{name[:64]}' not found in 'tools' parameter.", param=where
        )


def json_text(text: str) -> bytes:
    """A text as a JSON string."""
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")
