"""Owns one model file that this node serves: loaded when it is needed, proved, watched, unloaded.

Theory of operation. `run` loads the model when an offer needs it (or at once, if it is expected to
be there from the start), and stays with it until it leaves: because another model needs the memory,
because it may not be served any more, or because its file has changed. A loaded model is proved by
a test inference, again after each restart of its runtime; what is not loaded is active if nothing
speaks against it, and is proved before its first job. Before every start of a runtime the file is
compared with what was verified. What failed is tried again, after a pause that doubles.

The state is not kept but judged (`node.serving.judging`), so that it is true at any moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from node.agent.admission_rules import OperatorRules
from node.agent.runtime_port import ModelCounters, ModelFacts, ModelPace, ModelState, Runtime
from node.errors import NodeError
from node.limits import MODEL_CHECK_INTERVAL_S
from node.runtime_messages import RuntimeFacts
from node.runtime_process import RuntimeProcess
from node.serving.facts import make_advert
from node.serving.judging import Signs, judge
from node.serving.loading_time import guessed_load_s, too_slow
from node.serving.memory import Loaded
from node.serving.room import MemoryFullError, Room
from node.serving.runtime_plan import RuntimePlan
from node.serving.shelf import ModelShelf, ShelfModel
from node.serving.standing import OwnModel, Standing, StandingBook, no_own_model
from node.serving.trouble import Trouble
from node.serving.usage import ModelUsage
from p2p.adverts import ModelAdvert
from p2p.configuration_book import ConfigurationBook
from p2p.errors import RefusedError

log = logging.getLogger(__name__)


class LocalModel:
    """One model file (a `node.agent.runtime_port.Served`)."""

    def __init__(
        self,
        kept: ShelfModel,
        shelf: ModelShelf,
        plan: RuntimePlan,
        configuration: ConfigurationBook,
        room: Room,
        *,
        rules: OperatorRules,
        expected: bool,
        on_change: Callable[[], None],
        own_model: OwnModel = no_own_model,
    ) -> None:
        """Begin unloaded.

        Args:
            plan: how its runtimes are made.
            expected: to be loaded at the start, without waiting for an offer.
            on_change: called after every change of state. own_model: as `StandingBook`.
        """
        self.kept = kept
        self.jobs = 0
        self.expected = expected
        self._shelf = shelf
        self._plan = plan
        self._standings = StandingBook(configuration, rules, own_model)
        self._room = room
        self._on_change = on_change
        self._state_seen = ModelState.PENDING
        self._state_noted = kept.state
        self._process: RuntimeProcess | None = None
        self._proved_restarts = -1
        self._wanted = expected
        self._gently = False
        self._leaving = False
        self._retired = False
        self._trouble = Trouble()
        self._tries = 0
        self._try_error: NodeError | None = None
        self._load_s = 0.0
        self._usage = ModelUsage()
        self._was_ready = False
        self._used_at_s = 0.0
        self._changed = trio.Event()

    # --- what others see ------------------------------------------------------------------------
    @property
    def facts(self) -> ModelFacts:
        """What it is, under the network's name for it."""
        return self._standing().facts

    @property
    def state(self) -> ModelState:
        """Where it stands now."""
        return self._judgement()[0]

    @property
    def reason(self) -> str:
        """Why it stands there."""
        return self._judgement()[1]

    @property
    def ready(self) -> bool:
        """Whether its runtime is there, proved, and stays."""
        process = self._process
        if process is None or self._leaving or not process.ready:
            return False
        return self._proved_restarts == process.restarts

    @property
    def reproducible(self) -> bool:
        """Whether its answers do not depend on what else is in the batch."""
        return self._process is not None and self._process.facts.reproducible

    @property
    def runtime_facts(self) -> RuntimeFacts | None:
        """What its runtime said of itself; None while it is not loaded."""
        return self._process.facts if self._process is not None else None

    @property
    def slots(self) -> int:
        """Jobs that run at once."""
        return self._process.facts.slots if self._process else self._plan.slots

    @property
    def pace(self) -> ModelPace:
        """What its runtime measures."""
        output = self._process.stats.tokens_per_second if self._process else 0.0
        return ModelPace(output=output)

    @property
    def counters(self) -> ModelCounters:
        """What its runtimes did."""
        return self._usage.counters(self._process)

    def advert(self) -> ModelAdvert | None:
        """What to advertise; None unless it is active."""
        approved = self._standing().approved
        if approved is None or self.state is not ModelState.ACTIVE:
            return None
        context_tokens = self._plan.context_tokens(self.kept)
        mode = ""
        if self._process is not None:
            context_tokens = self._process.facts.context_tokens
            mode = self._process.facts.mode
        return make_advert(
            self.facts, approved, context_tokens=context_tokens, slots=self.slots, mode=mode
        )

    def loaded(self) -> Loaded | None:
        """What it takes of the memory."""
        if not self._usage.held_bytes:
            return None
        # On its way in it has no jobs to lose, but those that wait for it.
        jobs = self.jobs if self._process else max(1, self.jobs)
        return Loaded(self.kept.file.digest, self._usage.held_bytes, jobs, self._used_at_s)

    # --- what the agent does ----------------------------------------------------------------------
    def count(self, change: int) -> None:
        """A job came or went."""
        self.jobs += change
        self._used_at_s = trio.current_time()
        if not self.jobs:
            self._tell()

    async def runtime(self, wait_s: float) -> Runtime:
        """Give the runtime, loaded if the time allows. Raises: RefusedError."""
        if self.ready and self._process is not None:
            return self._process
        self._check_active()
        name, tries = self.facts.name, self._tries
        expected_s = self._load_s or guessed_load_s(self.kept.file.size_bytes)
        if expected_s > wait_s:
            self._want(gently=True)  # if nobody has to leave for it, later offers find it
            raise too_slow(name, expected_s, wait_s)
        self._want()
        with trio.move_on_after(wait_s):
            while True:
                change = self._changed
                if self.ready and self._process is not None:
                    return self._process
                if self._tries > tries and isinstance(self._try_error, MemoryFullError):
                    raise RefusedError("busy", f"{name} cannot be loaded: {self._try_error}", 1.0)
                self._check_active()
                await change.wait()
        raise RefusedError("deadline", f"{name} was not loaded within {wait_s:.1f} s", 1.0)

    def _check_active(self) -> None:
        state, reason = self._judgement()
        if state is not ModelState.ACTIVE:
            raise RefusedError("runtime", f"{self.facts.name} is {state}: {reason}", 1.0)

    # --- what the node does -----------------------------------------------------------------------
    async def run(self) -> None:
        """Load, watch and unload until cancelled or retired."""
        self._room.join(self)
        try:
            while not self._retired:
                await self._note_state()
                if self._must_load():
                    await self._load()
                    continue
                with trio.move_on_after(MODEL_CHECK_INTERVAL_S):
                    await self._changed.wait()
        finally:
            self._room.leave(self)

    async def first(self) -> None:
        """Wait until the first load has succeeded. Raises: NodeError with the reason if not."""
        while not self.ready:
            if self._try_error is not None:
                raise self._try_error
            await self._changed.wait()

    async def unload(self) -> None:
        """Leave the memory, and return when it is free."""
        self._leaving = True
        self._tell()
        while self._usage.held_bytes:
            await self._changed.wait()

    def retire(self) -> None:
        """It is no longer kept: finish the jobs, then end `run`."""
        self._retired = True
        self.update(ShelfModel(self.kept.file, ModelState.ARCHIVED, "it was removed"))

    def update(self, kept: ShelfModel) -> None:
        """The shelf says something new of it."""
        if kept != self.kept:
            self.kept, self._state_noted = kept, kept.state
            if kept.state not in (ModelState.FAILED, ModelState.ARCHIVED):
                self._trouble.clear()  # it was verified, or taken back
            self._tell()

    # --- one load ---------------------------------------------------------------------------------
    async def _load(self) -> None:
        gently = self._gently or bool(self._trouble.reason)
        self._wanted = self._leaving = self._gently = False
        began_s = trio.current_time()
        try:
            await self._verify()
            estimate = await trio.to_thread.run_sync(
                self._plan.estimated_bytes, self.kept, abandon_on_cancel=True
            )
            self._usage.expect(estimate)
            await self._room.make(self._usage.expected_bytes, gently=gently)
            self._usage.held_bytes = self._usage.expected_bytes
            await self._with_runtime(began_s)
        except MemoryFullError as error:
            log.info("model %s is not loaded: %s", self.facts.name, error)
            self._try_error = error
            self._trouble.later(trio.current_time())
            self._was_ready = True  # from now on it is loaded when a job needs it
        except NodeError as error:
            self._try_error = error
            self._trouble.note(str(error), trio.current_time())
            log.error("model %s: %s", self.facts.name, error)
        finally:
            self._usage.held_bytes = 0
            self._process = None
            self._tries += 1
            self._tell()

    async def _with_runtime(self, began_s: float) -> None:
        """Start a runtime, prove it, and watch it until it leaves. Raises: NodeError."""
        process = self._plan.make(self.kept, self._verify)
        ended: list[NodeError] = []
        async with trio.open_nursery() as nursery:

            async def keep(
                *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
            ) -> None:
                try:
                    await process.run(task_status=task_status)
                except NodeError as error:
                    if self._process is None:
                        raise  # to whoever waits for the start
                    ended.append(error)
                    nursery.cancel_scope.cancel()

            try:
                await nursery.start(keep)
                self._process = process
                self._proved_restarts = -1
                self._usage.begin()
                await self._watch(process, began_s)
            except NodeError as error:
                ended.append(error)
            nursery.cancel_scope.cancel()
        self._usage.end(process)
        if ended:
            raise ended[0]

    async def _watch(self, process: RuntimeProcess, began_s: float) -> None:
        """Keep what is known of a runtime true. Raises: NodeError if its first proof fails."""
        proved = False
        while not (self._leaving or self._is_unwelcome()):
            if process.ready and self._proved_restarts != process.restarts:
                try:
                    await self._prove(process)
                except NodeError as error:
                    if not proved:
                        raise
                    log.warning("the test inference failed: %s", error)
                    self._trouble.note(str(error), trio.current_time())
                else:
                    if not proved:
                        proved, self._load_s = True, trio.current_time() - began_s
                        log.info("model %s is loaded (%.1f s)", self.facts.name, self._load_s)
            await self._usage.measure(process)
            await self._note_state()
            change = self._changed
            if not self._leaving:
                with trio.move_on_after(MODEL_CHECK_INTERVAL_S):
                    await change.wait()

    async def _prove(self, process: RuntimeProcess) -> None:
        restarts = process.restarts
        await process.self_test()
        self._proved_restarts = restarts
        self._was_ready = True
        self._trouble.clear()
        self._try_error = None
        self._tell()

    async def _verify(self) -> None:
        """Compare the file with what was verified. Raises: ModelFileError."""
        self.kept = await trio.to_thread.run_sync(
            self._shelf.verify_unchanged, self.kept, abandon_on_cancel=True
        )

    # --- judging ----------------------------------------------------------------------------------
    def _standing(self) -> Standing:
        return self._standings.of(self.kept.file, self.runtime_facts)

    def _judgement(self) -> tuple[ModelState, str]:
        standing = self._standing()
        signs = Signs(
            shelf_state=self.kept.state,
            shelf_reason=self.kept.reason,
            configured=self._standings.configured,
            approved=standing.approved is not None and bool(standing.facts.tasks),
            rules_reason=standing.rules_reason,
            failure=self._trouble.reason,
            loaded=self._process is not None and self._was_ready,
            ready=self.ready,
            expected=self.expected and not self._was_ready,
        )
        return judge(signs)

    def _must_load(self) -> bool:
        if self._is_unwelcome() or self._retired:
            return False
        if self._trouble.reason:
            return trio.current_time() >= self._trouble.retry_at_s
        return self._wanted

    def _is_unwelcome(self) -> bool:
        """Whether it should not be in memory: it may not be served, and nothing runs on it."""
        state = self.state
        if self.jobs or (state is ModelState.INACTIVE and self.expected and not self._retired):
            return False  # a configuration may come back
        shelved = self.kept.state in (ModelState.FAILED, ModelState.ARCHIVED)
        return shelved or state is ModelState.INACTIVE

    def _want(self, *, gently: bool = False) -> None:
        self._gently = gently and (self._gently or not self._wanted)
        self._wanted = True
        self._try_error = None
        self._tell()

    async def _note_state(self) -> None:
        state, reason = self._judgement()
        if state is not self._state_seen:
            log.info("model %s: %s -> %s %s", self.facts.name, self._state_seen, state, reason)
            self._state_seen = state
            self._on_change()
        proved = state is ModelState.ACTIVE and self._was_ready
        if state is not self._state_noted and (proved or state is ModelState.INACTIVE):
            self._state_noted = state
            await trio.to_thread.run_sync(self._shelf.note, self.kept, state, reason)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
