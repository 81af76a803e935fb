"""Owns who may use models that nobody can verify. Pure.

An unverified model is a name under which operators offer servers of their own: nobody can check
what answers. So it is used only where the request, or its subcloud's policy, accepts that.
"""

from __future__ import annotations

from gateway.errors import AnswerFailedError, UnsupportedError, UnverifiedModelError
from gateway.jobs import ChatJob
from gateway.limits import RETRY_AFTER_S
from p2p.network_configuration import ApprovedModel


def check_accepted(job: ChatJob, model: ApprovedModel, *, admitted: bool = False) -> None:
    """Refuse an unverified model to a request that does not accept it.

    `admitted`: the policy of the subcloud that the job belongs to accepts it for its callers.
    Raises: UnverifiedModelError, UnsupportedError (images for a model that takes none).
    """
    if model.verified:
        return
    if not (job.accept_unverified or admitted):
        raise UnverifiedModelError(
            f"The model {model.name} is unverified: it runs on servers of operators that nobody "
            'can check. To accept that, send "resultity": {"accept_unverified": true} in the body '
            "(extra_body in OpenAI's clients).",
            param="model",
        )
    if job.needs_images and not model.takes_images:
        raise UnsupportedError(f"The model {model.name} takes no images.", param="messages")


def cannot_continue(model: str) -> AnswerFailedError:
    """The error for an answer that broke off: only the server that began it has its state."""
    return AnswerFailedError(
        f"The answer broke off. Those of unverified models, as {model}, cannot be continued on "
        "another node.",
        retry_after_s=RETRY_AFTER_S,
    )
