"""Owns the parts of a chat request's body that OpenAI's API defines: messages, tools, formats.

Source: OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from gateway.errors import InvalidRequestError, UnsupportedError

PARTS_MAX = 1024
TOOLS_MAX = 128


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


def text_bytes(message: ChatMessage) -> int:
    """The bytes of a message's text, as a template may print it."""
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


def check_message(index: int, message: ChatMessage) -> None:
    """Refuse a message that says nothing, or what cannot be carried.

    Raises: InvalidRequestError, UnsupportedError.
    """
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
