"""Owns the agent: what the sessions of one node share, and what it tells of itself."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict

import trio

from node.agent.admission_rules import NO_RULES, OperatorRules
from node.agent.attempt import DeliveryNotes
from node.agent.issuers import IssuerBook
from node.agent.job_pace import JobPace
from node.agent.payment import LeaseUse
from node.agent.refusal_log import RefusalLog
from node.agent.runtime_port import Models, ModelState, Served
from node.agent.sessions import JobSession
from node.agent.subcloud_port import Memberships, no_subclouds
from p2p.adverts import ModelAdvert
from p2p.allowed_terms import AllowedTerms
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.errors import P2PError
from p2p.job_messages import LoadReport
from p2p.limits import MODELS_PER_NODE_MAX
from p2p.link import Link
from p2p.membership import Membership
from p2p.network import Stream
from p2p.signing import KeyPair
from p2p.types import NetworkId

log = logging.getLogger(__name__)


class Agent:
    """Everything that the sessions of one node share."""

    def __init__(
        self,
        *,
        key_pair: KeyPair,
        network: NetworkId,
        membership: Membership,
        configuration: ConfigurationBook,
        models: Models,
        queue_jobs_max: int,
        clock_ms: Clock,
        accept_leases: bool = True,
        rules: OperatorRules = NO_RULES,
        cache_shared: str = "account",
        subclouds: Memberships | None = None,
    ) -> None:
        """Serve `models`, each with at most `queue_jobs_max` jobs that wait for a slot."""
        self.key_pair = key_pair
        self.network = network
        self.membership = membership
        self.configuration = configuration
        self.terms = AllowedTerms(lambda: configuration.current)
        self.models = models
        self.queue_jobs_max = queue_jobs_max
        self.clock_ms = clock_ms
        self.issuers = IssuerBook(network, membership, configuration)
        self.leases = LeaseUse(clock_ms)
        self.claims: DeliveryNotes | None = None
        self.accept_leases = accept_leases
        self.rules = rules
        self.cache_shared = cache_shared
        self.subclouds = subclouds or no_subclouds()
        self.hours = rules.hours()
        self.paces: defaultdict[bytes, JobPace] = defaultdict(JobPace)
        self.refusals = RefusalLog()
        self.draining = False
        self.jobs = 0
        self.jobs_done = 0
        self.subcloud_jobs: Counter[str] = Counter()
        """Jobs (each choice one) of each subcloud, from their acceptance on."""
        self._load_changed = trio.Event()

    @property
    def working(self) -> bool:
        """Whether it takes jobs at this time of the week."""
        return self.hours.is_open(self.clock_ms())

    def adverts(self) -> tuple[ModelAdvert, ...]:
        """What may be advertised now."""
        if not self.working:
            return ()
        adverts = (served.advert() for served in self.models.all())
        return tuple(advert for advert in adverts if advert is not None)[:MODELS_PER_NODE_MAX]

    def load(self) -> LoadReport:
        """The load as it is told to gateways: over all models that are active."""
        active = [served for served in self.models.all() if served.state is ModelState.ACTIVE]
        slots = sum(served.slots for served in active)
        running = sum(min(served.jobs, served.slots) for served in self.models.all())
        accepting = bool(active) and not self.draining and self.working
        speed = float(sum(served.pace.output for served in active))
        return LoadReport(running, max(0, self.jobs - running), slots, speed, accepting)

    def deadline_left_s(self, deadline_ms: int) -> float:
        """How long until a deadline; never negative."""
        return max(0.0, (deadline_ms - self.clock_ms()) / 1000)

    def count_jobs(self, change: int, *, done: bool = False) -> None:
        """A job came or went; `done`: it was worked on, and not just refused."""
        self.jobs += change
        self.jobs_done += done
        self.load_changed()

    def count_work(self, served: Served, subcloud_id: str, change: int) -> None:
        """So many choices began or ended on a model, for a subcloud or the global pool."""
        served.count(change)
        if subcloud_id:
            self.subcloud_jobs[subcloud_id] += change
            if not self.subcloud_jobs[subcloud_id]:
                del self.subcloud_jobs[subcloud_id]

    def load_changed(self) -> None:
        """Have all sessions tell their gateways soon."""
        self._load_changed.set()
        self._load_changed = trio.Event()

    @property
    def load_change(self) -> trio.Event:
        """Set at the next change (take it before you look at the load)."""
        return self._load_changed

    def pace_of(self, served: Served) -> JobPace:
        """What was learnt from the jobs of a model."""
        return self.paces[served.facts.digest]

    async def serve(self, stream: Stream) -> None:
        """Serve one gateway's session until it ends (a `StreamHandler`)."""
        log.info("session with gateway %s opened", stream.remote)
        try:
            await JobSession(self, Link(stream)).run()
        except P2PError as error:
            log.info("session with gateway %s ended: %s", stream.remote, error)
