"""Owns the look at a node's pieces: from them to one status."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from node.agent.agent import Agent
from node.agent.runtime_port import Served
from node.claims.journal import OwedJournal
from node.hardware import describe_hardware
from node.joining import NodeStanding
from node.observation.status import ModelStatus, NodeStatus
from node.observation.subcloud_status import SubcloudStatus
from node.serving.local_model import LocalModel
from node.serving.models import ServedModels
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.hardware import Hardware
from p2p.ledger_messages import EARNINGS, EarningsRequest, EarningsStatement
from p2p.types import AccountId
from p2p.uplink import Uplink


@dataclass(frozen=True, slots=True)
class NodeView:
    """The pieces of a running node."""

    agent: Agent
    models: ServedModels
    uplink: Uplink
    owed: OwedJournal
    standing: NodeStanding
    account_id: AccountId
    sandboxed: bool
    started_ms: int
    clock_ms: Clock
    hardware: Callable[[], Hardware]
    reach: Callable[[], str] = str
    subclouds: Callable[[], tuple[SubcloudStatus, ...]] = tuple
    wishes_ns: Callable[[], int] = int
    evidence: Callable[[], tuple[str, ...]] = tuple

    def look(self, gateways: int, earnings: EarningsStatement | None) -> NodeStatus:
        """Give the status now; `gateways` are the open sessions."""
        agent, load, now_ms = self.agent, self.agent.load(), self.clock_ms()
        served = tuple(self.models.all())
        models = tuple(_look_at(model) for model in served)
        refusals, hours = agent.refusals, agent.hours
        return NodeStatus(
            network=agent.network,
            peer_id=agent.key_pair.peer_id,
            account_id=self.account_id,
            pid=os.getpid(),
            started_ms=self.started_ms,
            at_ms=now_ms,
            certificate_expires_ms=self.standing.ends_ms,
            model=", ".join(model.name for model in models),
            model_digest=models[0].digest if models else "",
            model_state=_best_state(models),
            bootstrap=self.uplink.bootstrap or "",
            gateways=gateways,
            reach=self.reach(),
            draining=agent.draining,
            sandboxed=self.sandboxed,
            runtime_ready=any(model.loaded for model in models),
            runtime_restarts=sum(model.restarts for model in models),
            reproducible=any(getattr(model, "reproducible", False) for model in served),
            slots=load.slots,
            jobs_running=load.running,
            jobs_waiting=load.queued,
            jobs_done=agent.jobs_done,
            claims_waiting=len(self.owed.owed()),
            tokens_per_second=round(load.tokens_per_second, 1),
            steps=sum(model.steps for model in models),
            prefill_tokens=sum(model.prefill_tokens for model in models),
            cached_tokens=sum(model.cached_tokens for model in models),
            output_tokens=sum(model.output_tokens for model in models),
            earned=earnings.earned if earnings else None,
            earned_unmatured=earnings.unmatured_earned if earnings else None,
            models=models,
            hardware=describe_hardware(self.hardware()),
            memory_bytes_max=self.models.room.bytes_max,
            refused=refusals.counts.total(),
            refused_recently=refusals.recent(now_ms).total(),
            last_refusal=refusals.last_reason,
            opens_ms=None if agent.working else hours.opens_ms(now_ms),
            subclouds=self.subclouds(),
            wishes_ns=self.wishes_ns(),
            evidence=self.evidence(),
            isolated=agent.subclouds.isolated,
        )

    async def ask_earnings(self) -> EarningsStatement:
        """Ask the ledger what the account earned. Raises: P2PError."""
        request = EarningsRequest(self.account_id, secrets.token_bytes(16), self.clock_ms())
        signed = self.agent.key_pair.sign(self.agent.network, request)
        answer = await self.uplink.call(EARNINGS, encode_message(signed))
        return decode_message(answer, EarningsStatement)


def _look_at(served: Served) -> ModelStatus:
    facts, counters = served.facts, served.counters
    return ModelStatus(
        name=facts.name,
        digest=facts.digest.hex(),
        state=served.state.value,
        reason=served.reason,
        verified=facts.verified,
        loaded=served.ready,
        slots=served.slots,
        jobs=served.jobs,
        tokens_per_second=round(served.pace.output, 1),
        restarts=counters.restarts,
        loads=counters.loads,
        memory_bytes=counters.memory_bytes,
        steps=counters.steps,
        prefill_tokens=counters.prefill_tokens,
        cached_tokens=counters.cached_tokens,
        output_tokens=counters.output_tokens,
        **_runtime_fields(served),
    )


def _runtime_fields(served: Served) -> dict[str, Any]:
    """How its runtime runs it; nothing for another server's model, or while it is not loaded."""
    facts = served.runtime_facts if isinstance(served, LocalModel) else None
    if facts is None:
        return {}
    return {
        "mode": facts.mode,
        "threads": facts.threads,
        "gpu_layers": facts.gpu_layers,
        "build": facts.build,
        "step_costs_us": {str(cost.sequences): cost.microseconds for cost in facts.step_costs},
        "notes": facts.notes,
    }


def _best_state(models: tuple[ModelStatus, ...]) -> str:
    states = {model.state for model in models}
    order = ("active", "pending", "failed", "inactive", "archived")
    return next((state for state in order if state in states), "none")
