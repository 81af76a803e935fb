"""Owns the error tree of the gateway: what a client is told, and what becomes of its hold.

GatewayError
├── RequestError             the client must change its request (the hold, if any, is released)
│   ├── InvalidRequestError      400 invalid_request_error
│   ├── UnsupportedError         400 the network cannot do this (names the parameter)
│   ├── UnverifiedModelError     400 unverified_model (how to accept it)
│   ├── WrongTaskError           400 model_task_mismatch (chat with an embeddings model, ...)
│   ├── ContextLengthError       400 context_length_exceeded (both numbers)
│   ├── AuthenticationError      401 invalid_api_key
│   ├── NotAllowedError          403 the key does not allow this
│   │   ├── CallerNotAllowedError    403 caller_not_allowed (by the subcloud's policy)
│   │   ├── CallerTokenError         403 caller_token_refused
│   │   ├── GatewayNotAdmittedError  403 gateway_not_admitted (by the subcloud's policy)
│   │   ├── GatewayPrivateError      403 gateway_private (it serves its own account's keys only)
│   │   ├── SubcloudPriceError       403 subcloud_price (above the policy's ceiling)
│   │   └── SubcloudClosedError      403 subcloud_closed (expired, ended, banned)
│   ├── SubcloudConflictError    400 subcloud_conflict (two subclouds in one request)
│   ├── SubcloudUnknownError     404 subcloud_not_found (how to name one)
│   ├── ModelUnknownError        404 model_not_found (what exists)
│   ├── RouteUnknownError        404 unknown_url
│   ├── MethodNotAllowedError    405 method_not_allowed
│   ├── BodyTooLargeError        413 request_too_large
│   └── InsufficientQuotaError   429 insufficient_quota
├── RetryLaterError          the client may try again later (the hold is released)
│   ├── RateLimitError           429 rate_limit_exceeded
│   ├── CreditLeasedError        429 credit_leased (how much, until when)
│   ├── NoNodeError              503 no_node_available (which filter removed how many)
│   │   └── NoMemberError            503 no_member_available (which criterion removed how many)
│   ├── SubcloudUnavailableError 503 subcloud_unavailable (its policy is not known here yet)
│   ├── LedgerUnavailableError   503 ledger_unavailable
│   ├── GatewayFullError         503 gateway_exposure (limit, use and reset)
│   └── StoppingError            503 gateway_stopping
├── AnswerFailedError        502 the answer broke off (what was delivered is captured)
├── InternalError            500 our bug
└── GatewaySetupError        the operator must act: the gateway does not start
    └── PortInUseError

Shapes follow OpenAI's API: `{"error": {"message", "type", "param", "code"}}`. No message names a
node.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar


class HoldFate(enum.Enum):
    """What becomes of a job's hold when it ends with this error."""

    RELEASE = "release"
    CAPTURE_DELIVERED = "capture what was delivered"


class GatewayError(Exception):
    """Anything that a client is told. `retry_after_s` becomes the Retry-After header."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    hold: ClassVar[HoldFate] = HoldFate.RELEASE

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The JSON body as OpenAI shapes it."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


class RequestError(GatewayError):
    """The client must change its request."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_request"


class InvalidRequestError(RequestError):
    """Malformed JSON or a field that breaks its form (`param` names it)."""

    code = "invalid_value"


class UnsupportedError(RequestError):
    """The network cannot do what a parameter asks for."""

    code = "unsupported_parameter"


class UnverifiedModelError(RequestError):
    """Nobody can verify the model, and the request does not accept that."""

    code = "unverified_model"


class WrongTaskError(RequestError):
    """The model is not for this endpoint."""

    code = "model_task_mismatch"


class ContextLengthError(RequestError):
    """The prompt does not fit the model's context."""

    code = "context_length_exceeded"


class AuthenticationError(RequestError):
    """No API key, or not a valid one."""

    status = 401
    code = "invalid_api_key"


class NotAllowedError(RequestError):
    """The API key does not allow this model or gateway."""

    status = 403
    kind = "permission_error"
    code = "key_not_allowed"


class CallerNotAllowedError(NotAllowedError):
    """The subcloud's policy does not admit this caller."""

    code = "caller_not_allowed"


class CallerTokenError(NotAllowedError):
    """The subcloud's bearer token is not good (any more)."""

    code = "caller_token_refused"


class GatewayNotAdmittedError(NotAllowedError):
    """The subcloud's policy does not let this gateway send jobs."""

    code = "gateway_not_admitted"


class GatewayPrivateError(NotAllowedError):
    """This gateway serves the keys of its own account only."""

    code = "gateway_private"


class SubcloudPriceError(NotAllowedError):
    """The model costs more than the subcloud's policy lets it cost."""

    code = "subcloud_price"


class SubcloudClosedError(NotAllowedError):
    """The subcloud's policy has expired or ended, or the network has banned it."""

    code = "subcloud_closed"


class SubcloudConflictError(RequestError):
    """A request names two different subclouds."""

    code = "subcloud_conflict"


class SubcloudUnknownError(RequestError):
    """There is no such subcloud in this network."""

    status = 404
    code = "subcloud_not_found"


class ModelUnknownError(RequestError):
    """There is no such model in this network."""

    status = 404
    code = "model_not_found"


class RouteUnknownError(RequestError):
    """There is no such URL."""

    status = 404
    code = "unknown_url"


class MethodNotAllowedError(RequestError):
    """The URL exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class BodyTooLargeError(RequestError):
    """The request's body is larger than what is accepted."""

    status = 413
    code = "request_too_large"


class InsufficientQuotaError(RequestError):
    """The namespace cannot pay for the job's maximum, or the key's cap is reached."""

    status = 429
    kind = "insufficient_quota"
    code = "insufficient_quota"


class RetryLaterError(GatewayError):
    """Nothing is wrong with the request: try again later."""

    status = 503
    kind = "server_error"
    code = "unavailable"


class RateLimitError(RetryLaterError):
    """Too many requests."""

    status = 429
    kind = "rate_limit_error"
    code = "rate_limit_exceeded"


class CreditLeasedError(RetryLaterError):
    """The credit that is missing is set aside for other gateways and comes back soon."""

    status = 429
    kind = "rate_limit_error"
    code = "credit_leased"


class NoNodeError(RetryLaterError):
    """No node takes the job now (the message says why not, without naming nodes)."""

    code = "no_node_available"


class NoMemberError(NoNodeError):
    """No member of the subcloud may or can take the job now (the message says why not)."""

    code = "no_member_available"


class SubcloudUnavailableError(RetryLaterError):
    """The subcloud's policy in force is not known everywhere yet."""

    code = "subcloud_unavailable"


class LedgerUnavailableError(RetryLaterError):
    """The ledger does not answer: nobody can say who pays."""

    code = "ledger_unavailable"


class GatewayFullError(RetryLaterError):
    """This gateway has as much credit in use as the network lets one gateway have."""

    code = "gateway_exposure"


class StoppingError(RetryLaterError):
    """This gateway is starting or stopping."""

    code = "gateway_stopping"


class AnswerFailedError(GatewayError):
    """The answer broke off and could not be continued on another node."""

    status = 502
    code = "answer_failed"
    hold = HoldFate.CAPTURE_DELIVERED


class InternalError(GatewayError):
    """Our bug: the log has it."""


class GatewaySetupError(GatewayError):
    """The gateway cannot start: the operator must act."""

    code = "setup"


class PortInUseError(GatewaySetupError):
    """The HTTP address cannot be listened on."""
