"""Owns the baseline: the least that an OpenAI-shaped handler costs on FastAPI under uvicorn.

A pydantic body, a bearer check, a fixed answer of 20 tokens, streamed or not; no queue, no network
behind it, no money. What the gateway takes beyond this is what Resultity adds.
Started as `python tests/bench/baseline.py --key KEY`; prints its URL when it listens.
"""

from __future__ import annotations

import argparse
import hmac
import json
import socket
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pydantic
import uvicorn
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse

TOKENS = [f"word{number} " for number in range(20)]
HEAD = {"id": "chatcmpl-baseline", "created": 0, "model": "baseline"}


class Message(pydantic.BaseModel):
    role: str
    content: str


class Request(pydantic.BaseModel):
    model: str
    messages: list[Message]
    stream: bool = False
    max_tokens: int | None = None


def make_app(key: str) -> FastAPI:
    """Make the handler. Only this key is let in."""
    app = FastAPI()
    expected = f"Bearer {key}"

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(
        request: Request, authorization: Annotated[str, Header()] = ""
    ) -> dict[str, Any] | StreamingResponse:
        if not hmac.compare_digest(authorization, expected):
            raise HTTPException(401)
        if request.stream:
            return StreamingResponse(stream(), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(TOKENS)}
        return {
            **HEAD,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50},
        }

    return app


async def stream() -> AsyncIterator[str]:
    """The answer as server-sent events: the role, the text at once, the end."""
    yield event({"role": "assistant", "content": ""}, None)
    yield event({"content": "".join(TOKENS)}, None)
    yield event({}, "stop")
    yield "data: [DONE]\n\n"


def event(delta: dict[str, str], finish_reason: str | None) -> str:
    """One chunk."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return (
        f"data: {json.dumps({**HEAD, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--key", required=True)
    given = parser.parse_args()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", flush=True)
    configuration = uvicorn.Config(
        make_app(given.key), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
    uvicorn.Server(configuration).run(sockets=[listener])


if __name__ == "__main__":
    main()
