"""Owns the form of a chat request as OpenAI's API defines it, and what of it goes to a node.

Source: OpenAI API reference, "Create chat completion". Fields that do not change the answer
(`user`, `metadata`, `store`, `service_tier`, ...) and unknown ones are ignored; fields that would
change it and that this network cannot honour are refused by name, because the consumer pays for the
answer.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from gateway.errors import GatewayError, InvalidRequestError, UnsupportedError
from gateway.jobs import RequestSize
from p2p.limits import NAME_CHARACTERS_MAX, REQUEST_BYTES_MAX

MESSAGES_MAX = 4096
PARTS_MAX = 1024
TOOLS_MAX = 128
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
}


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")


class TextPart(_Part):
    """A piece of text."""

    type: Literal["text"]
    text: str


class RefusalPart(_Part):
    """A refusal that a model gave earlier."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(_Part):
    """Where an image is (a data URL)."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Part):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


class AudioPart(_Part):
    """Sound; refused."""

    type: Literal["input_audio"]
    input_audio: dict[str, Any]


class FilePart(_Part):
    """A file; refused."""

    type: Literal["file"]
    file: dict[str, Any]


Part = Annotated[
    TextPart | RefusalPart | ImagePart | AudioPart | FilePart, Field(discriminator="type")
]
Content = Annotated[str | list[Part], Field(union_mode="left_to_right")]


class FunctionCall(_Part):
    """A call that a model made."""

    name: str
    arguments: str


class ToolCall(_Part):
    """A tool call that a model made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(pydantic.BaseModel):
    """One message of the conversation."""

    model_config = pydantic.ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=TOOLS_MAX)] | None = None
    tool_call_id: str | None = None


class StreamOptions(pydantic.BaseModel):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class Function(pydantic.BaseModel):
    """A function that the model may call."""

    model_config = pydantic.ConfigDict(extra="ignore")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(pydantic.BaseModel):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class ResponseFormat(pydantic.BaseModel):
    """What form the answer must have."""

    model_config = pydantic.ConfigDict(extra="ignore")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class ChatRequest(pydantic.BaseModel):
    """The body of `POST /v1/chat/completions`."""

    model_config = pydantic.ConfigDict(extra="ignore", allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
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
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    tools: Annotated[list[Tool], Field(max_length=TOOLS_MAX)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None

    @property
    def output_tokens(self) -> int | None:
        """The client's limit on output tokens: the newer name wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a streamed answer ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def for_node(self) -> bytes:
        """The compact JSON that is offered to a node. Raises: InvalidRequestError (too large)."""
        data = self.model_dump_json(include=_SENT, exclude_none=True).encode()
        if len(data) > REQUEST_BYTES_MAX:
            raise InvalidRequestError(
                f"The request has {len(data)} bytes of messages and tools; at most "
                f"{REQUEST_BYTES_MAX} can be sent to a node.",
                param="messages",
            )
        return data

    def size(self) -> RequestSize:
        """What bounds the number of input tokens."""
        text_bytes = 0
        for message in self.messages:
            text_bytes += _text_bytes(message)
        tools_bytes = 0
        if self.tools:
            tools_bytes = sum(len(tool.model_dump_json()) for tool in self.tools)
            # Templates print tools with spaces and escapes that the compact JSON does not have.
            tools_bytes = 2 * tools_bytes + 64 * len(self.tools)
        return RequestSize(text_bytes, len(self.messages), tools_bytes)

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

    def has_images(self) -> bool:
        """Whether a message has image parts."""
        return any(
            isinstance(part, ImagePart)
            for message in self.messages
            if isinstance(message.content, list)
            for part in message.content
        )


def _text_bytes(message: ChatMessage) -> int:
    content = message.content
    if isinstance(content, str):
        count = len(content.encode())
    else:
        count = 0
        for part in content or ():
            if isinstance(part, TextPart):
                count += len(part.text.encode()) + 1
            elif isinstance(part, RefusalPart):
                count += len(part.refusal.encode()) + 1
    if message.name:
        count += len(message.name.encode())
    for call in message.tool_calls or ():
        count += len(call.model_dump_json()) * 2 + 64
    if message.tool_call_id:
        count += len(message.tool_call_id.encode())
    return count


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
        (bool(request.n and request.n > 1), "n", "Only n=1 is supported"),
        (bool(request.logprobs), "logprobs", "logprobs are not supported"),
        (bool(request.top_logprobs), "top_logprobs", "top_logprobs are not supported"),
        (request.audio is not None, "audio", "Audio output is not supported"),
        (
            request.modalities is not None and request.modalities != ["text"],
            "modalities",
            "Only the modality text is supported",
        ),
        (bool(request.functions), "functions", "functions are not supported; use tools"),
        (
            request.function_call not in (None, "none", "auto"),
            "function_call",
            "function_call is not supported; use tool_choice",
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
    _check_tool_choice(request)
    for index, message in enumerate(request.messages):
        _check_message(index, message)


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


def _check_message(index: int, message: ChatMessage) -> None:
    where = f"messages[{index}].content"
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        raise InvalidRequestError(f"Missing required parameter: '{where}'.", param=where)
    if isinstance(message.content, list):
        if len(message.content) > PARTS_MAX:
            raise InvalidRequestError(f"'{where}' has more than {PARTS_MAX} parts.", param=where)
        for part in message.content:
            if isinstance(part, AudioPart | FilePart):
                raise UnsupportedError(
                    f"Parts of type {part.type} are not supported by this network.", param=where
                )
    if message.role == "tool" and not message.tool_call_id:
        where = f"messages[{index}].tool_call_id"
        raise InvalidRequestError(f"Missing required parameter: '{where}'.", param=where)


def json_text(text: str) -> bytes:
    """A text as a JSON string."""
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")
