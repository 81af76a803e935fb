"""Owns the node's settings: one frozen value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from node.limits import CONTEXT_TOKENS_MAX, SLOTS_MAX
from node.sandbox import SANDBOX_MODES
from p2p.errors import MalformedError
from p2p.types import NetworkId, parse_network_id


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What an operator decides.

    Attributes:
        network: the network's ID, as its operator published it; never learned from a peer.
        bootstraps: multiaddresses that end in `/p2p/<peer ID>`.
        slots, context_tokens, threads: of the runtime; None lets it decide.
        queue_jobs_max: jobs that may wait for a slot.
        account_file: the account that the node works for; None makes one in the data folder.
        invite_file: an invite, if the network opens accounts by invite and has not this one yet.
        accept_leases: whether jobs may be paid from a gateway's lease; if not, each needs a voucher
            of the ledger's own.
        drain_s: how long running jobs may take when the node is asked to end.
        metrics_port: where Prometheus finds metrics, on the loopback (0: any free port); None: no
            metrics.
        sandbox: `auto` keeps the runtime from the network where the system can, `require` does not
            start where it cannot, `off` does not try.
        runtime_command: starts another runtime (tests); None starts ours with the model.

    Raises: MalformedError for values that cannot work.
    """

    data_dir: Path
    network: str
    bootstraps: tuple[str, ...]
    model: Path
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    slots: int | None = None
    context_tokens: int | None = None
    threads: int | None = None
    queue_jobs_max: int = 16
    account_file: Path | None = None
    invite_file: Path | None = None
    accept_leases: bool = True
    drain_s: float = 30.0
    metrics_port: int | None = None
    sandbox: str = "auto"
    runtime_command: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without touching the machine."""
        parse_network_id(self.network)
        if not self.bootstraps:
            raise MalformedError("a node needs the address of at least one bootstrap")
        for name, value, most in (
            ("slots", self.slots, SLOTS_MAX),
            ("context_tokens", self.context_tokens, CONTEXT_TOKENS_MAX),
            ("threads", self.threads, 1024),
        ):
            if value is not None and not 1 <= value <= most:
                raise MalformedError(f"{name} must be from 1 to {most}, not {value}")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65_535:
            raise MalformedError(f"metrics_port must be from 0 to 65535, not {self.metrics_port}")
        if not 0 <= self.drain_s <= 3600:
            raise MalformedError("drain_s must be from 0 to 3600")
        if self.sandbox not in SANDBOX_MODES:
            raise MalformedError(f"sandbox must be one of {', '.join(SANDBOX_MODES)}")
        if not 0 <= self.queue_jobs_max <= 10_000:
            raise MalformedError("queue_jobs_max must be from 0 to 10000")

    @property
    def network_id(self) -> NetworkId:
        """The network's ID, checked."""
        return parse_network_id(self.network)
