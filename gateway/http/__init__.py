"""The HTTP side of the gateway: OpenAI's API and the public pages, on uvicorn in its own thread."""
