"""Owns the look at a node's pieces: from them to one status."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass

from node.agent.model_state import ServedModel
from node.agent.sessions import Agent
from node.claims.journal import OwedJournal
from node.joining import NodeStanding
from node.observation.status import NodeStatus
from node.runtime_process import RuntimeProcess
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.ledger_messages import EARNINGS, EarningsRequest, EarningsStatement
from p2p.types import AccountId
from p2p.uplink import Uplink


@dataclass(frozen=True, slots=True)
class NodeView:
    """The pieces of a running node."""

    agent: Agent
    served: ServedModel
    runtime: RuntimeProcess
    uplink: Uplink
    owed: OwedJournal
    standing: NodeStanding
    account_id: AccountId
    sandboxed: bool
    started_ms: int
    clock_ms: Clock

    def look(self, gateways: int, earnings: EarningsStatement | None) -> NodeStatus:
        """Give the status now; `gateways` are the open sessions."""
        agent, stats, load = self.agent, self.runtime.stats, self.agent.load()
        facts = self.runtime.facts
        return NodeStatus(
            network=agent.network,
            peer_id=agent.key_pair.peer_id,
            account_id=self.account_id,
            pid=os.getpid(),
            started_ms=self.started_ms,
            at_ms=self.clock_ms(),
            certificate_expires_ms=self.standing.ends_ms,
            model=self.served.file.name,
            model_digest=self.served.file.digest.hex(),
            model_state=self.served.state.value,
            bootstrap=self.uplink.bootstrap or "",
            gateways=gateways,
            draining=agent.draining,
            sandboxed=self.sandboxed,
            runtime_ready=self.runtime.ready,
            runtime_restarts=self.runtime.restarts,
            reproducible=facts.reproducible,
            slots=facts.slots,
            jobs_running=load.running,
            jobs_waiting=load.queued,
            jobs_done=agent.jobs_done,
            claims_waiting=len(self.owed.owed()),
            tokens_per_second=round(stats.tokens_per_second, 1),
            steps=stats.steps,
            prefill_tokens=stats.prefill_tokens,
            cached_tokens=stats.cached_tokens,
            output_tokens=stats.output_tokens,
            earned=earnings.earned if earnings else None,
            earned_unmatured=earnings.unmatured_earned if earnings else None,
        )

    async def ask_earnings(self) -> EarningsStatement:
        """Ask the ledger what the account earned. Raises: P2PError."""
        request = EarningsRequest(self.account_id, secrets.token_bytes(16), self.clock_ms())
        signed = self.agent.key_pair.sign(self.agent.network, request)
        answer = await self.uplink.call(EARNINGS, encode_message(signed))
        return decode_message(answer, EarningsStatement)
