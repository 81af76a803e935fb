"""Owns who pays for a job, what it may cost, and the hold for it."""

from __future__ import annotations

import logging

from gateway.errors import (
    AuthenticationError,
    InternalError,
    LedgerUnavailableError,
    ModelUnknownError,
    NotAllowedError,
    StoppingError,
)
from gateway.jobs import ChatJob
from gateway.limits import HOLD_MARGIN_S, RETRY_AFTER_S
from gateway.peer.admission import Quote, quote_job
from gateway.peer.keys import Payer
from gateway.peer.ledger_port import as_client_error
from gateway.peer.services import Services
from p2p.errors import P2PError, RefusedError
from p2p.key_limits import network_of
from p2p.network_configuration import ApprovedModel, price_terms
from p2p.signing import Signed

log = logging.getLogger(__name__)
ID_BYTES = 16


class Funding:
    """A job's payer, its bounds, and its hold."""

    def __init__(
        self,
        services: Services,
        job: ChatJob,
        payer: Payer,
        model: ApprovedModel,
        quote: Quote,
        source_network: str,
    ) -> None:
        self.payer = payer
        self._source_network = source_network
        self._tokens_taken = services.key_rates.take(
            payer.record, quote.input_tokens_max + quote.output_tokens_max
        )
        self.model = model
        self.model_digest = bytes.fromhex(model.digest)
        self.quote = quote
        self.hold_id = services.random_bytes(ID_BYTES)
        self.may_be_held = False
        """Whether a hold exists, or may exist because the ledger's answer was lost."""
        self.voucher: Signed | None = None
        limits = services.configuration.current.limits
        self.deadline_s = services.now_s() + limits.job_deadline_s_max
        self.deadline_ms = services.clock_ms() + limits.job_deadline_s_max * 1000
        lifetime_s = min(limits.hold_lifetime_s_max - 1, limits.job_deadline_s_max + HOLD_MARGIN_S)
        self._lifetime_ms = int(lifetime_s * 1000)
        self._services = services
        self._job = job

    @property
    def overlaps(self) -> bool:
        """Whether the balance is high enough for the hold to overlap the offer."""
        return self.payer.covers(self.quote.maximum)

    def end(self, tokens_used: int) -> None:
        """Give back what the job did not use of its key's tokens a minute."""
        unused, self._tokens_taken = self._tokens_taken - tokens_used, 0
        self._services.key_rates.give_back(self.payer.record.key_id, unused)

    async def take_hold(self) -> None:
        """Hold the job's maximum; the voucher is there afterwards.

        Raises: InsufficientQuotaError, AuthenticationError, NotAllowedError,
        LedgerUnavailableError."""
        services, payer, quote = self._services, self.payer, self.quote
        payer.balance.available -= quote.maximum
        self.may_be_held = True
        services.settlement.journal_hold(self.hold_id)
        try:
            result = await services.ledger.hold(
                payer.key,
                hold_id=self.hold_id,
                job_id=self._job.job_id,
                maximum=quote.maximum,
                terms=quote.terms,
                expires_ms=services.clock_ms() + self._lifetime_ms,
                source_network=self._source_network,
            )
        except P2PError as error:
            refusal = as_client_error(error)
            if isinstance(error, RefusedError) and not isinstance(refusal, LedgerUnavailableError):
                self.may_be_held = False
                services.settlement.never_held(self.hold_id)
            if isinstance(refusal, AuthenticationError | NotAllowedError | InternalError):
                log.warning("job %s: no hold: %s", self._job.job_id.hex(), error)
            services.keys.forget(payer.key)
            raise refusal from error
        payer.balance.available = result.available
        self.voucher = result.voucher


async def admit(services: Services, job: ChatJob) -> Funding:
    """Say who pays for a job and what it may cost.

    Raises: AuthenticationError, ModelUnknownError, NotAllowedError, InvalidRequestError,
        ContextLengthError, RateLimitError, LedgerUnavailableError, StoppingError (no
        configuration yet).
    """
    payer = services.keys.cached(job.key)
    if payer is None:
        payer = await services.keys.check(job.key)
    if services.settlement.is_full:
        raise LedgerUnavailableError(
            "Too many settlements wait for the ledger.", retry_after_s=RETRY_AFTER_S
        )
    if not services.configuration.known:
        raise StoppingError("This gateway is starting.", retry_after_s=RETRY_AFTER_S)
    configuration = services.configuration.current
    model = configuration.model_named(job.model)
    if model is None:
        names = ", ".join(known.name for known in configuration.models) or "none"
        raise ModelUnknownError(
            f"The model `{job.model[:100]}` does not exist. Available models: {names}.",
            param="model",
        )
    if payer.record.models and model.name not in payer.record.models:
        raise NotAllowedError(f"This API key does not allow the model {model.name}.", param="model")
    network = _source_network(payer, job.source)
    quote = quote_job(model, price_terms(configuration, model), job.size, job.max_tokens)
    return Funding(services, job, payer, model, quote, network)


def _source_network(payer: Payer, address: str) -> str:
    """The network that the client is in, of those that its key is limited to; empty if it is not.

    Raises: NotAllowedError.
    """
    networks = payer.record.limits.networks
    if not networks:
        return ""
    found = network_of(networks, address)
    if not found:
        raise NotAllowedError(
            f"This API key is limited to the source networks {', '.join(networks)}; this request "
            f"comes from {address or 'an unknown address'}."
        )
    return found
