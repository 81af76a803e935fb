"""Owns the node's settings: one frozen value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from node.agent.admission_rules import NO_RULES, OperatorRules
from node.agent.cache_sharing import CACHE_SHARED
from node.limits import CONTEXT_TOKENS_MAX, MODES, SLOTS_MAX
from node.runtime_command import check_gpu_layers
from node.sandbox import SANDBOX_MODES
from node.subclouds.settings import NO_SUBCLOUDS, SubcloudSettings, check_country
from node.upstream.names import model_names, server_root
from p2p.errors import MalformedError
from p2p.listening import listens_not
from p2p.reaching.hidden_modes import HIDDEN_MODES
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
        mode: `reproducible` answers do not depend on what else is computed, `throughput` is faster
            where prompts are long; `auto` is reproducible on a CPU and throughput on a GPU.
        gpu_layers: a number, or `auto`: as many as fit.
        hidden: `auto` finds out whether others can dial this node, `yes` and `no` do as they say.
        announce: multiaddresses that others are told to dial instead of what is listened on.
        runtime_command: starts another runtime (tests); None starts ours with the model.
        upstream: address of another server (vLLM, llama-server, Ollama, LM Studio, any
            OpenAI-compatible one) whose models are offered as unverified ones.
        upstream_models: which of them: `NAME`, or `NAME=NETWORK_NAME`; none: all that the network
            lists by name.
        upstream_key_file: holds the server's key; only its owner may read it.
        upstream_slots, upstream_context_tokens, upstream_images, upstream_tools: declared instead
            of asked for or tried out; a shorter context that the server tells wins.
        upstream_image_urls: pass on addresses of images, which the server then fetches.
        models_dir, models_disk_bytes_max, hub_endpoint, hub_token_file: of the model store
            (node.store.settings says what they mean).
        cache_shared: whose prompts may share what they begin with: requests of one `account` at one
            gateway, of `all`, or of nobody (`off`).

        pre_shared_key_file: the key of a network of one's own; None: the network has none.
        rules: what the operator takes of what the network allows (node.agent.admission_rules).
        preload: names (patterns) of models in the store that are loaded at the start; the others
            are loaded when a job needs them. The file of `model` always is.
        memory_bytes_max: what all loaded models may take together; None: a share of the machine's
            memory, and no limit for a single model.
        country: where the machine stands (ISO 3166-1 alpha-2), as its operator declares it to
            subclouds; empty: not said.
        stores_no_content: the operator's promise that nothing of prompts and answers is kept here,
            by this node or by what runs its models.
        subclouds: which subclouds the node joins by itself (node.subclouds.settings).

    Raises: MalformedError for values that cannot work.
    """

    data_dir: Path
    network: str
    bootstraps: tuple[str, ...]
    model: Path | None = None
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
    mode: str = "auto"
    gpu_layers: str = "auto"
    hidden: str = "auto"
    announce: tuple[str, ...] = ()
    runtime_command: tuple[str, ...] | None = None
    upstream: str | None = None
    upstream_models: tuple[str, ...] = ()
    upstream_key_file: Path | None = None
    upstream_slots: int | None = None
    upstream_context_tokens: int | None = None
    upstream_images: bool | None = None
    upstream_tools: bool | None = None
    upstream_image_urls: bool = False
    models_dir: Path | None = None
    models_disk_bytes_max: int | None = None
    hub_endpoint: str | None = None
    hub_token_file: Path | None = None
    cache_shared: str = "account"
    rules: OperatorRules = NO_RULES
    preload: tuple[str, ...] = ()
    memory_bytes_max: int | None = None
    country: str = ""
    stores_no_content: bool = False
    subclouds: SubcloudSettings = NO_SUBCLOUDS
    pre_shared_key_file: Path | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without touching the machine."""
        parse_network_id(self.network)
        if not self.bootstraps:
            raise MalformedError("a node needs the address of at least one bootstrap")
        for name, value, most in (
            ("slots", self.slots, SLOTS_MAX),
            ("context_tokens", self.context_tokens, CONTEXT_TOKENS_MAX),
            ("threads", self.threads, 1024),
            ("upstream_slots", self.upstream_slots, SLOTS_MAX),
            ("upstream_context_tokens", self.upstream_context_tokens, CONTEXT_TOKENS_MAX),
        ):
            if value is not None and not 1 <= value <= most:
                raise MalformedError(f"{name} must be from 1 to {most}, not {value}")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65_535:
            raise MalformedError(f"metrics_port must be from 0 to 65535, not {self.metrics_port}")
        if not 0 <= self.drain_s <= 3600:
            raise MalformedError("drain_s must be from 0 to 3600")
        if self.sandbox not in SANDBOX_MODES:
            raise MalformedError(f"sandbox must be one of {', '.join(SANDBOX_MODES)}")
        if self.mode not in MODES:
            raise MalformedError(f"mode must be one of {', '.join(MODES)}")
        check_gpu_layers(self.gpu_layers)
        if self.cache_shared not in CACHE_SHARED:
            raise MalformedError(f"cache_shared must be one of {', '.join(CACHE_SHARED)}")
        if self.memory_bytes_max is not None and self.memory_bytes_max < 1:
            raise MalformedError("memory_bytes_max must be at least 1")
        check_country(self.country)
        model_names(self.upstream_models)
        if self.upstream is not None:
            server_root(self.upstream)
        elif self.upstream_models or self.upstream_key_file is not None:
            raise MalformedError("upstream is missing: the address of the server")
        if self.hidden not in HIDDEN_MODES:
            raise MalformedError(f"hidden must be one of {', '.join(HIDDEN_MODES)}")
        if self.hidden == "no" and listens_not(self.listen):
            raise MalformedError("a node that does not listen is hidden: hidden cannot be no")
        if not 0 <= self.queue_jobs_max <= 10_000:
            raise MalformedError("queue_jobs_max must be from 0 to 10000")

    @property
    def network_id(self) -> NetworkId:
        """The network's ID, checked."""
        return parse_network_id(self.network)
