"""Owns what the node tells the network about itself: gossip adverts and the DHT record.

Theory of operation. Adverts go out at a slow heartbeat and at once when something changes (active,
draining, addresses). The DHT gets the same statement with a long life: records there stay for a day
or two whatever happens, so it says who might serve a model and where to dial, never who is alive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from node.limits import DIRECTORY_ADVERT_LIFETIME_S, DIRECTORY_INTERVAL_S, DIRECTORY_RETRY_S
from p2p.adverts import Advert, ModelAdvert, advert_key, advert_topic, model_key
from p2p.clock import Clock
from p2p.codec import encode_message
from p2p.errors import P2PError
from p2p.hardware import Hardware
from p2p.limits import ADDRESSES_MAX, ADVERT_INTERVAL_S, ADVERT_LIFETIME_S, CALL_TIMEOUT_S
from p2p.membership import Membership
from p2p.network import Network
from p2p.signing import Signed

log = logging.getLogger(__name__)


class Advertiser:
    """Says what this node serves, for as long as it does."""

    def __init__(
        self,
        network: Network,
        membership: Membership,
        models: Callable[[], tuple[ModelAdvert, ...]],
        *,
        software: str,
        clock_ms: Clock,
    ) -> None:
        """`models` gives the models that are active at the moment."""
        self.draining = False
        self.where: Callable[[], tuple[tuple[str, ...], str]] = lambda: (network.addresses(), "")
        """The addresses and the `reach` to say (`node.reaching`)."""
        self.hardware: Callable[[], Hardware | None] = lambda: None
        """What to say of the machine (`node.hardware`)."""
        self._network = network
        self._membership = membership
        self._models = models
        self._software = software
        self._clock_ms = clock_ms
        self._sequence = 0
        self._changed = trio.Event()

    def changed(self) -> None:
        """Publish soon: something is different now."""
        self._changed.set()

    def advert(self, lifetime_s: float = ADVERT_LIFETIME_S) -> Signed:
        """Sign what is true at this moment."""
        now_ms = self._clock_ms()
        # Time-based and monotone: a restarted node goes on above its old sequence numbers.
        self._sequence = max(self._sequence + 1, now_ms)
        addresses, reach = self.where()
        document = Advert(
            peer_id=self._membership.key_pair.peer_id,
            sequence=self._sequence,
            issued_ms=now_ms,
            expires_ms=now_ms + int(lifetime_s * 1000),
            chain=self._membership.chain,
            addresses=addresses[:ADDRESSES_MAX],
            models=() if self.draining else self._models(),
            software=self._software,
            draining=self.draining,
            reach=reach,
            hardware=self.hardware(),
        )
        return self._membership.key_pair.sign(self._network.network_id, document)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publish until cancelled; then withdraw."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_directory)
            task_status.started()
            try:
                while True:
                    await self._publish()
                    with trio.move_on_after(ADVERT_INTERVAL_S):
                        await self._changed.wait()
                    self._changed = trio.Event()
            finally:
                self.draining = True
                with trio.move_on_after(1) as scope:
                    scope.shield = True
                    await self._publish()

    async def _publish(self) -> None:
        try:
            await self._network.publish(advert_topic(), encode_message(self.advert()))
        except P2PError as error:
            log.warning("advert not published: %s", error)

    async def _keep_directory(self) -> None:
        while True:
            registered = await self._register()
            await trio.sleep(DIRECTORY_INTERVAL_S if registered else DIRECTORY_RETRY_S)

    async def _register(self) -> bool:
        models = self._models()
        if not models:
            return False
        try:
            with trio.fail_after(CALL_TIMEOUT_S):
                record = self.advert(DIRECTORY_ADVERT_LIFETIME_S)
                await self._network.put_record(
                    advert_key(self._network.local), encode_message(record)
                )
                for model in models:
                    await self._network.provide(model_key(model.digest))
        except (P2PError, trio.TooSlowError) as error:
            log.info("not in the directory yet: %s", error)
            return False
        return True
