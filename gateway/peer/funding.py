"""Owns who pays for a job, what it may cost, and the hold for it.

A job is paid from a lease if one has room (`gateway.peer.leases`), else by a hold of its own. If a
node takes no leases, a job that has no output yet changes over to a hold of its own; the answer to
one job comes out of one hold.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from gateway.errors import (
    AuthenticationError,
    GatewayFullError,
    InternalError,
    LedgerUnavailableError,
    ModelUnknownError,
    NotAllowedError,
    StoppingError,
)
from gateway.jobs import ChatJob
from gateway.limits import (
    CREDIT_LEASED_PAUSE_S,
    CREDIT_LEASED_WAIT_S,
    CUT_OFF_RECORD_S,
    HOLD_MARGIN_S,
    RETRY_AFTER_S,
)
from gateway.peer.admission import Quote, quote_job
from gateway.peer.charging import JobOutcome
from gateway.peer.embedding_jobs import check_task, quote_embeddings
from gateway.peer.keys import Payer
from gateway.peer.leases import LeasedVoucher, LocalHold
from gateway.peer.ledger_port import as_client_error
from gateway.peer.observing import NOTHING_OBSERVED, Observations
from gateway.peer.routing import Wanted
from gateway.peer.services import Services
from gateway.peer.sessions import NodeSession
from gateway.peer.unverified import check_accepted
from gateway.subclouds.placing import Place
from gateway.subclouds.selection import with_fallback
from p2p.api_keys import ApiKey
from p2p.embeddings import EMBEDDINGS
from p2p.errors import P2PError, RefusedError
from p2p.key_limits import allows_subcloud, network_of
from p2p.ledger_messages import CaptureLeg, HoldResult
from p2p.network_configuration import ApprovedModel
from p2p.signing import Signed

log = logging.getLogger(__name__)
ID_BYTES = 16
_LOGGED = (AuthenticationError, GatewayFullError, InternalError, NotAllowedError)


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
        place: Place,
    ) -> None:
        self.payer = payer
        self.place = place
        self._source_network = source_network
        self._tokens_taken = services.key_rates.take(
            payer.record, quote.input_tokens_max + quote.output_tokens_sum_max
        )
        self.model = model
        self.model_digest = bytes.fromhex(model.digest)
        self.quote = quote
        self.hold_id = services.random_bytes(ID_BYTES)
        self.may_be_held = False
        """Whether a hold exists, or may exist because the ledger's answer was lost."""
        self.is_owed = False
        """Whether the journal has the capture that ends the job."""
        self.voucher: Signed | None = None
        self.leased: LeasedVoucher | None = None
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

    @property
    def is_paid(self) -> bool:
        """Whether there is something to show to a node."""
        return self.voucher is not None or self.leased is not None

    def take_leased(self) -> bool:
        """Take the job's maximum out of a lease, without a word to the ledger. Returns: whether
        one had room."""
        if self.place.caller_token is not None:
            return False  # its uses are counted, by the ledger, with each hold
        wanted = LocalHold(
            self._job.job_id,
            self.quote.maximum,
            self.deadline_ms,
            self._lifetime_ms,
            self._source_network,
            self.place.caller_network,
        )
        self.leased = self._services.leases.take(self.payer, self.quote.terms, wanted)
        if self.leased is not None:
            self.hold_id = self.leased.hold_id
        return self.leased is not None

    def leave_lease(self) -> None:
        """Give the lease its part back: the next node wants a hold of the job's own."""
        if self.leased is not None:
            self._services.leases.released(self.hold_id)
            self.leased = None
            self.hold_id = self._services.random_bytes(ID_BYTES)

    async def take_hold(self) -> None:
        """Hold the job's maximum; the voucher is there afterwards.

        Raises: InsufficientQuotaError, CreditLeasedError, AuthenticationError, NotAllowedError,
        LedgerUnavailableError."""
        services, payer, quote = self._services, self.payer, self.quote
        payer.balance.available -= quote.maximum
        self.may_be_held = True
        services.settlement.journal_hold(self.hold_id)
        try:
            result = await self._ask_for_hold()
        except P2PError as error:
            refusal = as_client_error(error)
            if isinstance(error, RefusedError) and not isinstance(refusal, LedgerUnavailableError):
                self.may_be_held = False
                services.settlement.never_held(self.hold_id)
                services.keys.forget(payer.key)
            if isinstance(refusal, _LOGGED):
                log.warning("job %s: no hold: %s", self._job.job_id.hex(), error)
            raise refusal from error
        payer.balance.available = result.available
        self.voucher = result.voucher

    async def _ask_for_hold(self) -> HoldResult:
        """Ask until the ledger has an answer that waiting does not change. Raises: P2PError."""
        services = self._services
        give_up_s = services.now_s() + CREDIT_LEASED_WAIT_S
        returning = False
        while True:
            try:
                return await services.ledger.hold(
                    self.payer.key,
                    hold_id=self.hold_id,
                    job_id=self._job.job_id,
                    maximum=self.quote.maximum,
                    terms=self.quote.terms,
                    expires_ms=services.clock_ms() + self._lifetime_ms,
                    source_network=self._source_network,
                    caller_token=self.place.caller_token,
                    caller_network=self.place.caller_network,
                )
            except RefusedError as error:
                full = error.code == "gateway_exposure"
                if not (full or error.code == "credit_leased") or services.now_s() >= give_up_s:
                    raise
                if full:
                    # What came back since the ledger was asked may be enough: one time more.
                    waited, returning = returning, services.leases.make_exposure_room()
                    if not (waited or returning):
                        raise
                else:
                    # Other gateways are told to give back what they do not need; so do we.
                    services.leases.make_room(self.payer)
            await trio.sleep(CREDIT_LEASED_PAUSE_S)

    def show_voucher(self, session: NodeSession, number: int) -> None:
        """Send what pays for an attempt. Raises: SessionLostError."""
        leased, voucher = self.leased, self.voucher
        if leased is not None:
            session.send_leased_voucher(
                number, leased.lease_id, leased.lease, leased.hold, leased.chain
            )
        elif voucher is not None:
            chain = self._services.issuer_chain(voucher.peer_id)
            session.send_voucher(number, voucher, chain)

    # --- the end --------------------------------------------------------------------------------
    def journal_running(self, legs: Sequence[CaptureLeg], observed: Observations) -> None:
        """Note what would be captured if the gateway ended now; nothing once `owe` was called."""
        if not self.is_owed:
            settlement, leased = self._services.settlement, self._leased_hold
            settlement.journal_running(self.hold_id, legs, leased, observed)

    def owe(
        self,
        legs: Sequence[CaptureLeg],
        outcome: JobOutcome,
        observed: Observations = NOTHING_OBSERVED,
    ) -> Signed:
        """Journal the capture by these legs, which `capture` sends: under this ID only, so that
        it is settled once whether a restart sends it or we do."""
        self.is_owed = True
        settlement, leased = self._services.settlement, self._leased_hold
        return settlement.owe(self.hold_id, legs, outcome.value, leased, observed)

    async def capture(self, owed: Signed, amount: int) -> None:
        """Settle the hold by what `owe` gave, which is worth `amount`."""
        if self.leased is not None:
            self._services.leases.charged(self.hold_id, amount)
        await self._services.settlement.capture(self.hold_id, owed)

    async def release(self, outcome: JobOutcome) -> None:
        """Give the whole hold back, if there is or may be one."""
        services = self._services
        if self.leased is not None:
            services.settlement.never_held(self.hold_id)
            services.leases.released(
                self.hold_id,
                failed=outcome is JobOutcome.FAILED,
                client_left=outcome is JobOutcome.CLIENT_LEFT,
            )
        elif self.may_be_held:
            await services.settlement.release(self.hold_id, outcome.value)

    @property
    def _leased_hold(self) -> Signed | None:
        return self.leased.hold if self.leased is not None else None


async def admit(services: Services, job: ChatJob) -> Funding:
    """Say who pays for a job and what it may cost.

    Raises: AuthenticationError, ModelUnknownError, NotAllowedError, InvalidRequestError,
        WrongTaskError, UnverifiedModelError, UnsupportedError, ContextLengthError, RateLimitError,
        LedgerUnavailableError, StoppingError (no configuration yet); as `Placing.place`.
    """
    payer = services.keys.cached(job.key)
    if payer is None:
        payer = await _look_up(services, job.key)
    else:
        services.leases.keep_record(job.key)
    if services.settlement.is_full:
        raise LedgerUnavailableError(
            "Too many settlements wait for the ledger.", retry_after_s=RETRY_AFTER_S
        )
    if not services.configuration.known:
        raise StoppingError("This gateway is starting.", retry_after_s=RETRY_AFTER_S)
    configuration = services.configuration.current
    place, model = await _place(services, job, payer)
    if payer.record.models and model.name not in payer.record.models:
        raise NotAllowedError(f"This API key does not allow the model {model.name}.", param="model")
    check_task(job, model)
    check_accepted(job, model, admitted=place.admits_unverified)
    network = _source_network(payer, job.source)
    terms = place.terms(configuration, model)
    if job.task == EMBEDDINGS:
        quote = quote_embeddings(model, terms, job.size)
    else:
        logprobs = job.top_logprobs
        quote = quote_job(model, terms, job.size, job.max_tokens, job.choices, logprobs)
    return Funding(services, job, payer, model, quote, network, place)


async def _place(services: Services, job: ChatJob, payer: Payer) -> tuple[Place, ApprovedModel]:
    """Say where a job belongs, and which model it names there.

    Raises: as `Placing.place`; ModelUnknownError.
    """
    place = await services.placing.place(job, payer.record)
    configuration = services.configuration.current
    model = place.model_in(configuration)
    if place.known is not None and model is not None:
        fallback = with_fallback(
            place,
            Wanted(
                bytes.fromhex(model.digest),
                1,
                job.needs_images,
                output_tokens_asked=job.max_tokens or 1,
                task=job.task,
                choices=job.choices,
                verified=model.verified,
            ),
            services.registry,
            services.placing.directory,
            now_s=services.now_s(),
            now_ms=services.clock_ms(),
        )
        pool_model = fallback.model_in(configuration)
        # A model of the policy's own exists nowhere else; and a key may be for subclouds only.
        elsewhere = pool_model is not None and allows_subcloud(payer.record.limits, "")
        if fallback.fell_back and pool_model is not None and elsewhere:
            return fallback, pool_model
    if model is None:
        names = ", ".join(m.name for m in place.models(configuration)) or "none"
        raise ModelUnknownError(
            f"The model `{place.model[:100]}` does not exist. Available models: {names}.",
            param="model",
        )
    return place, model


async def _look_up(services: Services, key: ApiKey) -> Payer:
    """Ask the ledger who pays; while it cannot be reached, an open lease lets us go on.

    Raises: AuthenticationError, LedgerUnavailableError.
    """
    try:
        return await services.keys.check(key)
    except LedgerUnavailableError:
        known = services.keys.stale(key, CUT_OFF_RECORD_S) if services.leases.usable(key) else None
        if known is None:
            raise
        return known


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
