"""Owns one model of an upstream server as the agent sees it: its state, and how well it is.

Theory of operation. A watcher asks the server what it is, tries out what it does not tell, and lets
it answer a short question before the model becomes active. After that it looks again at intervals,
and at once when a job failed for a reason that speaks against the server. A server that does not
answer is asked again with growing pauses. What the network's configuration says about the name is
looked at all the time: a name that it does not list any more is not served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import trio

from node.agent.admission_rules import NO_RULES, OperatorRules, model_refused
from node.agent.runtime_port import ModelCounters, ModelFacts, ModelPace, ModelState
from node.errors import NodeError
from node.limits import MODEL_CHECK_INTERVAL_S
from node.serving.standing import OwnModel, no_own_model
from node.upstream.client import UpstreamClient
from node.upstream.errors import UpstreamError, UpstreamSetupError
from node.upstream.facts import Server, UpstreamFacts
from node.upstream.limits import (
    BACKOFF_S_MAX,
    BACKOFF_S_MIN,
    FAILURES_IN_A_ROW_MAX,
    PROBE_INTERVAL_S,
    REASON_CHARACTERS_MAX,
    SLOTS_DEFAULT,
)
from node.upstream.probing import declared, probe, try_out
from node.upstream.runtime import UpstreamRuntime
from p2p.adverts import ModelAdvert
from p2p.approved_models import ApprovedModel, unverified_digest
from p2p.configuration_book import ConfigurationBook
from p2p.errors import RefusedError
from p2p.network_configuration import price_terms
from p2p.types import NetworkId

log = logging.getLogger(__name__)
RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Declared:
    """What the operator says about a server. None: the server is asked, or tried out.

    `image_urls`: pass on addresses of images, which the server then fetches. `share_cache`: let all
    callers share the server's prompt cache. `rules`: what the operator takes of what is listed.
    `own_model`: what a policy of this node's subclouds lists by itself. `log_reasons`: see
    `UpstreamRuntime`.
    """

    slots: int | None = None
    context_tokens: int | None = None
    images: bool | None = None
    tools: bool | None = None
    image_urls: bool = False
    share_cache: bool = False
    rules: OperatorRules = NO_RULES
    own_model: OwnModel = no_own_model
    log_reasons: bool = True


class UpstreamModel:
    """One model of one server (a `Served`)."""

    def __init__(
        self,
        client: UpstreamClient,
        upstream_name: str,
        name: str,
        configuration: ConfigurationBook,
        network: NetworkId,
        operator: Declared,
        *,
        on_change: Callable[[], None],
        probe_interval_s: float = PROBE_INTERVAL_S,
    ) -> None:
        """Offer the server's `upstream_name` as the network's `name`; begin as pending."""
        self.name = name
        self.digest = unverified_digest(network, name)
        self.state = ModelState.PENDING
        self.reason = "the server was not asked yet"
        self.jobs = 0
        self._upstream_name = upstream_name
        self._client = client
        self._configuration = configuration
        self._operator = operator
        self._on_change = on_change
        self._probe_interval_s = probe_interval_s
        self._restarts = -1
        self._failures = 0
        self._proved: UpstreamFacts | None = None
        self._look = trio.Event()
        self._runtime = UpstreamRuntime(
            client,
            self._configured,
            slots=operator.slots or SLOTS_DEFAULT,
            image_urls=operator.image_urls,
            log_reasons=operator.log_reasons,
            on_result=self._on_result,
        )

    # --- the port -------------------------------------------------------------------------------
    @property
    def facts(self) -> ModelFacts:
        """What it is said to be."""
        return ModelFacts(
            name=self.name,
            digest=self.digest,
            model_id=self.digest,
            quantisation="",
            modalities=self._modalities(),
            verified=False,
            resumable=False,
        )

    @property
    def ready(self) -> bool:
        """Whether a job could start now."""
        return self.state is ModelState.ACTIVE

    @property
    def slots(self) -> int:
        """Jobs that run at once."""
        return self._runtime.slots

    @property
    def pace(self) -> ModelPace:
        """How fast it was lately."""
        rate = self._runtime.pace.rate(trio.current_time())
        return ModelPace(output=rate)

    @property
    def counters(self) -> ModelCounters:
        """What it did."""
        return ModelCounters(
            restarts=max(0, self._restarts), output_tokens=self._runtime.output_tokens
        )

    def count(self, change: int) -> None:
        """A job came or went."""
        self.jobs += change

    def advert(self) -> ModelAdvert | None:
        """What to advertise; None unless it is active."""
        model, facts = self._configured(), self._runtime.facts
        if self.state is not ModelState.ACTIVE or model is None or facts is None:
            return None
        return ModelAdvert(
            name=self.name,
            digest=self.digest,
            model_id=self.digest,
            context_tokens=min(facts.context_tokens or model.context_tokens, model.context_tokens),
            quantisation="",
            slots=self.slots,
            tasks=("chat",),
            modalities=self._modalities(),
            verified=False,
        )

    async def runtime(self, wait_s: float) -> UpstreamRuntime:
        """Give the runtime; nothing is waited for. Raises: RefusedError `runtime`."""
        if self.state is not ModelState.ACTIVE:
            raise RefusedError("runtime", "the model's server is not ready", RETRY_AFTER_S)
        return self._runtime

    # --- watching -------------------------------------------------------------------------------
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the state true, and run the jobs, until cancelled.

        Started when the server was looked at for the first time, however that went.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._runtime.run)
            pause_s = BACKOFF_S_MIN
            while True:
                self._look = trio.Event()
                self._become(*await self._judge())
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                if self.state is ModelState.FAILED:
                    await trio.sleep(pause_s)
                    pause_s = min(2 * pause_s, BACKOFF_S_MAX)
                else:
                    pause_s = BACKOFF_S_MIN
                    await self._pause()

    async def _pause(self) -> None:
        """Wait until it is time to look again, there is a reason to, or what is allowed changed."""
        not_allowed = self._not_allowed()
        with trio.move_on_after(self._probe_interval_s):
            while not self._look.is_set() and self._not_allowed() == not_allowed:
                with trio.move_on_after(MODEL_CHECK_INTERVAL_S):
                    await self._look.wait()

    async def _judge(self) -> tuple[ModelState, str]:
        if not_allowed := self._not_allowed():
            return ModelState.INACTIVE, not_allowed
        try:
            await self._prove()
        except UpstreamSetupError as error:
            return ModelState.FAILED, str(error)
        except NodeError as error:
            self._proved = None
            return ModelState.FAILED, str(error)
        return ModelState.ACTIVE, ""

    async def _prove(self) -> None:
        """Ask the server what it is; if that is news, try it out. Raises: NodeError."""
        told = await self._asked()
        if self._proved is not None and not told.loaded:
            # Unloaded while it was idle: the next job loads it with the context that it had.
            known = self._proved
            told = replace(told, context_tokens=known.context_tokens, loaded=known.loaded)
        doubted = self._failures >= FAILURES_IN_A_ROW_MAX
        if self._proved == told and not doubted:
            return
        self._runtime.facts = await try_out(self._client, told)
        await self._runtime.self_test()
        self._failures = 0
        self._restarts += 1
        if told.server in (Server.OLLAMA, Server.LM_STUDIO):
            # Now that the model is loaded they tell the context that it has.
            told = await self._asked()
            self._runtime.facts = replace(self._runtime.facts, context_tokens=told.context_tokens)
        self._proved = told
        facts = self._runtime.facts
        if self._operator.slots is None and facts.slots is not None:
            self._runtime.widen(facts.slots)
        log.info(
            "model %s at the server: %s, context %s, %d slots, images: %s, tools: %s",
            self.name,
            facts.server,
            facts.context_tokens,
            self.slots,
            facts.images,
            facts.tools,
        )

    async def _asked(self) -> UpstreamFacts:
        return declared(
            await probe(self._client, self._upstream_name),
            context_tokens=self._operator.context_tokens,
            images=self._operator.images,
            tools=self._operator.tools,
            share_cache=self._operator.share_cache,
        )

    def _on_result(self, error: UpstreamError | None) -> None:
        if error is None:
            self._failures = 0
        elif error.sick:
            self._failures += 1
            self._look.set()

    def _become(self, state: ModelState, reason: str) -> None:
        reason = reason[:REASON_CHARACTERS_MAX]
        if (state, reason) == (self.state, self.reason):
            return
        log.info("model %s: %s -> %s%s", self.name, self.state, state, reason and f": {reason}")
        self.state, self.reason = state, reason
        self._on_change()

    def _configured(self) -> ApprovedModel | None:
        if not self._configuration.known:
            return None
        model = self._configuration.current.model_named(self.name)
        if model is not None and not model.verified:
            return model
        return self._operator.own_model(self.digest)

    def _not_allowed(self) -> str:
        """Why the network or the operator's own rules do not have it served, or empty."""
        model = self._configured()
        if model is None:
            return "the network's configuration does not list it as unverified"
        terms = price_terms(self._configuration.current, model)
        return model_refused(self._operator.rules, self.name, terms)[1]

    def _modalities(self) -> tuple[str, ...]:
        model, facts = self._configured(), self._runtime.facts
        images = facts is not None and facts.images and model is not None and model.takes_images
        return ("text", "image") if images else ("text",)
