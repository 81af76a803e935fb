"""The gateway role: the OpenAI-compatible API, the bridge, and the peer that dispatches jobs."""
