"""Owns the state of the node's model: when it may be served.

- pending: the runtime has not passed the test inference yet (at the start, or after a restart)
- active: approved by the configuration in force, and the test inference passed
- inactive: the configuration does not approve it (any more)
- failed: the test inference failed; it is tried again
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable

import trio

from node.errors import NodeError
from node.limits import MODEL_CHECK_INTERVAL_S
from node.model_file import ModelFile
from node.runtime_process import RuntimeProcess
from p2p.adverts import ModelAdvert
from p2p.configuration_book import ConfigurationBook

log = logging.getLogger(__name__)


class ModelState(enum.StrEnum):
    """Where the model stands (see the module's docstring)."""

    PENDING = "pending"
    ACTIVE = "active"
    INACTIVE = "inactive"
    FAILED = "failed"


class ServedModel:
    """The one model of this node, watched."""

    def __init__(
        self,
        file: ModelFile,
        runtime: RuntimeProcess,
        configuration: ConfigurationBook,
        *,
        on_change: Callable[[], None],
    ) -> None:
        """Begin as pending; `on_change` is called after every change of state."""
        self.file = file
        self.state = ModelState.PENDING
        self._runtime = runtime
        self._configuration = configuration
        self._on_change = on_change
        self._proved_restarts = -1

    @property
    def active(self) -> bool:
        """Whether jobs may run on it now."""
        proved = self._proved_restarts == self._runtime.restarts
        return self.state is ModelState.ACTIVE and self._runtime.ready and proved

    def adverts(self) -> tuple[ModelAdvert, ...]:
        """What to advertise now."""
        approved = self._configuration.current.model_with_digest(self.file.digest)
        if not self.active or approved is None:
            return ()
        facts = self._runtime.facts
        return (
            ModelAdvert(
                name=approved.name,
                digest=self.file.digest,
                model_id=self.file.model_id,
                context_tokens=min(facts.context_tokens, approved.context_tokens),
                quantisation=self.file.quantisation,
                slots=facts.slots,
                tasks=("chat",),
                modalities=("text",),
            ),
        )

    async def prove(self) -> None:
        """Run the test inference once. Raises: NodeError if it fails."""
        restarts = self._runtime.restarts
        await self._runtime.self_test()
        self._proved_restarts = restarts

    async def watch(self) -> None:
        """Keep the state true until cancelled."""
        while True:
            self._become(await self._judge())
            await trio.sleep(MODEL_CHECK_INTERVAL_S)

    def _become(self, state: ModelState) -> None:
        if state is not self.state:
            log.info("model %s: %s -> %s", self.file.name, self.state, state)
            self.state = state
            self._on_change()

    async def _judge(self) -> ModelState:
        if self._configuration.current.model_with_digest(self.file.digest) is None:
            return ModelState.INACTIVE
        if not self._runtime.ready:
            return ModelState.PENDING
        if self._proved_restarts == self._runtime.restarts:
            return ModelState.ACTIVE
        if self.state is ModelState.ACTIVE:
            self._become(ModelState.PENDING)  # it restarted between two looks
        try:
            await self.prove()
        except NodeError as error:
            log.warning("the test inference failed: %s", error)
            return ModelState.FAILED
        return ModelState.ACTIVE
