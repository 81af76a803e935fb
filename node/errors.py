"""Owns the error tree of the node.

NodeError
├── ModelFileError            the model file is damaged, hostile or unusable (operator must act)
├── SandboxError              the runtime cannot be kept from the network (operator must act)
├── MetricsPortError          the port for metrics is taken (operator must act)
├── RuntimeStartError         the runtime cannot start with these settings (operator must act)
├── RuntimeRefusedError       the runtime understood a job and said no (caller must act, see code)
└── RuntimeUnavailableError   the runtime is not there right now (retry elsewhere or later)

The runtime process raises RuntimeRefusedError too; it crosses the pipe as a `Rejected` message.
"""

from __future__ import annotations


class NodeError(Exception):
    """Anything that the node reports to its callers."""


class ModelFileError(NodeError):
    """The model file cannot be used; the message says what is wrong with it."""


class SandboxError(NodeError):
    """The system offers no sandbox, and the operator does not want to go on without one."""


class MetricsPortError(NodeError):
    """The metrics cannot be served where the operator wants them."""


class RuntimeStartError(NodeError):
    """The runtime process did not come up; the message says why."""


class NoRoomError(NodeError):
    """The cache has no room for a step; nothing was computed (inside the runtime only)."""


class RuntimeUnavailableError(NodeError):
    """The runtime is down, restarting or does not answer: try another node."""


class RuntimeRefusedError(NodeError):
    """The runtime refuses a job.

    Attributes:
        code: `bad_request`, `unsupported`, `context_length_exceeded` or `busy` (see
            `p2p.job_messages.REFUSALS`).
        input_tokens: the exact length of the prompt, if it got that far, else 0.
        context_tokens: the context that it would have to fit into, else 0.
    """

    def __init__(
        self, code: str, reason: str, *, input_tokens: int = 0, context_tokens: int = 0
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.input_tokens = input_tokens
        self.context_tokens = context_tokens
